"""Normalization, and weights behind a parametrization."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from .layers import Apply, Between, conv, head, normed
from .registry import CLASSES, animal, images, sequences, vectors


@animal()
def batch_normed() -> nn.Module:
    return nn.Sequential(normed(3, 16), normed(16, 16), head(16))


@animal()
def normed_before() -> nn.Module:
    return nn.Sequential(
        conv(3, 16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        conv(16, 16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        head(16),
    )


@animal()
def normed_input() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(3), conv(3, 16), nn.ReLU(), nn.BatchNorm2d(16), conv(16, 16), nn.ReLU(), head(16)
    )


@animal()
def without_affine() -> nn.Module:
    return nn.Sequential(
        conv(3, 16),
        nn.BatchNorm2d(16, affine=False),
        nn.ReLU(),
        conv(16, 16),
        nn.InstanceNorm2d(16),
        nn.ReLU(),
        head(16),
    )


@animal(vectors)
def normed_vectors() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Linear(24, 24),
        nn.LayerNorm(24),
        nn.ReLU(),
        nn.Linear(24, 5),
    )


@animal()
def group_normed() -> nn.Module:
    return nn.Sequential(
        conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 16), nn.GroupNorm(2, 16), nn.ReLU(), head(16)
    )


@animal()
def one_group() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.GroupNorm(1, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16))


@animal()
def instance_normed() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.InstanceNorm2d(16, affine=True), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16))


@animal()
def layer_normed_images() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.LayerNorm([16, 8, 8]), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16))


@animal()
class ChannelsLast(Between):
    """The layer norm of a ConvNeXt: over the channels of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return self.norm(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@animal(sequences)
def root_mean_square() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.RMSNorm(16, eps=1e-6),
        nn.SiLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        Apply(lambda x: x.mean(1)),
        nn.Linear(16, 5),
    )


@animal(sequences)
class RootMeanSquareByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)
        self.gain = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.last(F.relu(self.second(hidden)).mean(1))


@animal()
def local_response() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), nn.LocalResponseNorm(5, alpha=0.1), conv(16, 16), nn.ReLU(), head(16))


@animal()
def weight_normed() -> nn.Module:
    return nn.Sequential(weight_norm(conv(3, 16)), nn.ReLU(), weight_norm(conv(16, 16)), nn.ReLU(), head(16))


@animal()
def spectral_normed() -> nn.Module:
    return nn.Sequential(spectral_norm(conv(3, 16)), nn.ReLU(), spectral_norm(conv(16, 16)), nn.ReLU(), head(16))


@animal()
def weight_normed_of_old() -> nn.Module:
    old = nn.utils.weight_norm
    return nn.Sequential(old(conv(3, 16)), nn.ReLU(), old(conv(16, 16)), nn.ReLU(), head(16))


@animal(vectors)
def orthogonal_weight() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), orthogonal(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 5))


@animal(images)
class UnitEmbeddings(nn.Module):
    """A face network's output: vectors of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.embed = nn.Sequential(normed(3, 16), normed(16, 16)), nn.Linear(16, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(self.embed(self.body(inputs).mean((2, 3))), dim=1)


@animal()
class GlobalResponse(Between):
    """The global response norm of ConvNeXt V2, channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(1, 16, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, 16, 1, 1) * 0.1)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        norms = hidden.pow(2).sum((2, 3), keepdim=True).sqrt()
        return hidden + self.gain * hidden * norms / (norms.mean(1, keepdim=True) + 1e-6) + self.shift


class NormWithActivation(nn.BatchNorm2d):
    """Holds its activation, as normalizations of timm do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(super().forward(inputs))


@animal()
def norms_with_activations() -> nn.Module:
    return nn.Sequential(conv(3, 16), NormWithActivation(16), conv(16, 16), NormWithActivation(16), head(16))
