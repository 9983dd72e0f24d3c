"""Functions of one value, between layers that can be rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Apply, conv, head
from .registry import animal

FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
    "gelu": nn.GELU,
    "gelu_by_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "one_slope": nn.PReLU,
    "slopes": partial(nn.PReLU, 16),
    "leaky": partial(nn.LeakyReLU, 0.2),
    "leaky_backwards": partial(nn.LeakyReLU, -0.5),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "hard_tanh": partial(nn.Hardtanh, -0.5, 0.7),
    "threshold": partial(nn.Threshold, 0.3, -0.2),
    "at_least": partial(Apply, lambda x: x.clamp(min=0.3)),
    "at_most": partial(Apply, lambda x: x.clamp(max=-0.2)),
    "within": partial(Apply, lambda x: x.clamp(0.2, 0.9)),
    "larger_of": partial(Apply, lambda x: torch.maximum(x, torch.tensor(-0.4))),
    "squared": partial(Apply, lambda x: F.relu(x).square()),
    "absolute": partial(Apply, torch.abs),
    "sine": partial(Apply, torch.sin),
    "exponential": partial(Apply, lambda x: torch.exp(-x.square())),
    "logarithm": partial(Apply, lambda x: torch.log1p(x.abs())),
    "shifted_negative": partial(Apply, lambda x: -F.relu(x) - 1.5),
    "rounded": partial(Apply, lambda x: torch.floor(x * 4) / 4),
    "where": partial(Apply, lambda x: torch.where(x > 0, x, 0.1 * x.square())),
    "star": partial(Apply, lambda x: 0.9 * F.relu(x).clamp(max=2) ** 2 - 0.45),
}


def activated(function: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(conv(3, 16), function(), conv(16, 16), function(), head(16))


REFUSED = {"threshold": {"export": "threshold"}}

for _name, _function in FUNCTIONS.items():
    animal(name=f"activation_{_name}", refused=REFUSED.get(_name))(partial(activated, _function))


@animal(refused={"depth": "computes something else"})
class EveryActivation(nn.Module):
    """One after the other, each between two linear layers of a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        kinds = (nn.ReLU6, nn.Hardswish, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh)
        self.stem, self.head = conv(3, 12), head(12)
        self.blocks = nn.ModuleList(nn.Sequential(conv(12, 12, 1), kind()) for kind in kinds)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = hidden + 0.5 * block(hidden)
        return self.head(hidden)
