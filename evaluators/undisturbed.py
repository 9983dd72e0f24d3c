"""An evaluator that has the machine to itself while it measures."""

from __future__ import annotations

from collections.abc import Callable

from ..spaces.artifact import Artifact
from .machine_lock import MachineLock
from .measurement import Evaluator, Measurement


class Undisturbed:
    """Another evaluator, run while no worker on this machine does anything else.

    Args:
        evaluator: What measures.
        lock: Keeps work and measuring apart.
        waits: Called where it has to wait for others to come to the end of a step.
    """

    def __init__(self, evaluator: Evaluator, lock: MachineLock, waits: Callable[[], None] | None = None) -> None:
        self._evaluator = evaluator
        self._lock = lock
        self._waits = waits

    @property
    def name(self) -> str:
        """The evaluator's own name."""
        return self._evaluator.name

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Wait for the machine, and measure."""
        with self._lock.measuring(self._waits):
            return self._evaluator.measure(artifact)
