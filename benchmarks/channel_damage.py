"""What a quarter fewer channels cost networks that normalize by groups or by batches: before recovery and after it.

A U-Net that finds digits in small scenes, and a ResNet that reads digits, each with group and with batch
normalization, are trained for a minute or less, lose a quarter of their channels, in any number and in multiples of
eight, and recover. Writes ``results/channel_damage.md``. Run as ``python benchmarks/channel_damage.py``: about four
minutes of one core.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import RESULTS, processor, today  # type: ignore[import-not-found]
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.sparsity_names import share_of
from karui.spaces.training.batch_statistics import reestimate_normalization

SEEDS = (0, 1, 2)
SCENE = (12, 24)
GROUND = 10
BATCH = 25
FRACTION = 0.25
Norm = Callable[[int], nn.Module]
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def in_groups(channels: int) -> nn.Module:
    """Return a normalization of eight groups."""
    return nn.GroupNorm(8, channels)


NORMS: dict[str, Norm] = {"groups": in_groups, "batches": nn.BatchNorm2d}


def twice(channels: int, made: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """Return two convolutions with a norm and a ReLU behind each."""
    return nn.Sequential(
        nn.Conv2d(channels, made, 3, stride, 1), norm(made), nn.ReLU(),
        nn.Conv2d(made, made, 3, 1, 1), norm(made), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Three scales of 16, 32 and 64 channels; answers one of eleven classes a pixel."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.down = nn.ModuleList([twice(1, 16, norm), twice(16, 32, norm), twice(32, 64, norm)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.merge = nn.ModuleList([twice(64, 32, norm), twice(32, 16, norm)])
        self.last = nn.Conv2d(16, 11, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, shape (n, 11, height, width)."""
        fine = self.down[0](images)
        middle = self.down[1](functional.max_pool2d(fine, 2))
        hidden = self.down[2](functional.max_pool2d(middle, 2))
        for up, merge, beside in zip(self.up, self.merge, (middle, fine), strict=True):
            hidden = merge(torch.cat([beside, up(hidden)], 1))
        scores: Tensor = self.last(hidden)
        return scores


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, made: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.body = twice(channels, made, norm, stride)[:-1]
        self.shortcut = nn.Conv2d(channels, made, 1, stride) if stride > 1 or channels != made else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, shape (n, made, height, width)."""
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet(norm: Norm) -> nn.Module:
    """Return six blocks of 16, 32 and 64 channels; answers one of ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), norm(16), nn.ReLU(),
        *(Block(*each) for each in (
            (16, 16, norm, 1), (16, 16, norm, 1), (16, 32, norm, 2), (32, 32, norm, 1), (32, 64, norm, 2),
            (64, 64, norm, 1),
        )),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def digits(seed: int) -> Data:
    """Return images of 8 x 8 and their classes: those to train by, and those to judge by."""
    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    inputs = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 8 - 1
    targets = torch.tensor(classes)[order]
    return inputs[:1200], targets[:1200], inputs[1200:], targets[1200:]


def scenes(seed: int) -> Data:
    """Return scenes of two digits on a noisy ground, and for each pixel the digit that it is of, or 10."""
    generator = np.random.default_rng(seed)
    known, answers, unknown, wanted = digits(seed)
    made = []
    for count, images, classes in ((500, known, answers), (200, unknown, wanted)):
        inputs = 0.2 * torch.tensor(generator.standard_normal((count, 1, *SCENE)), dtype=torch.float32) - 1
        targets = torch.full((count, *SCENE), GROUND)
        for scene in range(count):
            for left in (0, 12):
                at, row, column = (int(generator.integers(end)) for end in (len(images), 5, 5))
                place = (slice(row, row + 8), slice(left + column, left + column + 8))
                ink = images[at, 0] > -0.5
                inputs[scene, 0][place] += (images[at, 0] + 1) * ink
                targets[scene][place][ink] = classes[at]
        made += [inputs, targets]
    return made[0], made[1], made[2], made[3]


def train(network: nn.Module, data: Data, epochs: int, rate: float, seed: int) -> None:
    """Train by AdamW under a cosine."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = data[:2]
    steps = epochs * -(-len(inputs) // BATCH)
    # most pixels are ground
    weights = torch.tensor([1.0] * 10 + [0.2]) if targets.dim() > 1 else None
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=generator), BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[rows]), targets[rows], weights).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Return the share of right classes; of scenes, that of intersection over union, the mean over the digits."""
    answers = torch.cat([network(part).argmax(1) for part in torch.split(data[2], 100)])
    wanted = data[3]
    if wanted.dim() == 1:
        return float((answers == wanted).float().mean())
    shares = [
        float(((answers == digit) & (wanted == digit)).sum() / ((answers == digit) | (wanted == digit)).sum())
        for digit in range(10)
    ]
    return float(np.mean(shares))


def damaged(network: nn.Module, data: Data, multiple: int, epochs: int, seed: int) -> list[float]:
    """Return the share of channels that went, and the accuracy at once, with new statistics, and recovered."""
    notes: list[str] = []
    smaller = remove_channels(network, data[0][:4], FRACTION, multiple=multiple, note=notes.append)
    share = share_of(notes)
    found = [FRACTION if share is None else share, accuracy(smaller.eval(), data)]
    reestimate_normalization(smaller, torch.split(data[0], 100))
    found.append(accuracy(smaller.eval(), data))
    train(smaller, data, epochs, 1e-3, seed)
    return [*found, accuracy(smaller, data)]


NETWORKS: dict[str, tuple[Callable[[Norm], nn.Module], Callable[[int], Data], int, int]] = {
    "U-Net": (UNet, scenes, 16, 8),
    "ResNet": (resnet, digits, 10, 3),
}
"""The network, its data, and the epochs of training and of recovery."""


def main() -> None:
    """Train them all, and write the table."""
    torch.set_num_threads(1)
    begin = time.process_time()
    lines = [
        "# What a quarter fewer channels cost",
        "",
        f"Digits, seeds {', '.join(map(str, SEEDS))}: the mean, the lowest and the highest. Of the ResNet "
        "the accuracy in %, of the U-Net the intersection over union in %, the mean over the ten digits. *Asked for* "
        "are 25 % of the channels; *re-estimated* is with new statistics of batch normalization, *recovered* after "
        "further training (8 epochs beside 16, 3 beside 10).",
        "",
        "| network | norms by | multiple | channels gone | whole | cut | re-estimated | recovered |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (make, load, epochs, more) in NETWORKS.items():
        for norms, norm in NORMS.items():
            rows: dict[int, list[list[float]]] = {1: [], 8: []}
            for seed in SEEDS:
                torch.manual_seed(seed)
                network, data = make(norm), load(seed)
                train(network, data, epochs, 3e-3, seed)
                whole = accuracy(network, data)
                for multiple, found in rows.items():
                    found.append([whole, *damaged(copy.deepcopy(network), data, multiple, more, seed)])
                    print(name, norms, seed, multiple, found[-1], f"{time.process_time() - begin:.0f} s", flush=True)
            for multiple, found in rows.items():
                before, share, *after = (np.array(column) for column in zip(*found, strict=True))
                told = " | ".join(map(_cell, (before, *after)))
                lines.append(f"| {name} | {norms} | {multiple} | {np.mean(share):.0%} | {told} |")
    lines += ["", f"{processor()}, {today()}, torch {torch.__version__}."]
    (RESULTS / "channel_damage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(values: np.ndarray) -> str:
    mean, low, high = (100 * float(value) for value in (values.mean(), values.min(), values.max()))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
