"""What many networks of the zoo are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .registry import CLASSES


def head(channels: int) -> nn.Sequential:
    """Return mean over the image and linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def conv(channels: int, out_channels: int, kernel: int = 3, **more: int) -> nn.Conv2d:
    """Return a convolution that keeps height and width unless it strides."""
    return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, **more)


def normed(channels: int, out_channels: int, kernel: int = 3, **more: int) -> nn.Sequential:
    """Return convolution, batch normalization, ReLU."""
    layer = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


class Apply(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class Between(nn.Module):
    """Two convolutions; what a class that inherits does in :meth:`between` lies between them.

    Args:
        made: Channels of the first convolution.
        read: Channels that the second one reads.
    """

    def __init__(self, made: int = 16, read: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, made), conv(read, 12), head(12)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.between(torch.relu(self.first(inputs)), inputs)
        outputs: Tensor = self.head(torch.relu(self.second(hidden)))
        return outputs
