"""One candidate's way through its gates, in the process that makes it."""

from __future__ import annotations

from ..errors import CandidateStopped
from .curves import LearningCurve, is_rung
from .gates import Draft, Gates, Stop


class Passage:
    """Meets the gates one after the other, and takes down the candidate's learning curves.

    A candidate that a gate lets through as a test goes to the end, whatever later gates say: what becomes of it is
    to tell whether that one gate was right.

    Args:
        gates: None where there are none; learning curves are taken down all the same.
    """

    def __init__(self, gates: Gates | None) -> None:
        self.gates = gates
        self.let_through: Stop | None = None
        self._draft: Draft | None = None
        self._metrics: dict[tuple[str, int], list[float]] = {}

    @property
    def curves(self) -> tuple[LearningCurve, ...]:
        """The curves so far, in the order of the trainings."""
        return tuple(LearningCurve(kind, epochs, tuple(found)) for (kind, epochs), found in self._metrics.items())

    def size(self, size_bytes: float) -> None:
        """Meet the bound on size with a draft's.

        Raises:
            CandidateStopped: Where it ends here.
        """
        self._meet(self.gates.check_size(size_bytes) if self.gates else None)

    def draft(self, draft: Draft) -> None:
        """Meet what can be known before training.

        Raises:
            CandidateStopped: Where it ends here.
        """
        self._draft = draft
        self._meet(self.gates.check_draft(draft) if self.gates else None)

    def on_epoch(self, kind: str, epochs: int, epoch: int, metric: float) -> None:
        """Take down an epoch of training, and meet the gate where it is a rung.

        Raises:
            CandidateStopped: Where it ends here.
        """
        metrics = self._metrics.setdefault((kind, epochs), [])
        metrics.append(metric)
        if self.gates is not None and is_rung(epoch, epochs):
            self._meet(self.gates.check_rung(self._draft, LearningCurve(kind, epochs, tuple(metrics))))

    def _meet(self, stop: Stop | None) -> None:
        if stop is None or self.gates is None or self.let_through is not None:
            return
        if stop.gate not in self.gates.tested:
            raise CandidateStopped(stop.gate, stop.reason, stop.excess)
        self.let_through = stop
