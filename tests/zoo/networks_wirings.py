"""Further ways in which channels are moved, paired and read between layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Between, conv, head, normed
from .registry import CLASSES, animal, images, vectors


@animal()
class ShuffledTwice(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        for groups in (4, 2):
            hidden = 1.5 * hidden.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
        return hidden


@animal()
class HalfMirrored(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([hidden[:, :8].flip(1), hidden[:, 8:]], 1)


@animal()
class GatesOfThree(Between):
    def __init__(self) -> None:
        super().__init__(48, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        first, second, third = hidden.chunk(3, 1)
        return first * second.sigmoid() + third.tanh()


@animal()
class GatesByUnbind(Between):
    def __init__(self) -> None:
        super().__init__(32, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        values, gates = hidden.unflatten(1, (-1, 2)).unbind(2)
        return values.tanh() * gates.sigmoid()


@animal()
class SplitByWidth(nn.Module):
    """As YOLO has it: halves by an attribute, all that was made on the way set side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.first, self.inner, self.second, self.head = normed(3, 32), normed(16, 16), normed(48, 24), head(24)

    def forward(self, inputs: Tensor) -> Tensor:
        parts = list(self.first(inputs).split((self.width, self.width), 1))
        parts.append(self.inner(parts[-1]))
        return self.head(self.second(torch.cat(parts, 1)))


@animal(refused={"depth": "architecture: the network does not run w"})
class ScalesWithin(nn.Module):
    """As Res2Net has it: each part of the channels reads the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 16, 1), conv(16, 16, 1), head(16)
        self.within = nn.ModuleList(conv(4, 4) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        first, *others = F.relu(self.first(inputs)).chunk(4, 1)
        found = [first]
        for layer, part in zip(self.within, others, strict=True):
            found.append(F.relu(layer(part + found[-1])))
        return self.head(F.relu(self.second(torch.cat(found, 1))))


@animal(refused={"depth": "computes something else"})
class KernelsSelected(nn.Module):
    """Two branches stacked, and a softmax over the branches for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.squeeze = conv(3, 16), head(16), nn.Linear(16, 8)
        self.branches = nn.ModuleList([conv(16, 16), conv(16, 16, 5)])
        self.chosen = nn.ModuleList(nn.Linear(8, 16) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.stem(inputs))
        both = torch.stack([branch(hidden) for branch in self.branches], 1)
        seen = F.relu(self.squeeze(both.sum(1).mean((2, 3))))
        weights = torch.stack([layer(seen) for layer in self.chosen], 1).softmax(1)
        return self.head(F.relu((both * weights[..., None, None]).sum(1)))


@animal()
class WrittenByMask(Between):
    """Small values set to zero where they are."""

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        hidden = hidden / 2
        hidden[hidden < 0.2] = 0
        return hidden


@animal()
class NormOverLastAxis(Between):
    """A layer normalization of each pixel; what comes behind is in the order of memory that it leaves."""

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return F.layer_norm(hidden.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)


@animal()
def transposed_depthwise() -> nn.Module:
    layer = nn.ConvTranspose2d(8, 16, 2, 2, groups=8)
    return nn.Sequential(conv(3, 8), nn.ReLU(), layer, nn.ReLU(), conv(16, 8), head(8))


@animal(vectors)
class ReadBackwards(nn.Module):
    """An autoencoder whose second half is the first's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 24), nn.Linear(24, 16), nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.second(F.relu(self.first(inputs))))
        hidden = F.relu(F.linear(hidden, self.second.weight.t()))
        return self.last(F.linear(hidden, self.first.weight.t()))


@animal()
class GroupsByAttribute(nn.Module):
    """A depthwise convolution by function."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.kernel = 16, nn.Parameter(torch.randn(16, 1, 3, 3) / 3)
        self.first, self.head = conv(3, 16), head(16)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.conv2d(F.relu(self.first(inputs)), self.kernel, padding=1, groups=self.groups))


@animal(images)
class SpatialGates(nn.Module):
    """Half of the channels gate the other half, mixed along the patches (gMLP)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, CLASSES)
        self.widen, self.along, self.narrow = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(24, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.patches(inputs).flatten(2).transpose(1, 2)
        values, gates = F.gelu(self.widen(steps)).chunk(2, -1)
        gates = self.along(gates.transpose(1, 2)).transpose(1, 2)
        return self.last((steps + self.narrow(values * gates)).mean(1))
