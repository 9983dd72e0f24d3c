"""What a supernet asks of the networks that share its weights."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Protocol, TypeVar

from torch import nn

from ...architectures import Architecture

Choice = TypeVar("Choice", bound=Architecture)


class SharedNetworks(Protocol[Choice]):
    """The networks of an axis for one task's inputs and outputs, and where each finds its weights."""

    @property
    def are_nested(self) -> bool:
        """Whether the largest network holds the weights of all others, so that it can teach them."""

    def largest(self) -> Choice:
        """Return the network that costs most."""

    def smallest(self) -> Choice:
        """Return the network that costs least."""

    def of_step(self, chance: Random) -> list[Choice]:
        """Return the networks that one step trains, at least one, drawn anew; the largest first where it teaches."""

    def build(self, choice: Choice) -> nn.Module:
        """Return the untrained network of a choice.

        Raises:
            ValueError: Where there is no such network.
        """

    def build_shared(self) -> nn.Module:
        """Return a module that holds, untrained, the weights of all networks; it need not run."""

    def origins(self, choice: Choice, names: Iterable[str], /) -> dict[str, str]:
        """Return, for each name of the built network's tensors, that of the shared tensor it is cut from."""
