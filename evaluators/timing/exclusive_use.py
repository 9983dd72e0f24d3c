"""An evaluator that has the machine to itself while it measures; and one that measures elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from ...spaces.artifact import Artifact
from ..measurement import Evaluator, Measurement
from .machine_lock import MachineLock


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


class Elsewhere:
    """Another evaluator, which measures on another machine: this one is free for others meanwhile.

    Args:
        evaluator: What measures.
        lock: Keeps work and measuring on this machine apart.
    """

    def __init__(self, evaluator: Evaluator, lock: MachineLock) -> None:
        self._evaluator = evaluator
        self._lock = lock

    @property
    def name(self) -> str:
        """The evaluator's own name."""
        return self._evaluator.name

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Measure, however long the other machine takes or is waited for."""
        with self._lock.resting():
            return self._evaluator.measure(artifact)
