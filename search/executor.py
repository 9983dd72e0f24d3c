"""Who evaluates candidates for a search: the seam, and the plainest of those behind it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from threading import RLock
from typing import Protocol

from ..errors import CandidateFailure, CandidateStopped, KaruiError, TargetUnavailable, describe_error
from ..spaces.candidate import Candidate
from .faults.failure_guard import machine_fault, stopped_by
from .outcome import Outcome, Result, UnexpectedError
from .stopping.pruning_rules import PruningRules

DEFAULT_STAGE = "worker"
"""The stage of a candidate that has named none yet."""


class Evaluate(Protocol):
    """Makes a candidate and measures it; given to the search from outside, so that the search needs no torch."""

    def __call__(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        """Make and measure, and stop where the gates say so; called without them where there are none.

        Raises:
            CandidateFailure: Where this candidate cannot be made or measured.
            CandidateStopped: Where a gate stops it.
            TargetUnavailable: Where it is made, but what is to measure it does not answer.
        """


class Closed(BaseException):
    """Ends an evaluation whose executor is closed: the search stops, and nothing came of the candidate."""


class Executor(Protocol):
    """Evaluates candidates, as many at a time as it is called from different threads.

    Attributes:
        on_stage: Is told the trial number of a candidate, and the stage that it has come to or what it waits for.
    """

    on_stage: Callable[[int, str], None]

    @property
    def size(self) -> int:
        """How many threads may call it."""

    @property
    def is_here(self) -> bool:
        """Whether candidates are evaluated in this very process, where nothing but their end ends them."""

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        """Return how the evaluation of a candidate ends.

        Args:
            number: Of its trial.
            candidate: What to make and measure.
            gates: What may stop it.

        Raises:
            KaruiError: Where no candidate can be evaluated any more.
            Closed: Where the executor was closed meanwhile.
        """

    def close(self) -> None:
        """End what is in flight; nothing of it is kept running."""


def tell_nobody(number: int, stage: str) -> None:
    """Tell nobody of a stage."""


def given(gates: PruningRules | None) -> tuple[PruningRules, ...]:
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
    """Evaluates one candidate at a time in this very process.

    What the machine lacks is returned as worker processes have it; bugs propagate, so that a debugger meets them. An
    accelerator that has failed is of no more use to this process, which ends the search.

    Args:
        evaluate: Makes and measures one candidate.
    """

    size = 1
    is_here = True

    def __init__(self, evaluate: Evaluate) -> None:
        self.on_stage: Callable[[int, str], None] = tell_nobody
        self._evaluate = evaluate
        self._number, self._stage = 0, DEFAULT_STAGE
        self._one_at_a_time = RLock()  # Optuna may optimize a study by several threads

    def reach(self, stage: str) -> None:
        """Say that the candidate has come to a stage."""
        self._stage = stage
        self.on_stage(self._number, stage)

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        """Return how the evaluation of a candidate ends.

        Raises:
            KaruiError: Where the candidate meets one, such as a full disk, or the accelerator has failed.
        """
        with self._one_at_a_time:
            return self._run(number, candidate, gates)

    def _run(self, number: int, candidate: Candidate, gates: PruningRules | None) -> Result:
        self._number, self._stage = number, DEFAULT_STAGE
        try:
            return self._evaluate(candidate, *given(gates))
        except (CandidateStopped, TargetUnavailable) as ended:
            return ended
        except CandidateFailure as failure:
            fault = unexpected(failure, failure.stage)
            if fault is None:
                return failure
        except KaruiError:
            raise  # something that the user can put right, as with worker processes
        except Exception as error:
            fault = unexpected(error, self._stage)
            if fault is None or (fault.kind == "bug" and not isinstance(error, OSError)):
                raise
        if fault.kind == "accelerator":
            raise stopped_by(fault, 1)
        return fault

    def close(self) -> None:
        """Do nothing: what is evaluated here has ended when it returns."""
