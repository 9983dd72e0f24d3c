"""Turns: searches that share a study ask for trials one after the other, where their storage lets them."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from threading import Lock, local
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


class Turn:
    """The turn of one search, which each of its threads takes in one place and lets go in another.

    Optuna's loop asks for a trial between two calls of ours: the turn is taken before what came of a trial is told, and
    let go once the next one's candidate is claimed. So it is held by a thread whenever that evaluates no candidate.

    Args:
        turns: How searches take turns.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._among_threads = Lock()
        self._held = local()

    @property
    def exclusive(self) -> bool:
        """Whether no other search has one meanwhile."""
        return self._turns.exclusive

    def take(self) -> None:
        """Wait for the turn, unless this thread has it already."""
        if getattr(self._held, "stack", None) is None:
            with ExitStack() as stack:
                stack.enter_context(self._among_threads)
                stack.enter_context(self._turns())
                self._held.stack = stack.pop_all()

    def release(self) -> None:
        """Let go of it, where this thread has it."""
        stack, self._held.stack = getattr(self._held, "stack", None), None
        if stack is not None:
            stack.close()

    def __enter__(self) -> Turn:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
