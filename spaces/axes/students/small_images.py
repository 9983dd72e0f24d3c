"""Networks made for large images, fitted to small ones: a stem that keeps the resolution, no stride that uses it up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL_IMAGE = 64
"""Images with a side shorter than this, in pixels, keep their resolution through the stem."""

SMALLEST_SIDE = 2
"""No stride makes an image smaller than this, in pixels: a 3x3 kernel on one pixel wastes eight of nine weights."""


def fit_to_images(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Change a network in place so that it takes images of this shape and keeps what resolution they have.

    Args:
        network: Takes images of three channels; its first convolution is replaced by one with fresh weights.
        input_shape: Shape of one input, (channels, height, width).
    """
    _adapt_stem(network, input_shape[0], keep_resolution=min(input_shape[1:]) < SMALL_IMAGE)
    _drop_late_strides(network, torch.zeros(1, *input_shape))


def _adapt_stem(network: nn.Module, channels: int, *, keep_resolution: bool) -> None:
    """Replace the first convolution; for small images without its stride, and without the max-pooling after it."""
    layers = [item for item in network.named_modules() if isinstance(item[1], (nn.Conv2d, nn.MaxPool2d))]
    (name, first), (next_name, next_layer) = layers[:2]
    if not isinstance(first, nn.Conv2d):
        raise TypeError(f"the first layer must be a convolution, not {type(first).__name__}")
    kernel = min(first.kernel_size[0], 3) if keep_resolution else first.kernel_size[0]
    stride = 1 if keep_resolution else first.stride[0]
    has_bias = first.bias is not None
    stem = nn.Conv2d(channels, first.out_channels, kernel, stride, padding=kernel // 2, bias=has_bias)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, stem)
    if keep_resolution and isinstance(next_layer, nn.MaxPool2d):
        network.set_submodule(next_name, nn.Identity())


def _drop_late_strides(network: nn.Module, example: Tensor) -> None:
    """Drop the strides of those layers whose output would be too small; parallel branches see one size.

    A convolution gets the stride 1, a max-pooling goes: without its stride it would only blur.
    """
    pools: set[nn.Module] = set()

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if min(inputs[0].shape[2:]) >= 2 * SMALLEST_SIDE:
            return
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        elif isinstance(layer, nn.MaxPool2d):
            layer.kernel_size = layer.stride = 1  # for the rest of this pass
            pools.add(layer)

    # squeeze-and-excitation works on one pixel by design, but its convolutions have no stride
    strided = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]
    handles = [layer.register_forward_pre_hook(look) for layer in strided]
    network.eval()
    with torch.no_grad():
        network(example)
    network.train()
    for handle in handles:
        handle.remove()
    for name in [name for name, layer in network.named_modules() if layer in pools]:
        network.set_submodule(name, nn.Identity())
