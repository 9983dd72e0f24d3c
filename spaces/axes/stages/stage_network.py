"""The network of inverted-residual stages: stem, stages, head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .choice import Stage, StageNetwork

STEM_KERNEL = 3
LARGE_IMAGE = 64
"""From this shorter side on, in pixels, the stem halves the image, as in MobileNetV2."""

SMALLEST_SIDE = 4
"""A stride is left out where it would make the shorter side of the image shorter than this."""

SQUEEZE = 4
"""The gate's inner layer has this many times fewer channels than what is gated (MobileNetV3, section 5.3)."""
FEWEST_SQUEEZED = 4


def build_stage_network(choice: StageNetwork, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return the untrained network of a choice; its weights follow torch's global random generator.

    Activations are ReLU: it folds into the convolution before it, and hard-swish has no int8 kernel on the CPU.

    Args:
        choice: The stages.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.

    Raises:
        ValueError: Where the input is not an image.
    """
    if len(input_shape) != 3:
        raise ValueError(f"a network of stages needs inputs of shape (channels, height, width), not {input_shape}")
    side = min(input_shape[1:])
    stem_stride = 2 if side >= LARGE_IMAGE else 1
    side = _halved(side, stem_stride)
    channels = choice.channels
    stages = []
    for position, (stage, out_channels) in enumerate(zip(choice.stages, choice.channels_of_stages, strict=True)):
        stride = 2 if position and _halved(side, 2) >= SMALLEST_SIDE else 1
        stages.append(_stage(stage, channels, out_channels, stride))
        side, channels = _halved(side, stride), out_channels
    stem = Convolution(input_shape[0], choice.channels, STEM_KERNEL, stride=stem_stride)
    return Stages(stem, stages, nn.Linear(channels, outputs))


class Stages(nn.Module):
    """Stem, stages, mean over the image, linear layer.

    Every module has a name that does not depend on what else there is (``stages.1.0.depthwise.convolution``), so that
    the weights of one network can be found in another.
    """

    def __init__(self, stem: nn.Module, stages: list[nn.Module], linear: nn.Linear) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = linear

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, outputs)."""
        outputs: Tensor = self.linear(torch.flatten(self.pool(self.stages(self.stem(inputs))), 1))
        return outputs


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate, linear projection (Sandler et al., MobileNetV2, CVPR 2018, section 3.3).

    The gate stands before the projection, as in MobileNetV3 (Howard et al., ICCV 2019, figure 4).

    Args:
        stage: Kernel, expansion and gate.
        channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 2 to halve height and width; the block is residual where input and output have one shape.
    """

    def __init__(self, stage: Stage, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        hidden = channels * stage.expansion
        self.expand = Convolution(channels, hidden, 1) if stage.expansion > 1 else nn.Identity()
        self.depthwise = Convolution(hidden, hidden, stage.kernel, stride=stride, groups=hidden)
        self.gate = SqueezeExcite(hidden) if stage.squeeze_excite else nn.Identity()
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.is_residual = stride == 1 and channels == out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, out_channels, ceil(height / stride), ceil(width / stride))."""
        inner = self.gate(self.depthwise(self.expand(inputs)))
        outputs: Tensor = self.normalization(self.project(inner))
        return inputs + outputs if self.is_residual else outputs


class SqueezeExcite(nn.Module):
    """Scales every channel by a number in (0, 1) computed from all channels' means (Hu et al., CVPR 2018, section 3).

    The sigmoid is the plain one: unlike the hard sigmoid of MobileNetV3 it has an int8 kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(FEWEST_SQUEEZED, channels // SQUEEZE)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to the same shape."""
        scales: Tensor = self.sigmoid(self.excite(self.relu(self.squeeze(self.pool(inputs)))))
        return inputs * scales


class Convolution(nn.Module):
    """Convolution, batch normalization, ReLU, which become one operator when exported."""

    def __init__(self, channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, out_channels, ceil(height / stride), ceil(width / stride))."""
        outputs: Tensor = self.relu(self.normalization(self.convolution(inputs)))
        return outputs


def _stage(stage: Stage, channels: int, out_channels: int, stride: int) -> nn.Module:
    first = InvertedResidual(stage, channels, out_channels, stride)
    others = (InvertedResidual(stage, out_channels, out_channels, 1) for _ in range(1, stage.depth))
    return nn.Sequential(first, *others)


def _halved(side: int, stride: int) -> int:
    return -(-side // stride)
