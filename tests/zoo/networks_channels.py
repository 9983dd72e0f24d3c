"""What moves, pairs, mirrors or counts channels between two layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Between, conv, head
from .registry import animal


@animal()
class InputFirst(Between):
    def __init__(self) -> None:
        super().__init__(16, 19)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, hidden], 1)


@animal()
class InputLast(Between):
    def __init__(self) -> None:
        super().__init__(16, 19)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([hidden, inputs], 1)


@animal()
class InputInTheMiddle(Between):
    def __init__(self) -> None:
        super().__init__(16, 35)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([hidden, inputs, -2 * hidden], 1)


@animal()
class InputTwice(Between):
    def __init__(self) -> None:
        super().__init__(16, 22)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, hidden, inputs.flip(1)], 1)


@animal()
class BothSigns(Between):
    """CReLU: a channel and its negative."""

    def __init__(self) -> None:
        super().__init__(16, 32)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.relu(torch.cat([hidden - 0.3, 0.3 - hidden], 1))


@animal()
class Coordinates(Between):
    """CoordConv: constant planes beside the channels."""

    def __init__(self) -> None:
        super().__init__(16, 18)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        steps = torch.linspace(-1, 1, hidden.shape[-1])
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        planes = torch.stack([rows, columns]).expand(hidden.shape[0], -1, -1, -1)
        return torch.cat([planes, hidden], 1)


@animal()
class GatedHalves(Between):
    def __init__(self) -> None:
        super().__init__(32, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        values, gates = hidden.chunk(2, 1)
        return values * gates


@animal()
class GatedLinearUnit(Between):
    def __init__(self) -> None:
        super().__init__(32, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return F.glu(hidden, 1)


@animal()
class UnequalSplit(Between):
    def __init__(self) -> None:
        super().__init__(16, 16)
        self.inner = conv(4, 4)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        kept, moved = hidden.split([12, 4], 1)
        return torch.cat([kept, self.inner(moved)], 1)


@animal()
class SwappedHalves(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        first, second = hidden.chunk(2, 1)
        return torch.cat([second, first], 1)


@animal()
class SlicedChannels(Between):
    def __init__(self) -> None:
        super().__init__(16, 10)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden[:, 3:13]


@animal()
class EveryOther(Between):
    def __init__(self) -> None:
        super().__init__(16, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([hidden[:, ::2], hidden[:, 1::2]], 1)


@animal()
class ShuffleByView(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rows, channels, height, width = hidden.shape
        return hidden.view(rows, 4, channels // 4, height, width).transpose(1, 2).reshape(rows, channels, height, width)


@animal()
class ShuffleByIndex(Between):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(16))

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden[:, self.order]


@animal()
class ShuffleBySelect(Between):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(16))

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.index_select(1, self.order)


@animal(refused={"export": "channel_shuffle"})
class ShuffleByLayer(Between):
    def __init__(self) -> None:
        super().__init__()
        self.shuffle = nn.ChannelShuffle(4)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return self.shuffle(hidden)


@animal()
class MirroredChannels(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.flip(1)


@animal()
class RolledChannels(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.roll(hidden, 3, 1)


@animal()
class StackedAndFlattened(Between):
    def __init__(self) -> None:
        super().__init__(16, 32)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.stack([hidden, 2 * hidden], 2).flatten(1, 2)


@animal()
class RepeatedChannels(Between):
    def __init__(self) -> None:
        super().__init__(16, 32)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.repeat(1, 2, 1, 1)


@animal()
class InterleavedRepeats(Between):
    def __init__(self) -> None:
        super().__init__(16, 32)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.repeat_interleave(2, 1)


@animal()
class PaddedChannels(Between):
    """The shortcut of a ResNet without parameters: zeros in front and behind."""

    def __init__(self) -> None:
        super().__init__(16, 24)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return F.pad(hidden, (0, 0, 0, 0, 2, 6))


@animal()
class MaxOfPairs(Between):
    def __init__(self) -> None:
        super().__init__(32, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rows, channels, height, width = hidden.shape
        return hidden.view(rows, channels // 2, 2, height, width).amax(2)


@animal()
class MaxOfHalves(Between):
    def __init__(self) -> None:
        super().__init__(32, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rows, channels, height, width = hidden.shape
        return hidden.view(rows, 2, channels // 2, height, width).amax(1)


@animal()
class MeanOverChannels(Between):
    """A gate from the mean and the maximum over all channels (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(2, 1)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        seen = torch.cat([hidden.mean(1, keepdim=True), hidden.amax(1, keepdim=True)], 1)
        return hidden * self.gate(seen).sigmoid()


@animal()
class SoftmaxOverChannels(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return 4 * hidden.softmax(1)


@animal()
class RunningSumOverChannels(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.cumsum(1) / 8


@animal()
class MixedByMatrix(Between):
    """Channels mixed by a constant, as an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(16, 16) / 4)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.einsum("oc,nchw->nohw", self.mix, hidden)


@animal()
class ScaledByParameter(Between):
    """A scale for each channel that belongs to no layer (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden * self.scale


@animal()
class ScaledByBuffer(Between):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(1, 16, 1, 1) + 0.5)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden * self.scale


@animal()
class SqueezeExcite(Between):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        seen = torch.relu(self.squeeze(F.adaptive_avg_pool2d(hidden, 1)))
        return hidden * self.excite(seen).sigmoid()


@animal()
class SqueezeExciteLinear(Between):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        seen = self.excite(torch.relu(self.squeeze(hidden.mean((2, 3)))))
        return hidden * F.hardsigmoid(seen)[:, :, None, None]


@animal()
class EfficientChannelAttention(Between):
    """A convolution along the channels themselves (ECA)."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        seen = self.along(hidden.mean((2, 3))[:, None])[:, 0]
        return hidden * seen.sigmoid()[:, :, None, None]


@animal()
class ProductOfBranches(Between):
    def __init__(self) -> None:
        super().__init__()
        self.other = conv(3, 16)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden * self.other(inputs).tanh()


@animal()
class OneChannelBroadcast(Between):
    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3, 1)

    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden + self.one(inputs)


@animal(refused={"channels": "no layer has channels that can be removed"})
class OuterProduct(nn.Module):
    """Bilinear pooling: every channel with every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.classify = conv(3, 6), conv(3, 8), nn.Linear(48, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        one, other = (torch.relu(layer(inputs)).flatten(2) for layer in (self.first, self.second))
        return self.classify((one @ other.transpose(1, 2)).flatten(1) / 64)


@animal()
class UnboundGroups(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rows, channels, height, width = hidden.shape
        parts = hidden.view(rows, 2, channels // 2, height, width).unbind(1)
        return torch.cat([parts[1], torch.tanh(parts[0])], 1)


@animal()
class GroupedReshape(nn.Module):
    """Groups of channels that are normalized by themselves, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 16), conv(16, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        parts = hidden.reshape(hidden.shape[0], 4, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.std(2, keepdim=True) + 1e-3)
        return self.head(torch.relu(self.second(parts.view_as(hidden))))


@animal()
class ClassificationByView(nn.Module):
    """A fixed width in a view: nothing else than 16 channels fits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.classify = conv(3, 16, stride=2), conv(16, 16, stride=2), nn.Linear(64, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(inputs))))
        return self.classify(hidden.view(-1, 64))


@animal()
class FlattenedPixelsFirst(nn.Module):
    """Flattened with the channels last, so that a channel is every sixteenth column."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.classify = conv(3, 16, stride=2), nn.Linear(16 * 16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classify(torch.relu(self.first(inputs)).permute(0, 2, 3, 1).flatten(1))
