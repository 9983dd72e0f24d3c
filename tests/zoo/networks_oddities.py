"""Inputs of other types and ranges, constants, casts, control flow, dead and extreme weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Between, conv, head, normed
from .registry import CLASSES, animal, images, pixels, vectors

ROUNDED = ("w8 a8", "w4 a32", "w4 a8", "zeros")


@animal(pixels)
class Bytes(nn.Module):
    """uint8 images, normalized in the network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 12), normed(12, 12), head(12))
        self.register_buffer("mean", torch.tensor([120.0, 125.0, 130.0]).view(3, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body((inputs.float() - self.mean) / 60)


@animal(pixels)
class BytesStraight(nn.Module):
    """uint8 images that reach the first layer as 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 12), normed(12, 12), head(12))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs.float())


@animal(lambda n: images(n) * 40 + 128)
def large_inputs() -> nn.Module:
    return nn.Sequential(normed(3, 12), normed(12, 12), head(12))


@animal(lambda n: images(n) * 1e-4)
def tiny_inputs() -> nn.Module:
    return nn.Sequential(normed(3, 12), normed(12, 12), head(12))


@animal(lambda n: images(n) * 40 + 128)
class NormalizedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(3), normed(3, 12), normed(12, 12), head(12))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body((inputs / 255 - 0.5) / 0.25)


@animal()
class InputChangedInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 12), normed(12, 12), head(12))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs.sub_(0.5).div_(0.25)
        return self.body(inputs)


@animal()
class InputPartlyWritten(nn.Module):
    """One plane of the input is overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 12), normed(12, 12), head(12))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs[:, 0] = inputs[:, 1] * 0.5
        return self.body(inputs)


@animal()
class HiddenChangedInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(12, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden += 0.2
        F.relu_(hidden)
        hidden[:, :4] *= 0.5
        kept = self.second(hidden)
        kept.add_(hidden).clamp_(min=0)
        return self.head(kept)


@animal()
class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(12, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs)).double()
        hidden = (hidden / (hidden.mean((1, 2, 3), keepdim=True) + 1)).float()
        positive = (hidden > 0.5).to(hidden.dtype)
        return self.head(F.relu(self.second(hidden * positive)))


@animal()
class ByShape(nn.Module):
    """What runs depends on the shape of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(12, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        if hidden.shape[-1] % 2 == 0:
            hidden = F.max_pool2d(hidden, 2)
        while hidden.shape[-1] > 2:
            hidden = F.avg_pool2d(hidden, 2)
        return self.head(F.relu(self.second(hidden)))


@animal(refused={"export": "parity"})
class ByValue(nn.Module):
    """What runs depends on the values of the input: no graph holds that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = conv(3, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.head(F.relu(hidden) if float(inputs[0, 0, 0, 0]) > 0 else -3 * hidden)


@animal(refused={"export": "parity"})
class Noisy(nn.Module):
    """Answers by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = conv(3, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.head(F.relu(hidden + torch.randn_like(hidden)))


@animal(refused={"export": "one tensor"})
class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = conv(3, 12), head(12)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(inputs)
        return self.head(hidden), hidden


@animal(refused={"export": "non-finite"})
class InfiniteOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = conv(3, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.first(inputs)) / 0.0


@animal()
class ConstantsInForward(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        weights = torch.tensor([[1.0, 2.0, 1.0]]) / 4
        return hidden * torch.linspace(0.5, 1.5, 8) + weights.sum() * torch.ones(1, 16, 1, 1)


@animal()
class ConstantBranch(nn.Module):
    """A branch that does not depend on the input: a convolution of a learnt image."""

    def __init__(self) -> None:
        super().__init__()
        self.canvas = nn.Parameter(torch.randn(1, 3, 8, 8))
        self.first, self.other, self.head = conv(3, 12), conv(3, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.first(inputs) + self.other(self.canvas)))


@animal()
class DeadChannels(nn.Module):
    """Channels that are zero for every input, and one that is always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(12, 12), head(12)

    def settle(self) -> None:
        with torch.no_grad():
            self.first.weight[:5] = 0
            self.first.bias[:4] = 0
            self.first.bias[4] = 0.7
            self.second.bias[0] = -50

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(inputs)))))


@animal()
class DeadLayer(nn.Module):
    """A layer all of whose weights are zero, in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 12), conv(12, 12), conv(12, 12), head(12)

    def settle(self) -> None:
        with torch.no_grad():
            self.second.weight.zero_()
            self.second.bias.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        return self.head(F.relu(self.third(hidden + F.relu(self.second(hidden)))))


@animal()
class ConstantOutput(nn.Module):
    """A network that has learnt nothing: its output is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = conv(3, 12), head(12)

    def settle(self) -> None:
        with torch.no_grad():
            self.head[-1].weight.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.first(inputs)))


