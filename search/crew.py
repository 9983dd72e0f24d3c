"""Who evaluates candidates for the search: the seam, and the plainest of those behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import CandidateFailure, CandidateStopped, TargetUnavailable
from ..spaces.candidate import Candidate
from .gates import Gates
from .outcome import Evaluate, Result


@dataclass(frozen=True)
class Reached:
    """A candidate has come to a stage, or waits for something.

    Args:
        ticket: Whose.
        stage: The stage's name, or what it waits for.
    """

    ticket: int
    stage: str


@dataclass(frozen=True)
class Answer:
    """A candidate's evaluation has ended.

    Args:
        ticket: Whose.
        result: How.
    """

    ticket: int
    result: Result


Event = Reached | Answer


class Crew(Protocol):
    """Evaluates as many candidates at a time as it has members."""

    @property
    def size(self) -> int:
        """How many candidates may be in flight."""

    def submit(self, ticket: int, candidate: Candidate, gates: Gates | None = None) -> None:
        """Begin a candidate; at most :attr:`size` at a time.

        Args:
            ticket: Tells its events from those of others.
            candidate: What to make and measure.
            gates: What may stop it.
        """

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has happened as soon as anything has, or nothing after so many seconds.

        Raises:
            KaruiError: Where no candidate can be evaluated any more.
        """

    def close(self) -> None:
        """End what is in flight; nothing of it is kept running."""


def given(gates: Gates | None) -> tuple[Gates, ...]:
    """Return the further arguments of an evaluation: none where there are no gates."""
    return () if gates is None else (gates,)


class InProcess:
    """Evaluates one candidate at a time in this very process, while the search waits; unknown errors propagate.

    Args:
        evaluate: Makes and measures one candidate.
    """

    size = 1

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._waiting: list[tuple[int, Candidate, Gates | None]] = []
        self.ticket: int | None = None

    def submit(self, ticket: int, candidate: Candidate, gates: Gates | None = None) -> None:
        """Keep the candidate for the next :meth:`wait`."""
        self._waiting.append((ticket, candidate, gates))

    def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002
        """Evaluate what waits, however long that takes."""
        if not self._waiting:
            return ()
        self.ticket, candidate, gates = self._waiting.pop(0)
        try:
            return (Answer(self.ticket, self._evaluate(candidate, *given(gates))),)
        except (CandidateFailure, CandidateStopped, TargetUnavailable) as ended:
            return (Answer(self.ticket, ended),)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
