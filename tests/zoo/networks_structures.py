"""Blocks and how they are put together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .layers import conv, head, normed
from .registry import CLASSES, animal, images, sequences, vectors


class Residual(nn.Module):
    """Two normed convolutions over a shortcut."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            normed(channels, out_channels, stride=stride),
            conv(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else conv(channels, out_channels, 1, stride=stride)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(self.inner(inputs) + self.shortcut(inputs), inplace=True)


@animal()
def residual() -> nn.Module:
    stages = Residual(12, 12), Residual(12, 12), Residual(12, 16, 2), Residual(16, 16)
    return nn.Sequential(normed(3, 12), *stages, head(16))


@animal()
class PaddedShortcut(nn.Module):
    """The shortcut without parameters: every other pixel, zeros as further channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = normed(3, 8), conv(8, 16, stride=2), conv(16, 16), head(16)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        inner = self.second(F.relu(self.first(hidden)))
        return self.head(F.relu(inner + F.pad(hidden[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


@animal()
class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), head(26)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * n), nn.ReLU(), conv(8 + 6 * n, 6)) for n in range(3)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        found = [self.stem(inputs)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.head(torch.cat(found, 1))


@animal()
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = normed(3, 12), head(24)
        self.narrow, self.wide = normed(12, 8, 1), nn.Sequential(normed(12, 6, 1), normed(6, 8, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), normed(12, 8, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        return self.head(torch.cat([self.narrow(hidden), self.wide(hidden), self.pooled(hidden)], 1))


@animal()
class UNet(nn.Module):
    def __init__(self, join: str = "cat") -> None:
        super().__init__()
        self.down, self.inner, self.up = normed(3, 12), normed(12, 16), nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.join, self.out = normed(24, 12), conv(12, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        down = self.down(inputs)
        up = self.up(self.inner(F.max_pool2d(down, 2)))
        return self.out(self.join(torch.cat([down, up], 1)))


@animal()
class AddedUNet(nn.Module):
    """Joined by sums, enlarged by interpolation, the shallow features second."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner, self.join, self.out = normed(3, 12), normed(12, 12), normed(12, 12), conv(12, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        down = self.down(inputs)
        up = F.interpolate(self.inner(F.avg_pool2d(down, 2)), scale_factor=2.0, mode="nearest")
        return self.out(self.join(up + down))


@animal()
class TwoBranches(nn.Module):
    """Two bodies that see the image in full and halved, joined as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.halved = (
            nn.Sequential(normed(3, 12), normed(12, 12)),
            nn.Sequential(normed(3, 8), normed(8, 12)),
        )
        self.join = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        full, half = self.whole(inputs).mean((2, 3)), self.halved(F.avg_pool2d(inputs, 2)).mean((2, 3))
        return self.join(torch.cat([full, half], 1))


@animal()
class Pyramid(nn.Module):
    """FPN: what is found at two sizes becomes one output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = normed(3, 12, stride=2), normed(12, 16, stride=2)
        self.narrow = nn.ModuleList([conv(12, 8, 1), conv(16, 8, 1)])
        self.head = conv(8, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        large = self.first(inputs)
        small = self.narrow[1](self.second(large))
        large = self.narrow[0](large) + F.interpolate(small, scale_factor=2.0, mode="nearest")
        return torch.cat([self.head(level).flatten(2) for level in (large, small)], 2).transpose(1, 2)


@animal()
class BoxesAndScores(nn.Module):
    """A detector: boxes in pixels and scores from 0 to 1 in one output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = (
            nn.Sequential(normed(3, 16, stride=2), normed(16, 16)),
            conv(16, 4, 1),
            conv(16, 3, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs)
        boxes = self.boxes(hidden).sigmoid() * 320
        return torch.cat([boxes.flatten(2), self.scores(hidden).sigmoid().flatten(2)], 1)


@animal()
class DecodedBoxes(nn.Module):
    """Corners from centres and sizes on a grid, with scores beside."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(normed(3, 16, stride=2), normed(16, 16)), conv(16, 7, 1)
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        self.register_buffer("grid", torch.stack([columns, rows]).flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        places, sizes, scores = self.out(self.body(inputs)).flatten(2).split([2, 2, 3], 1)
        centres, sizes = (places.sigmoid() + self.grid) * 16, sizes.clamp(max=3).exp() * 8
        return torch.cat([centres - sizes / 2, centres + sizes / 2, scores.softmax(1)], 1)


@animal()
class SharedTwice(nn.Module):
    """One convolution called twice, and one whose weight another one has too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.other, self.head = conv(3, 12), conv(12, 12), conv(12, 12), head(12)
        self.other.weight = self.twice.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.twice(F.relu(self.stem(inputs))))
        return self.head(F.relu(self.other(F.relu(self.twice(hidden)))))


@animal()
class Siamese(nn.Module):
    """One body on the image and its mirror, and the difference of what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(normed(3, 12), normed(12, 16)), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        found = [self.body(view).mean((2, 3)) for view in (inputs, inputs.flip(3) * 0.5)]
        return self.last((found[0] - found[1]).abs())


class Block(nn.Module):
    def __init__(self, channels: int, drop: float = 0.0) -> None:
        super().__init__()
        self.inner, self.drop = normed(channels, channels), StochasticDepth(drop, "row")

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.drop(self.inner(inputs))


@animal()
class BlocksInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(3, 12), nn.ModuleList(Block(12) for _ in range(4)), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@animal()
class BlocksInADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 12), head(12)
        self.blocks = nn.ModuleDict({f"block{number}": Block(12) for number in range(4)})

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks.values():
            hidden = block(hidden)
        return self.head(hidden)


@animal()
class BlocksByIndex(nn.Module):
    """A list that is walked by numbers, what the second block finds being read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(3, 12), nn.ModuleList(Block(12) for _ in range(4)), head(24)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, kept = self.stem(inputs), []
        for number in range(len(self.blocks)):
            hidden = self.blocks[number](hidden)
            kept.append(hidden)
        return self.head(torch.cat([kept[1], kept[-1]], 1))


@animal()
def stochastic_depth() -> nn.Module:
    return nn.Sequential(conv(3, 12), *(Block(12, 0.2) for _ in range(3)), head(12))


@animal()
def nested_sequences() -> nn.Module:
    stages = (nn.Sequential(*(nn.Sequential(Block(12), nn.Sequential(Block(12))) for _ in range(2))) for _ in range(2))
    return nn.Sequential(nn.Sequential(conv(3, 12), nn.ReLU()), nn.Sequential(*stages), head(12))


@animal()
def dropouts() -> nn.Module:
    return nn.Sequential(
        conv(3, 16),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        conv(16, 16),
        nn.SELU(),
        nn.AlphaDropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5, inplace=True),
        nn.Linear(16, 5),
    )


@animal()
class Inverted(nn.Module):
    """MobileNetV2's block with a squeeze-excite gate and hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(conv(3, 12), nn.BatchNorm2d(12), nn.Hardswish()), head(12)
        self.expand = nn.Sequential(conv(12, 24, 1), nn.BatchNorm2d(24), nn.Hardswish())
        self.depthwise = nn.Sequential(conv(24, 24, 5, groups=24), nn.BatchNorm2d(24), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(24, 8, 1), nn.ReLU(), conv(8, 24, 1), nn.Hardsigmoid())
        self.project = nn.Sequential(conv(24, 12, 1), nn.BatchNorm2d(12))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        inner = self.depthwise(self.expand(hidden))
        return self.head(hidden + self.project(inner * self.gate(inner)))


class ScaledBlock(nn.Module):
    """ConvNeXt: depthwise, layer norm with channels last, two linear layers, a small learnt scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(channels, channels, 5, groups=channels), nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels) * 0.2 + 0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(inputs).permute(0, 2, 3, 1))
        hidden = self.narrow(F.gelu(self.wide(hidden))) * self.scale
        return inputs + hidden.permute(0, 3, 1, 2)


@animal()
def scaled_blocks() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 2, stride=2), ScaledBlock(12), ScaledBlock(12), head(12))


@animal()
class Ghost(nn.Module):
    """GhostNet: half of the channels are made of the others by a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cheap, self.second, self.head = normed(3, 8), normed(8, 8, groups=8), normed(16, 16), head(16)

    def forward(self, inputs: Tensor) -> Tensor:
        made = self.first(inputs)
        return self.head(self.second(torch.cat([made, self.cheap(made)], 1)))


@animal()
class ParallelKernels(nn.Module):
    """RepVGG in training: 3x3, 1x1 and the identity, each normed, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = normed(3, 12), head(12)
        self.wide = nn.Sequential(conv(12, 12), nn.BatchNorm2d(12))
        self.narrow = nn.Sequential(conv(12, 12, 1), nn.BatchNorm2d(12))
        self.straight = nn.BatchNorm2d(12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        return self.head(F.relu(self.wide(hidden) + self.narrow(hidden) + self.straight(hidden)))


@animal(vectors)
def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)
    )


@animal(vectors)
class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.change, self.gate, self.last = (
            nn.Linear(12, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs)
        gate = self.gate(hidden).sigmoid()
        return self.last(gate * F.relu(self.change(hidden)) + (1 - gate) * hidden)


@animal(vectors)
class Experts(nn.Module):
    """A soft mixture: every expert answers, a gate weighs the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.last = nn.Linear(12, 3), nn.Linear(16, CLASSES)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        answers = torch.stack([expert(inputs) for expert in self.experts], 1)
        return self.last((answers * self.gate(inputs).softmax(1).unsqueeze(2)).sum(1))


@animal(vectors, refused={"export": "bilinear", "channels": "no layer has channels that can be removed"})
class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.both, self.last = (
            nn.Linear(12, 8),
            nn.Linear(12, 8),
            nn.Bilinear(8, 8, 16),
            nn.Linear(16, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(F.relu(self.both(F.relu(self.first(inputs)), F.relu(self.second(inputs)))))


@animal()
class Modulated(nn.Module):
    """FiLM: scales and shifts of all channels, predicted by one linear layer that is cut in two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second, self.predict, self.head = conv(3, 12), conv(12, 12), nn.Linear(3, 24), head(12)

    def forward(self, inputs: Tensor) -> Tensor:
        scale, shift = self.predict(inputs.mean((2, 3))).chunk(2, 1)
        hidden = self.second(F.relu(self.stem(inputs)))
        return self.head(F.relu(hidden * (1 + scale[:, :, None, None]) + shift[:, :, None, None]))


@animal()
class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(conv(3, 12, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 16))
        self.decode = nn.Sequential(
            nn.Linear(16, 192), nn.ReLU(), nn.Unflatten(1, (12, 4, 4)), nn.ConvTranspose2d(12, 3, 2, stride=2)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decode(self.encode(inputs))


@animal()
class SuperResolution(nn.Module):
    """Twice as large, what is learnt being added to the enlarged input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 12), nn.PReLU(), conv(12, 12), nn.PReLU(), conv(12, 12), nn.PixelShuffle(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs) + F.interpolate(inputs, scale_factor=2.0, mode="bilinear")


@animal(sequences)
class PointNet(nn.Module):
    """Points by shared layers, their maximum beside each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        points = F.relu(self.first(inputs))
        largest = points.amax(1, keepdim=True).expand_as(points)
        return self.last(F.relu(self.second(torch.cat([points, largest], 2))).amax(1))


@animal(images)
class MultiplyAddHeads(nn.Module):
    """Two heads of one body in one output, one of them tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.quality = (
            nn.Sequential(normed(3, 12), normed(12, 12)),
            nn.Linear(12, 4),
            nn.Linear(12, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs).mean((2, 3))
        return torch.cat([self.classes(hidden), 0.01 * self.quality(hidden).sigmoid()], 1)
