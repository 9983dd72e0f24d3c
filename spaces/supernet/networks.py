"""What a supernet asks of the networks that share its weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from torch import nn

from ..architectures import Architecture
from ..axis import Suggester

Choice = TypeVar("Choice", bound=Architecture)


class SharedNetworks(Protocol[Choice]):
    """The networks of an axis for one task's inputs and outputs, and where each finds its weights."""

    def largest(self) -> Choice:
        """Return the network that is trained on the targets, and that teaches the others."""

    def smallest(self) -> Choice:
        """Return the network that costs least."""

    def draw(self, trial: Suggester) -> Choice:
        """Return a network that can be made, its parameters chosen by the trial."""

    def build(self, choice: Choice) -> nn.Module:
        """Return the untrained network of a choice.

        Raises:
            ValueError: Where there is no such network.
        """

    def build_shared(self) -> nn.Module:
        """Return a module that holds, untrained, the weights of all networks; it need not run."""

    def origins(self, choice: Choice, names: Iterable[str], /) -> dict[str, str]:
        """Return, for each name of the built network's tensors, that of the shared tensor it is cut from."""
