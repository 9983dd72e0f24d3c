"""Small networks and a small task that the tests of the spaces share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.task import Task

CLASSES = 3
SIDE = 8


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(inputs)))
        outputs: Tensor = self.relu(self.norm2(self.conv2(inner)) + self.shortcut(inputs))
        return outputs


class TinyResNet(nn.Module):
    """Stem, two stages of residual blocks, linear head; (n, 1, 8, 8) to (n, 3)."""

    def __init__(self, channels: int = 8, blocks: int = 2, outputs: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.stage1 = nn.Sequential(*(ResidualBlock(channels, channels) for _ in range(blocks)))
        wider = (ResidualBlock(2 * channels, 2 * channels) for _ in range(blocks - 1))
        self.stage2 = nn.Sequential(ResidualBlock(channels, 2 * channels, stride=2), *wider)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * channels, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.pool(self.stage2(self.stage1(self.stem(inputs))))
        outputs: Tensor = self.head(torch.flatten(features, 1))
        return outputs


def striped_images(count: int, seed: int) -> TensorDataset:
    """Noise with a bright band in one of three places: the class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % CLASSES
    inputs = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    for place in range(CLASSES):
        inputs[targets == place, :, 3 * place : 3 * place + 2] += 1.0
    return TensorDataset(inputs, targets)


@pytest.fixture
def tiny_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyResNet()


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def tiny_task(tiny_network: nn.Module) -> Task:
    return Task(
        model=tiny_network,
        train=striped_images(192, seed=1),
        validation=striped_images(90, seed=2),
        test=striped_images(90, seed=3),
    )
