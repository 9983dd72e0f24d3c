"""Convolutions of every form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Apply, conv, head, normed
from .registry import CLASSES, animal, even, images, signals


@animal()
def plain() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16))


@animal()
def flattened() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 24), nn.ReLU(), nn.Linear(24, 5)
    )


@animal()
def grouped() -> nn.Module:
    return nn.Sequential(normed(3, 16), normed(16, 16, groups=4), normed(16, 24, groups=2), head(24))


@animal()
def depthwise_separable() -> nn.Module:
    return nn.Sequential(normed(3, 16), normed(16, 16, groups=16), normed(16, 24, 1), head(24))


@animal()
def depthwise_with_multiplier() -> nn.Module:
    return nn.Sequential(normed(3, 8), normed(8, 16, groups=8), normed(16, 16, 1), head(16))


@animal()
def dilated() -> nn.Module:
    return nn.Sequential(
        conv(3, 16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=4, dilation=4),
        nn.ReLU(),
        head(16),
    )


@animal()
def asymmetric_kernels() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, (1, 5), padding=(0, 2)),
        nn.ReLU(),
        nn.Conv2d(16, 16, (5, 1), stride=(1, 2), padding=(2, 0)),
        nn.ReLU(),
        head(16),
    )


@animal()
def asymmetric_pads() -> nn.Module:
    return nn.Sequential(
        conv(3, 16),
        nn.ReLU(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.ReLU(),
        nn.ZeroPad2d(1),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        head(16),
    )


@animal()
def constant_pads() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), nn.ConstantPad2d(1, 0.5), nn.Conv2d(16, 16, 3), nn.ReLU(), head(16))


@animal()
def mirrored_pads() -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.ReplicationPad2d(1),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        head(16),
    )


@animal()
def circular_pads() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        head(16),
    )


@animal()
def same_pads() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, padding="same"), nn.ReLU(), nn.Conv2d(16, 16, 3, padding="same"), nn.ReLU(), head(16)
    )


@animal(signals)
def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 16, 5, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 16, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@animal(lambda n: even(n, 2, 1, 1, 1) + even(n, 2, 4, 6, 6))
def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 12, 3, padding=1),
        nn.BatchNorm3d(12),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(12, 16, (1, 3, 3), padding=(0, 1, 1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@animal()
def transposed() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 2, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        conv(12, 4),
    )


@animal()
def transposed_grouped() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1, output_padding=1, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 3, padding=1),
        nn.ReLU(),
        conv(8, 4),
    )


@animal(signals)
def transposed_one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 16, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 2, 3, padding=1),
        nn.Tanh(),
    )


@animal(refused={"channels": "no layer has channels that can be removed"})
class FunctionalWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.3)
        self.shift = nn.Parameter(torch.randn(16))
        self.matrix = nn.Parameter(torch.randn(CLASSES, 16) * 0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(F.conv2d(inputs, self.kernel, self.shift, padding=1))
        return F.linear(hidden.mean((2, 3)), self.matrix)


@animal()
class BlurByBuffer(nn.Module):
    """A fixed kernel that is no parameter, over every channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 16), conv(16, 16), head(16)
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (row[:, None] * row / 16).expand(16, 1, 3, 3).contiguous())

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.conv2d(F.relu(self.first(inputs)), self.kernel, stride=2, padding=1, groups=16)
        return self.head(F.relu(self.second(hidden)))


@animal()
class Unfolded(nn.Module):
    """A convolution as a matrix product over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * 9, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = F.unfold(inputs, 3, stride=2).transpose(1, 2)
        return self.second(F.relu(self.first(patches)).mean(1))


@animal()
class WeightStandardized(nn.Module):
    """The weight of each output is standardized at every run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm, self.head = conv(3, 16), conv(16, 16), nn.GroupNorm(4, 16), head(16)

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.second.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) * 9 + 1e-5)
        hidden = F.conv2d(F.relu(self.first(inputs)), weight, self.second.bias, padding=1)
        return self.head(F.relu(self.norm(hidden)))


@animal()
def pixel_shuffled() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 32), nn.PixelShuffle(2), nn.ReLU(), conv(8, 4))


@animal()
def pixel_unshuffled() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.PixelUnshuffle(2), conv(32, 16), nn.ReLU(), head(16))


@animal(lambda n: images(n, side=7))
def odd_sides() -> nn.Module:
    return nn.Sequential(conv(3, 13, stride=2), nn.ReLU(), conv(13, 11, 5, stride=3), nn.ReLU(), head(11))


@animal(lambda n: images(n, channels=1))
def one_channel_in_and_between() -> nn.Module:
    return nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 1), nn.ReLU(), conv(1, 8), nn.ReLU(), head(8))


@animal()
def strided_patches() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=4),
        nn.Flatten(2),
        Apply(lambda x: x.transpose(1, 2)),
        nn.Linear(24, 24),
        nn.ReLU(),
        Apply(lambda x: x.mean(1)),
        nn.Linear(24, 5),
    )


@animal()
class DynamicKernels(nn.Module):
    """The kernel is computed from the input: a convolution without a constant weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.kernels, self.head = conv(3, 8), nn.Linear(8, 8), head(8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        scales = self.kernels(hidden.mean((2, 3))).tanh()
        return self.head(F.relu(hidden * scales[:, :, None, None]))
