"""The networks of the zoo: what each is called, what it takes, and how its weights become sane.

Random weights are enough: whether a file computes what a network computes does not depend on what it was taught. They
are all different, so that a weight can be told by its value wherever it went.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from karui.spaces.rounding.settings import Rounding

Inputs = Callable[[int], Tensor]
Maker = Callable[[], nn.Module]

CLASSES = 5
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def even(*shape: int) -> Tensor:
    """Return numbers of deviation one that have bounds, so that some batches tell what range others lie in."""
    return (2 * torch.rand(*shape) - 1) * 3**0.5


def images(count: int, channels: int = 3, side: int = 8) -> Tensor:
    """Return images that differ in colour, in large forms and in grain."""
    forms = nn.functional.interpolate(even(count, channels, 2, 2), size=(side, side), mode="bilinear")
    return even(count, channels, 1, 1) + forms + 0.3 * even(count, channels, side, side)


def sequences(count: int, steps: int = 12, features: int = 6) -> Tensor:
    """Return sequences of vectors, shape (count, steps, features)."""
    return even(count, 1, features) + even(count, steps, features)


def signals(count: int, channels: int = 3, steps: int = 24) -> Tensor:
    """Return signals with channels first, shape (count, channels, steps)."""
    return even(count, channels, 1) + even(count, channels, steps)


def vectors(count: int, features: int = 12) -> Tensor:
    """Return plain vectors."""
    return even(count, features)


def tokens(count: int, steps: int = 12, kinds: int = 20) -> Tensor:
    """Return int64 token numbers."""
    return torch.randint(0, kinds, (count, steps))


def pixels(count: int) -> Tensor:
    """Return uint8 images."""
    return (images(count) * 40 + 128).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Animal:
    """One network of the zoo.

    Args:
        name: What it is called.
        make: Returns it, its weights as its layers make them.
        inputs: Returns a batch of so many inputs.
        refused: Words of the reason for which a treatment is refused, by the treatment's name; any other refusal of
            it is a fault.
        rounding: How weights are rounded: large networks take the quick way.
    """

    name: str
    make: Maker
    inputs: Inputs
    refused: Mapping[str, str] = field(default_factory=dict)
    rounding: Rounding = "feedback"

    @property
    def subject(self) -> str:
        """The file that it is in, such as ``structures``."""
        return self.make.__module__.rpartition("networks_")[2]

    def network(self) -> nn.Module:
        """Return the network in evaluation mode, always with the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(self.name.encode()))
            network = self.make()
            vary(network)
            settle = getattr(network, "settle", None)
            if callable(settle):
                settle()
            take_statistics(network, self.inputs(64))
        return network.eval()

    def batch(self, count: int, seed: int) -> Tensor:
        """Return inputs, the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.inputs(count)


ZOO: dict[str, Animal] = {}


def animal(
    inputs: Inputs = images,
    *,
    name: str = "",
    refused: Mapping[str, str] | None = None,
) -> Callable[[Maker], Maker]:
    """Add what the decorated class or function makes to the zoo, under its own name unless another is given."""

    def add(make: Maker) -> Maker:
        called = name or make.__name__
        assert called not in ZOO, f"two networks are called {called}"
        ZOO[called] = Animal(called, make, inputs, refused or {})
        return make

    return add


def vary(network: nn.Module) -> None:
    """Give layers weights that keep a signal's size, and every constant of a norm or bias a value of its own."""
    with torch.no_grad():
        for module in network.modules():
            own = dict(module.named_parameters(recurse=False))
            if isinstance(module, WEIGHTED) and "weight" in own:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.MultiheadAttention):  # layers that are copies of one have the same
                nn.init.xavier_uniform_(module.in_proj_weight)
            if isinstance(module, NORMS) and own.get("weight") is not None:
                module.weight.uniform_(0.5, 1.5)
            if isinstance(module, (*WEIGHTED, *NORMS)) and own.get("bias") is not None:
                module.bias.normal_(0.0, 0.1)
            for parameter in own.values():
                _spread(parameter)


def _spread(parameter: Tensor) -> None:
    """Give a parameter that is one value everywhere, as a token or a learnt scale before training, many."""
    value = float(parameter.flatten()[0]) if parameter.numel() else 0.0
    if parameter.numel() < 2 or not bool((parameter == value).all()):
        return
    if abs(value) < 1e-3:  # tokens; or scales under which a block does nothing yet
        parameter.normal_(0.0, 0.1) if value == 0.0 else parameter.uniform_(0.05, 0.2)
    else:
        parameter.mul_(torch.rand_like(parameter) + 0.5)


def take_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Let batch normalization see what it normalizes; everything else is as in evaluation."""
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in inputs.split(16):
            network(part.clone())
    network.eval()
