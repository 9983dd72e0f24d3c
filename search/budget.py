"""When a search ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TIME_IS_UP = "the time is up"

STOPPED_PER_TRIAL = 10
"""How many stopped candidates a search bears for each trial of its budget before it ends: each costs a little."""

MOST_FINISHING = 0.5
"""Most of a search's time that is left for what comes after it."""


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        trials: Candidates that are evaluated or fail, in all searches of the study together; duplicates, impossible
            ones, those that a gate stops, and those that are promoted do not count.
        seconds: Wall-clock time of this run, promotion and what comes after it included; None for no limit. No
            candidate is begun that is not expected to end within it, and what has not ended by then is begun again by
            the next run.
        finishing: How many seconds of it are to be left for what comes after, as things stand.
    """

    trials: int
    seconds: float | None = None
    finishing: Callable[[], float] = lambda: 0.0

    @property
    def most_finishing(self) -> float:
        """How many seconds are left for what comes after; of a short run no more than a part."""
        return 0.0 if self.seconds is None else min(self.finishing(), MOST_FINISHING * self.seconds)
