"""What a network is to a candidate that is made of it, and the network that came with the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Architecture(Protocol):
    """A network as data: a frozen dataclass that can be hashed and written as JSON."""

    @property
    def kind(self) -> str:
        """What tells networks of its axis from others; the same for all of them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the kind; its axis reads them back."""

    def describe(self) -> str:
        """Return a short text for tables and plots, such as ``shallower x0.5, depth 0.5``."""

    def sentence(self) -> str:
        """Return what it is in words, for the report."""


@dataclass(frozen=True)
class Baseline:
    """The user's own network, as it came."""

    kind = "baseline"

    def to_dict(self) -> dict[str, Any]:
        """Return nothing: there is one only."""
        return {}

    def describe(self) -> str:
        """Return its name."""
        return "baseline"

    def sentence(self) -> str:
        """Return what it is in words."""
        return "your model, every block kept"
