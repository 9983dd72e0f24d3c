"""Who evaluates candidates for the search: the seam, and the plainest of those behind it."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import CandidateFailure, CandidateStopped, KaruiError, TargetUnavailable, describe_error
from ..spaces.candidate import Candidate
from .faults import stopped_by
from .gates import Gates
from .machine_faults import machine_fault
from .outcome import Evaluate, Result, UnexpectedError

DEFAULT_STAGE = "worker"
"""The stage of a candidate that has named none yet."""


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


def unexpected(error: BaseException, stage: str) -> UnexpectedError | None:
    """Return what is to be told of an error in the middle of a candidate; None where it is the candidate's own failure.

    Args:
        error: As it was raised, with what it came of.
        stage: Where the candidate was.
    """
    kind = machine_fault(error)
    if kind is None and isinstance(error, CandidateFailure):
        return None
    reason = error.reason if isinstance(error, CandidateFailure) else describe_error(error)
    return UnexpectedError(stage, reason, "".join(traceback.format_exception(error)), kind or "bug")


class InProcess:
    """Evaluates one candidate at a time in this very process, while the search waits.

    What the machine lacks is told as with worker processes; bugs propagate, so that a debugger meets them. An
    accelerator that has failed is of no more use to this process, which ends the search.

    Args:
        evaluate: Makes and measures one candidate.
    """

    size = 1

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._waiting: list[tuple[int, Candidate, Gates | None]] = []
        self.ticket: int | None = None
        self.stage = DEFAULT_STAGE

    def submit(self, ticket: int, candidate: Candidate, gates: Gates | None = None) -> None:
        """Keep the candidate for the next :meth:`wait`."""
        self._waiting.append((ticket, candidate, gates))

    def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002
        """Evaluate what waits, however long that takes.

        Raises:
            KaruiError: Where the candidate meets one, such as a full disk, or the accelerator has failed.
        """
        if not self._waiting:
            return ()
        self.ticket, candidate, gates = self._waiting.pop(0)
        self.stage = DEFAULT_STAGE
        try:
            return (Answer(self.ticket, self._evaluate(candidate, *given(gates))),)
        except (CandidateStopped, TargetUnavailable) as ended:
            return (Answer(self.ticket, ended),)
        except CandidateFailure as failure:
            fault = unexpected(failure, failure.stage)
            if fault is None:
                return (Answer(self.ticket, failure),)
        except KaruiError:
            raise  # something that the user can put right, as with worker processes
        except Exception as error:
            fault = unexpected(error, self.stage)
            if fault is None or (fault.kind == "bug" and not isinstance(error, OSError)):
                raise
        if fault.kind == "accelerator":
            raise stopped_by(fault, 1)
        return (Answer(self.ticket, fault),)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
