"""Networks that nobody thought of: blocks in any order, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from .layers import Apply, conv, head, normed
from .registry import Animal, images

WIDTHS = (8, 12, 16)


class Branched(nn.Module):
    """A branch, and how it comes together again with what it left."""

    def __init__(self, branch: nn.Module, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch, self.join = branch, join

    def forward(self, inputs: Tensor) -> Tensor:
        return self.join(inputs, self.branch(inputs))


def shuffled(inputs: Tensor) -> Tensor:
    return inputs.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def prepended(inputs: Tensor, branch: Tensor) -> Tensor:
    return torch.cat([inputs, branch], 1)


def appended(inputs: Tensor, branch: Tensor) -> Tensor:
    return torch.cat([branch, inputs], 1)


def gated(inputs: Tensor) -> Tensor:
    values, gates = inputs.chunk(2, 1)
    return values * gates.sigmoid()


def pixel_norm(width: int) -> nn.Module:
    return nn.Sequential(
        Apply(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(width), Apply(lambda x: x.permute(0, 3, 1, 2))
    )


def excite(width: int) -> nn.Module:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid()
    )


Block = Callable[[int, int], tuple[nn.Module, int]]
"""Takes the channels that there are and a width; returns the block and the channels that it makes."""

BLOCKS: dict[str, Block] = {
    "conv": lambda made, width: (nn.Sequential(conv(made, width), nn.ReLU()), width),
    "normed": lambda made, width: (normed(made, width), width),
    "swish": lambda made, width: (nn.Sequential(conv(made, width, 1), nn.Hardswish()), width),
    "depthwise": lambda made, width: (
        nn.Sequential(conv(made, made, groups=made), nn.BatchNorm2d(made), nn.ReLU6()),
        made,
    ),
    "grouped": lambda made, width: (
        nn.Sequential(conv(made, 4 * width, groups=2 if made % 2 == 0 else 1), nn.GELU()),
        4 * width,
    ),
    "residual": lambda made, width: (Branched(nn.Sequential(normed(made, width), conv(width, made)), torch.add), made),
    "dense": lambda made, width: (Branched(normed(made, width), prepended), made + width),
    "dense_behind": lambda made, width: (
        Branched(normed(made, width), appended),
        made + width,
    ),
    "gate": lambda made, width: (nn.Sequential(conv(made, 2 * width), Apply(gated)), width),
    "product": lambda made, width: (Branched(nn.Sequential(conv(made, made, 1), nn.Tanh()), torch.mul), made),
    "excite": lambda made, width: (Branched(excite(made), torch.mul), made),
    "shuffle": lambda made, width: (nn.Sequential(conv(made, width), nn.ReLU(), Apply(shuffled)), width),
    "group_norm": lambda made, width: (nn.Sequential(conv(made, width), nn.GroupNorm(4, width), nn.SiLU()), width),
    "pixel_norm": lambda made, width: (nn.Sequential(conv(made, width), pixel_norm(width)), width),
    "mirror": lambda made, width: (Apply(lambda x: x.flip(1)), made),
    "half": lambda made, width: (
        nn.Sequential(conv(made, width), Apply(lambda x: F.relu(x)[:, : width // 2])),
        width // 2,
    ),
    "pool": lambda made, width: (nn.MaxPool2d(3, 1, 1), made),
    "mean_pool": lambda made, width: (nn.AvgPool2d(3, 1, 1, count_include_pad=False), made),
    "up_and_down": lambda made, width: (
        nn.Sequential(nn.Upsample(scale_factor=2), conv(made, width, stride=2), nn.ELU()),
        width,
    ),
    "transposed": lambda made, width: (
        nn.Sequential(nn.ConvTranspose2d(made, width, 3, padding=1), nn.LeakyReLU()),
        width,
    ),
    "pad": lambda made, width: (nn.Sequential(nn.ZeroPad2d((0, 1, 1, 0)), nn.Conv2d(made, width, 2), nn.ReLU()), width),
    "clamp": lambda made, width: (nn.Sequential(conv(made, width), Apply(lambda x: x.clamp(0.1, 2.0))), width),
}


def built(plan: tuple[tuple[str, int], ...]) -> nn.Module:
    made, parts = 3, []
    for kind, width in plan:
        block, made = BLOCKS[kind](made, width)
        parts.append(block)
    return nn.Sequential(*parts, nn.Conv2d(made, 8, 1), nn.ReLU(), head(8))


@st.composite
def animals(draw: st.DrawFn) -> Animal:
    """Draw two to four blocks after a first convolution, and their widths."""
    first = ("conv", draw(st.sampled_from(WIDTHS)))
    block = st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from(WIDTHS))
    plan = (first, *draw(st.lists(block, min_size=2, max_size=4)))
    return Animal(" ".join(f"{kind}{width}" for kind, width in plan), lambda: built(plan), images)
