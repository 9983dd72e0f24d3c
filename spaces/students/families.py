"""Student architectures of torchvision, untrained, fitted to the task's inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

from ..sparsity.channels import remove_channels

SMALL_IMAGE = 64
"""Images with a side shorter than this, in pixels, keep their resolution through the stem."""

SMALLEST_SIDE = 2
"""No stride makes an image smaller than this, in pixels: a 3x3 kernel on one pixel wastes eight of nine weights."""

BATCH_NORM_MOMENTUM = 0.1
"""MobileNetV3 comes with 0.01, whose averages lag behind the weights throughout a training of a few hundred steps."""

Builder = Callable[[float, int], nn.Module]
"""Maps (width, outputs) to a network for three-channel images."""


def build_family(name: str, *, width: float, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return an untrained network of a family; its weights follow torch's global random generator.

    Args:
        name: One of ``FAMILIES``.
        width: Multiplier of the channels, above 0; at most 1 for families without a multiplier of their own.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.

    Raises:
        ValueError: On an unknown name, a width without meaning, or an input that is not an image.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown family {name!r}: expected one of {', '.join(BUILDERS)}")
    if not width > 0.0 or (name in _FULL_WIDTH_ONLY and width > 1.0):
        bound = "0 < width <= 1" if name in _FULL_WIDTH_ONLY else "width > 0"
        raise ValueError(f"width of {name}: expected {bound}, got {width}")
    if len(input_shape) != 3:
        raise ValueError(f"{name} needs inputs of shape (channels, height, width), not {input_shape}")
    network = BUILDERS[name](width, outputs)
    _adapt_stem(network, input_shape[0], keep_resolution=min(input_shape[1:]) < SMALL_IMAGE)
    example = torch.zeros(1, *input_shape)
    _drop_late_strides(network, example)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = BATCH_NORM_MOMENTUM
    if name in _FULL_WIDTH_ONLY:
        network = remove_channels(network, example, round(1.0 - width, 6))
    return network


def _mobilenet_v2(width: float, outputs: int) -> nn.Module:
    network: nn.Module = models.mobilenet_v2(weights=None, width_mult=width, num_classes=outputs)
    return network


def _mobilenet_v3_small(width: float, outputs: int) -> nn.Module:
    network: nn.Module = models.mobilenet_v3_small(weights=None, width_mult=width, num_classes=outputs)
    return network


def _shufflenet_v2(width: float, outputs: int) -> nn.Module:
    # every unit splits its channels into two halves; the stem's 24 channels are the same in all published widths
    stages = [max(2, 2 * round(channels * width / 2)) for channels in (116, 232, 464, 1024)]
    network: nn.Module = models.ShuffleNetV2([4, 8, 4], [24, *stages], num_classes=outputs)
    return network


def _resnet18(_width: float, outputs: int) -> nn.Module:
    network: nn.Module = models.resnet18(weights=None, num_classes=outputs)
    return network


BUILDERS: dict[str, Builder] = {
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": _mobilenet_v3_small,
    "shufflenet_v2": _shufflenet_v2,
    "resnet18": _resnet18,
}
_FULL_WIDTH_ONLY = frozenset({"resnet18"})


def _adapt_stem(network: nn.Module, channels: int, *, keep_resolution: bool) -> None:
    """Replace the first convolution; for small images without its stride, and without the max-pooling after it."""
    name, first = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    kernel = min(first.kernel_size[0], 3) if keep_resolution else first.kernel_size[0]
    stride = 1 if keep_resolution else first.stride[0]
    has_bias = first.bias is not None
    stem = nn.Conv2d(channels, first.out_channels, kernel, stride, padding=kernel // 2, bias=has_bias)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, stem)
    if keep_resolution and isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.set_submodule("maxpool", nn.Identity())


def _drop_late_strides(network: nn.Module, example: Tensor) -> None:
    """Set the stride of those convolutions to 1 whose output would be too small; parallel branches see one size."""

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1 and min(inputs[0].shape[2:]) < 2 * SMALLEST_SIDE:
            layer.stride = (1, 1)

    # squeeze-and-excitation works on one pixel by design, but its convolutions have no stride
    handles = [layer.register_forward_pre_hook(look) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network.eval()
    with torch.no_grad():
        network(example)
    network.train()
    for handle in handles:
        handle.remove()
