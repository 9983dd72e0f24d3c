"""Turns: searches that share a study ask for trials one after the other, where their storage lets them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol


class Turns(Protocol):
    """Lets one search at a time ask, so that no two begin the same candidate.

    Attributes:
        exclusive: Whether it does. Where it cannot, of two searches that begin a candidate at the same time the one
            with the lower trial number keeps it.
    """

    @property
    def exclusive(self) -> bool:
        """Whether one search at a time has a turn."""

    def __call__(self) -> AbstractContextManager[Any]:
        """Wait for a turn, and hold it."""


class Alone:
    """The turns of a search that nobody shares its study with."""

    exclusive = True

    def __call__(self) -> AbstractContextManager[Any]:
        """Have a turn at once."""
        return nullcontext()


class Unordered:
    """No turns at all, where the storage is a server's."""

    exclusive = False

    def __call__(self) -> AbstractContextManager[Any]:
        """Have a turn at once, as everybody else has."""
        return nullcontext()
