"""A target that does not answer: tried again a few times, then left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ...errors import TargetUnavailable
from ..timing.alternating import PairTiming, TimingSettings
from ..timing.over_inputs import InputsTiming
from .target import Target
from .telling import Tell, tell_nobody

PAUSES_SECONDS = (1.0, 3.0, 9.0)
"""How long is waited before each further try."""

FIRST_QUARANTINE_SECONDS = 60.0
LONGEST_QUARANTINE_SECONDS = 960.0
"""A quarantine is twice as long as the one before it, up to this."""

_Found = TypeVar("_Found")


class Quarantine:
    """Another target, whose :class:`~karui.errors.TargetUnavailable` is met with patience.

    A call is tried again after growing pauses. Where that does not help, the target is in quarantine: calls fail at
    once, so that whoever has other work does it, until it is time to try again.

    Args:
        target: The target.
        tell: Is told in a few words what is waited for.
        clock: Seconds that only grow.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        target: Target,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target = target
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._until = 0.0
        self._seconds = FIRST_QUARANTINE_SECONDS
        self._reason: TargetUnavailable | None = None

    @property
    def name(self) -> str:
        """The target's own name."""
        return self._target.name

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.target.Target`."""
        return self._try(lambda: self._target.time_pair(reference_path, candidate_path, inputs, settings))

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.target.Target`."""
        return self._try(lambda: self._target.time_pair_over_inputs(reference_path, candidate_path, inputs, settings))

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming | None:
        """Time the opening of a candidate; see :class:`~karui.evaluators.targets.target.Target`."""
        return self._try(lambda: self._target.time_load_pair(reference_path, candidate_path, settings))

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes; see :class:`~karui.evaluators.targets.target.Target`."""
        return self._try(lambda: self._target.load_peak_bytes(path))

    def conditions(self) -> dict[str, Any]:
        """Return what a latency on the target depends on."""
        return self._try(self._target.conditions)

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes the target another one."""
        return self._try(self._target.fingerprint)

    def close(self) -> None:
        """Let go of what is open."""
        self._target.close()

    def _try(self, call: Callable[[], _Found]) -> _Found:
        if self._reason is not None and self._clock() < self._until:
            raise self._quarantined(self._reason)
        # One that was in quarantine is tried once.
        for pause in PAUSES_SECONDS if self._reason is None else ():
            try:
                return call()
            except TargetUnavailable:
                self._tell(f"{self.name} does not answer, trying again in {pause:g} s")
                self._sleep(pause)
        try:
            found = call()
        except TargetUnavailable as error:
            self._begin(error)
            raise self._quarantined(error) from error
        self._reason, self._seconds = None, FIRST_QUARANTINE_SECONDS
        return found

    def _begin(self, reason: TargetUnavailable) -> None:
        self._reason = reason
        self._until = self._clock() + self._seconds
        self._seconds = min(2 * self._seconds, LONGEST_QUARANTINE_SECONDS)

    def _quarantined(self, reason: TargetUnavailable) -> TargetUnavailable:
        error = TargetUnavailable(
            reason.what, where=reason.where, expected=reason.expected, got=reason.got, remedy=reason.remedy
        )
        error.retry_seconds = max(0.0, self._until - self._clock())
        return error