class Scaled(nn.Module):
    """Two convolutions, the first one's weights much larger or smaller than the second's."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.second, self.head, self.factor = conv(3, 12), conv(12, 12), head(12), factor

    def settle(self) -> None:
        with torch.no_grad():
            self.first.weight *= self.factor
            self.first.bias *= self.factor
            self.second.weight /= self.factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(inputs)))))


@animal()
def large_weights() -> nn.Module:
    return Scaled(3e3)


@animal()
def tiny_weights() -> nn.Module:
    return Scaled(1e-3)


@animal(refused={"float16": "float16"})
def enormous_weights() -> nn.Module:
    return Scaled(1e6)


@animal()
class UnevenChannels(nn.Module):
    """Channels of one tensor whose sizes differ a hundredfold, as depthwise networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = normed(3, 12), normed(12, 12, groups=12), head(12)

    def settle(self) -> None:
        with torch.no_grad():
            self.first[1].weight.copy_(torch.logspace(-1, 1, 12))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs)))


@animal(vectors, refused={"channels": "no layer has channels that can be removed"})
class GatheredColumns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        order = torch.tensor([3, 3, 1, 0, 2, 5, 9, 8, 15, 14, 13, 12, 4, 6, 7, 11]).expand(inputs.shape[0], -1)
        return self.last(hidden.gather(1, order))


@animal(vectors, refused={"export": "on a batch of 9"})
class BatchAsANumber(nn.Module):
    """The length of the batch is taken as a number, which tracing makes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.token = nn.Linear(12, 16), nn.Linear(32, CLASSES), nn.Parameter(torch.randn(1, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.first(inputs)), self.token.expand(len(inputs), -1)], 1))


@animal(vectors, refused={"channels": "no layer has channels that can be removed"})
class ConstantFactor(nn.Module):
    """A constant on the left of a product, and one on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(8, 3) / 2), nn.Parameter(torch.randn(4, 12) / 3)
        self.last = nn.Linear(96, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(F.relu(self.left @ inputs.view(-1, 3, 4) @ self.right).flatten(1))


@animal()
class RollAndFlip(Between):
    def between(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return torch.roll(hidden, (1, -2), (2, 3)) + hidden.flip(3) * 0.5


@animal()
class Reshaped(nn.Module):
    """Space to depth by view and permute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(12, 16), conv(16, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        rows, channels, height, width = inputs.shape
        parts = inputs.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return self.head(
            F.relu(self.second(F.relu(self.first(parts.reshape(rows, channels * 4, height // 2, width // 2)))))
        )


@animal(refused={"export": "affine_grid"})
class WarpedGrid(nn.Module):
    """A spatial transformer: the image is read where the network says."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.body = nn.Linear(192, 6), nn.Sequential(normed(3, 12), normed(12, 12), head(12))

    def settle(self) -> None:
        with torch.no_grad():
            self.place.weight *= 0.05
            self.place.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        grid = F.affine_grid(self.place(inputs.flatten(1)).view(-1, 2, 3), inputs.shape, align_corners=False)
        return self.body(F.grid_sample(inputs, grid, align_corners=False))


@animal()
class Frozen(nn.Module):
    """Parameters that do not train, a buffer that is not kept, a name that is no identifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 12), normed(12, 12))
        self.add_module("last-layer", nn.Linear(12, CLASSES))
        self.register_buffer("shift", torch.tensor(0.3), persistent=False)
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return getattr(self, "last-layer")(self.body(inputs + self.shift).mean((2, 3)))


@animal()
class NeverRun(nn.Module):
    """Layers that the forward passes over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.head = conv(3, 12), conv(12, 12), head(12)
        self.auxiliary = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        outputs = self.head(hidden)
        return (outputs, self.auxiliary(hidden.mean((2, 3)))) if self.training else outputs


@animal(vectors, refused={"float16": "64 values", "channels": "no layer has channels that can be removed"})
def one_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 5))


@animal(
    refused={
        "float16": "64 values",
        **dict.fromkeys(ROUNDED, "no weight that can be rounded"),
        "zeros": "no Conv, Gemm or MatMul",
        "channels": "no layer has",
    }
)
class NoWeights(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3)) * 2 + 1


@animal()
class LearntTemperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.warmth = conv(3, 12), head(12), nn.Parameter(torch.tensor(1.7))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.head(F.relu(self.first(inputs))) / self.warmth.exp()).log_softmax(1)


@animal()
class SigmoidOutputs(nn.Module):
    """Answers that lie close to 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = normed(3, 12), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        return (2 * self.head(self.first(inputs))).sigmoid()
