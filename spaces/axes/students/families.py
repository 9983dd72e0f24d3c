"""Student architectures of torchvision, untrained, fitted to the task's inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchvision import models

from ..sparsity.channels import remove_channels
from .small_images import fit_to_images

BATCH_NORM_MOMENTUM = 0.1
"""MobileNetV3 comes with 0.01 and MNASNet with 0.0003, whose averages lag behind the weights throughout a training of
a few hundred steps."""

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
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"{name} needs inputs of shape (channels, height, width), not {input_shape}")
    network = BUILDERS[name](width, outputs)
    fit_to_images(network, input_shape)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = BATCH_NORM_MOMENTUM
    if name in _FULL_WIDTH_ONLY:
        network = remove_channels(network, torch.zeros(1, *input_shape), round(1.0 - width, 6))
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


def _mnasnet(width: float, outputs: int) -> nn.Module:
    network: nn.Module = models.MNASNet(width, num_classes=outputs)
    _redraw_classifier(network)
    return network


def _efficientnet_b0(width: float, outputs: int) -> nn.Module:
    # expansion, kernel, stride, channels in and out, and blocks of every stage (Tan & Le, ICML 2019, table 1)
    published = (
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    )
    stages = [models.efficientnet.MBConvConfig(*stage, width_mult=width) for stage in published]
    network: nn.Module = models.EfficientNet(stages, dropout=0.2, num_classes=outputs)
    _redraw_classifier(network)
    return network


def _redraw_classifier(network: nn.Module) -> None:
    """Draw the last layer's weights by its inputs: by its outputs, as torchvision does, ten classes start with logits
    ten times as large as a thousand do."""
    for layer in network.get_submodule("classifier").modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def _squeezenet(width: float, outputs: int) -> nn.Module:
    """SqueezeNet 1.1; a narrower one is put together anew, as without normalization its scale hangs on the fan-in."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    network: nn.Module = models.squeezenet1_1(weights=None, num_classes=outputs)
    channels = scaled(64)
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2)]
    for layer in list(network.get_submodule("features").children())[1:]:
        if isinstance(layer, models.squeezenet.Fire):
            squeezed = scaled(layer.squeeze.out_channels)
            half = scaled(layer.expand1x1.out_channels)
            layer = models.squeezenet.Fire(channels, squeezed, half, half)
            channels = 2 * half
        layers.append(layer)
    network.set_submodule("features", nn.Sequential(*layers))
    network.set_submodule("classifier.1", nn.Conv2d(channels, outputs, 1))
    _initialize_squeezenet(network)
    return network


def _initialize_squeezenet(network: nn.Module) -> None:
    """Draw the weights as torchvision does: small ones for the last convolution."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(network.get_parameter("classifier.1.weight"), std=0.01)


BUILDERS: dict[str, Builder] = {
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": _mobilenet_v3_small,
    "shufflenet_v2": _shufflenet_v2,
    "resnet18": _resnet18,
    "mnasnet": _mnasnet,
    "efficientnet_b0": _efficientnet_b0,
    "squeezenet": _squeezenet,
}
_FULL_WIDTH_ONLY = frozenset({"resnet18"})
