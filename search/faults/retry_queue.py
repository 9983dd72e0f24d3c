"""Candidates whose target does not answer: made, not measured, and not failed; they wait while others are made."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ...errors import TargetUnavailable

PATIENCE_SECONDS = 600.0
"""Once nothing but waiting is left, a search ends where its target has been gone for so long."""

LEAST_PAUSE_SECONDS = 10.0
"""A target that nobody has left alone for a while is tried again after this."""


class RetryQueue:
    """Who waits for the target, and when it makes sense to try it again: with one of them first.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers: deque[int] = deque()
        self._error: TargetUnavailable | None = None
        self._gone_since = 0.0
        self._tried_at = -math.inf
        self._again_at = 0.0
        self._first: int | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def error(self) -> TargetUnavailable | None:
        """Why they wait; None where the target has answered since."""
        return self._error

    def is_hopeless(self, idle_since: float) -> bool:
        """Say whether a search waits no longer that has had nothing else to do since then.

        The target has been gone for long, and has been tried once more since.
        """
        return self._tried_at >= idle_since and self._clock() - self._gone_since >= PATIENCE_SECONDS

    @property
    def pause_seconds(self) -> float:
        """How long it is until it makes sense to try again."""
        return max(0.0, self._again_at - self._clock())

    def add(self, number: int, error: TargetUnavailable) -> None:
        """Let a candidate wait."""
        if self._error is None:
            self._gone_since = self._clock()
        self._error = error
        if number == self._first:  # not one that was only just made: its worker may have left the target alone
            self._tried_at = self._clock()
        self._again_at = self._clock() + max(error.retry_seconds, LEAST_PAUSE_SECONDS)
        self._numbers.append(number)
        self._first = None

    def ended(self, number: int, *, answered: bool) -> bool:
        """Take up that a candidate in flight has ended in another way; return whether a gone target is back.

        Args:
            number: Of its trial.
            answered: Whether its target has answered.
        """
        if number == self._first:
            self._first = None
        is_back = answered and self._error is not None
        if answered:
            self._error = None
        return is_back

    @property
    def is_due(self) -> bool:
        """Whether somebody is to be tried again now."""
        return bool(self._numbers) and (self._error is None or (self._first is None and self.pause_seconds <= 0))

    def next(self) -> int | None:
        """Take out the one to try again now; None where there is none, or it is too early."""
        if not self.is_due:
            return None
        if self._error is not None:
            self._first = self._numbers[0]
        return self._numbers.popleft()

    def clear(self) -> None:
        """Forget them."""
        self._numbers.clear()
        self._error = self._first = None

    def ending(self) -> TargetUnavailable:
        """Return the error with which a search ends that has nothing to do but to wait."""
        error = self._error or TargetUnavailable("a target does not answer")
        waits = "1 candidate waits" if len(self) == 1 else f"{len(self)} candidates wait"
        return TargetUnavailable(
            f"{error.what}; {waits} to be measured",
            where=error.where,
            expected=error.expected,
            got=error.got,
            remedy="bring it back and give the same command again: what was trained is kept, and nothing is lost"
            + (f" ({error.remedy})" if error.remedy else ""),
        )
