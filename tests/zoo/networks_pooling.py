"""Poolings and what makes images larger or smaller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Apply, Between, conv, head
from .registry import animal, images


def pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), pool, conv(16, 16), nn.ReLU(), head(16))


@animal()
def max_pooled() -> nn.Module:
    return pooled(nn.MaxPool2d(3, 2, padding=1))


@animal()
def max_pooled_with_ceil_mode() -> nn.Module:
    return pooled(nn.MaxPool2d(3, 2, ceil_mode=True))


@animal()
def max_pooled_dilated() -> nn.Module:
    return pooled(nn.MaxPool2d(2, 1, dilation=2))


@animal()
def mean_pooled() -> nn.Module:
    return pooled(nn.AvgPool2d(2))


@animal()
def mean_pooled_padded() -> nn.Module:
    return pooled(nn.AvgPool2d(3, 2, padding=1))


@animal()
def mean_pooled_padded_uncounted() -> nn.Module:
    return pooled(nn.AvgPool2d(3, 2, padding=1, count_include_pad=False))


@animal()
def mean_pooled_with_ceil_mode() -> nn.Module:
    return pooled(nn.AvgPool2d(3, 2, ceil_mode=True))


@animal()
def mean_pooled_with_ceil_mode_padded() -> nn.Module:
    return pooled(nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False))


@animal(refused={"export": "parity"})
def mean_pooled_by_a_divisor() -> nn.Module:
    return pooled(nn.AvgPool2d(2, divisor_override=3))


@animal()
def adaptive_mean() -> nn.Module:
    return pooled(nn.AdaptiveAvgPool2d(4))


@animal(refused={"export": "adaptive"})
def adaptive_mean_uneven() -> nn.Module:
    return pooled(nn.AdaptiveAvgPool2d(3))


@animal()
def adaptive_max() -> nn.Module:
    return pooled(nn.AdaptiveMaxPool2d((2, 4)))


@animal()
def power_pooled() -> nn.Module:
    return pooled(nn.LPPool2d(2, 2))


@animal()
def largest_of_all() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), Apply(lambda x: x.amax((2, 3))), nn.Linear(16, 5))


@animal()
class GeneralizedMean(nn.Module):
    """GeM pooling with a learnt power."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.classify = conv(3, 16), conv(16, 16), nn.Linear(16, 5)
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(F.relu(self.first(inputs))).clamp(min=1e-3)
        return self.classify(hidden.pow(self.power).mean((2, 3)).pow(1 / self.power))


@animal()
class StatisticsPooling(nn.Module):
    """Mean and deviation over all pixels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.classify = conv(3, 16), conv(16, 16), nn.Linear(32, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.second(F.relu(self.first(inputs))))
        return self.classify(torch.cat([hidden.mean((2, 3)), hidden.var((2, 3)).add(1e-3).sqrt()], 1))


@animal()
class MaxAndMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.classify = conv(3, 16), conv(16, 16), nn.Linear(32, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.second(F.relu(self.first(inputs))))
        both = F.adaptive_max_pool2d(hidden, 1), F.adaptive_avg_pool2d(hidden, 1)
        return self.classify(torch.cat(both, 1).flatten(1))


@animal()
class PyramidPooling(Between):
    """Means over larger and larger windows, brought back to one size (PSPNet)."""

    def __init__(self) -> None:
        super().__init__(12, 36)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        size = hidden.shape[-2:]
        means = [F.interpolate(F.adaptive_avg_pool2d(hidden, side), size=size, mode="bilinear") for side in (1, 2)]
        return torch.cat([hidden, *means], 1)


def resized(**how: object) -> nn.Module:
    return nn.Sequential(conv(3, 16, stride=2), nn.ReLU(), nn.Upsample(**how), conv(16, 12), nn.ReLU(), conv(12, 4))


@animal()
def nearest_up() -> nn.Module:
    return resized(scale_factor=2, mode="nearest")


@animal()
def bilinear_up() -> nn.Module:
    return resized(scale_factor=2, mode="bilinear")


@animal()
def bilinear_up_to_corners() -> nn.Module:
    return resized(size=(7, 9), mode="bilinear", align_corners=True)


@animal()
def bicubic_up() -> nn.Module:
    return resized(scale_factor=2, mode="bicubic")


@animal(lambda n: images(n, side=12))
class ResizedInput(Between):
    """The network itself brings its input to size."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(F.interpolate(inputs, size=(8, 8), mode="bilinear"))

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return F.interpolate(hidden, scale_factor=0.5, mode="nearest")
