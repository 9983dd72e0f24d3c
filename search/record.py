"""What a trial leaves behind: attributes in Optuna's storage, written and read in one place; and who is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import RLock
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors import DAMAGED, OutputError, plain_line
from ..evaluators.measurement import Measurement
from ..spaces.candidate import Candidate
from .objectives import OBJECTIVES
from .outcome import Outcome as Outcome

_OBJECTIVES = {objective.name for objective in OBJECTIVES}

ATTEMPTS = 3
"""How often a candidate is begun before a search that keeps being killed on it gives it up."""


PROMOTED = "epochs_factor"
"""The attribute of a trial whose candidate is promoted: how many times the epochs it is trained for."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as karui sees it.

    Args:
        number: Optuna's number of the trial.
        state: ``evaluated``, ``duplicate``, ``impossible``, ``stopped``, ``failed``, ``interrupted``, ``running`` or
            ``waiting``.
        stage: The stage that failed, or the gate that stopped the candidate or would have; empty otherwise.
        reason: Why the trial was stopped, would have been, or failed; empty otherwise.
        parameters: What the sampler chose.
        candidate: The candidate, where it got so far.
        outcome: What was measured, for evaluated trials.
        feasible: Whether every bound is kept, for evaluated trials.
        seconds: Wall-clock time of the trial.
        kills: How often searches were killed on it or on those it was begun again for, where it was not given up.
    """

    number: int
    state: str
    stage: str
    reason: str
    parameters: Mapping[str, Any]
    candidate: Candidate | None
    outcome: Outcome | None
    feasible: bool
    seconds: float
    kills: int = 0

    @property
    def is_promoted(self) -> bool:
        """Whether its candidate was trained anew, at the end of a search, for more epochs than others."""
        return self.candidate is not None and self.candidate.epochs_factor > 1

    @property
    def key(self) -> str:
        """The candidate's canonical key, or an empty text."""
        return self.candidate.key if self.candidate else ""

    @property
    def summary(self) -> str:
        """The candidate in words, as it was made; an empty text where there is none."""
        return self.candidate.describe_made(self.outcome.notes if self.outcome else ()) if self.candidate else ""

    def values(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return the values of the named measurements of an evaluated trial."""
        return tuple(self._measured[name].value for name in names)

    def spreads(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return the spreads of the named measurements of an evaluated trial."""
        return tuple(self._measured[name].spread for name in names)

    @property
    def _measured(self) -> Mapping[str, Measurement]:
        if self.outcome is None:
            raise ValueError(f"trial {self.number} is {self.state} and has no measurements")
        return self.outcome.measurements


def write_candidate(trial: Trial, candidate: Candidate) -> None:
    """Note the candidate of a running trial."""
    trial.set_user_attr("candidate", candidate.to_dict())
    trial.set_user_attr("summary", candidate.describe())


def write_begin(trial: Trial) -> None:
    """Note that the candidate of a running trial is being made: it is neither impossible nor a duplicate."""
    trial.set_user_attr("begun", utc_now())


def write_outcome(trial: Trial, outcome: Outcome) -> None:
    """Note what was measured; the stages last, so that where they are noted all is."""
    for name, value in outcome.to_dict().items():
        trial.set_user_attr(name, value)


def read_outcome(trial: FrozenTrial) -> Outcome | None:
    """Return what was measured, or None where it was not noted to its end."""
    return Outcome.from_dict(trial.user_attrs) if "stages" in trial.user_attrs else None


def write_end(trial: Trial, status: str, stage: str = "", reason: str = "") -> None:
    """Note how a trial that was not evaluated ended; the status last, so that where it is noted all is."""
    trial.set_user_attr("stage", stage)
    trial.set_user_attr("reason", plain_line(reason))
    trial.set_user_attr("status", status)


def has_begun(trial: FrozenTrial) -> bool:
    """Say whether its candidate was being made: what was killed before that was not killed by it."""
    return "begun" in trial.user_attrs


def attempts_of(trial: FrozenTrial) -> int:
    """Return how often the parameters of this trial have been begun, this time included."""
    return int(trial.user_attrs.get("attempts", 1))


def read_record(trial: FrozenTrial) -> TrialRecord:
    """Read a trial back from the storage.

    Raises:
        OutputError: Where its attributes are not such as a search notes.
    """
    try:
        return _read_record(trial)
    except DAMAGED as error:
        raise OutputError(
            f"trial {trial.number} of the study cannot be read",
            where="what is noted of that trial in the study's storage",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            remedy="restore study.db from a copy, or begin anew with another --out or --storage",
        ) from error


def _read_record(trial: FrozenTrial) -> TrialRecord:
    attributes = trial.user_attrs
    outcome = read_outcome(trial) if trial.state == TrialState.COMPLETE else None
    plain = attributes.get("candidate")
    state, stage, reason = _ending_of(trial)
    if not all(isinstance(text, str) for text in (state, stage, reason)):
        raise ValueError("status, stage and reason are texts")
    if outcome is not None and (missing := _OBJECTIVES - outcome.measurements.keys()):
        raise ValueError(f"its {min(missing)} is missing")
    return TrialRecord(
        number=trial.number,
        state=state,
        stage=stage,
        reason=reason,
        parameters=trial.params,
        candidate=Candidate.from_dict(plain) if plain else None,
        outcome=outcome,
        feasible=outcome is not None and all(value <= 0 for value in trial.constraints.values()),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        kills=_kills_of(trial) if state == "interrupted" else 0,
    )


def read_records(study: optuna.Study) -> list[TrialRecord]:
    """Read every trial of a study, in the order of their numbers."""
    return [read_record(trial) for trial in study.get_trials(deepcopy=False)]


def _ending_of(trial: FrozenTrial) -> tuple[str, str, str]:
    """Return state, stage and reason; a failed trial that noted no ending was cut off in the middle."""
    attributes = trial.user_attrs
    if trial.state == TrialState.COMPLETE:
        tested = attributes.get("let_through")
        if tested is not None:
            return "evaluated", tested["gate"], f"let through as a test of this gate: {tested['reason']}"
        return "evaluated", "", ""
    if trial.state in (TrialState.RUNNING, TrialState.WAITING):
        return trial.state.name.lower(), "", ""
    if "status" in attributes:
        # made plain here as well: earlier versions kept what somebody's exception said as it was
        return attributes["status"], attributes["stage"], plain_line(attributes["reason"])
    attempts = attempts_of(trial)
    state = "failed" if attempts >= ATTEMPTS and has_begun(trial) else "interrupted"
    return state, "", f"the search was stopped or killed during attempt {attempts} of {ATTEMPTS}"


def _kills_of(trial: FrozenTrial) -> int:
    """Return on how many attempts of an interrupted trial a search was killed; one that was stopped says so."""
    return attempts_of(trial) - ("status" in trial.user_attrs or not has_begun(trial))


def utc_now() -> str:
    """Return the time in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Listener(Protocol):
    """Is told how the search goes."""

    def begun(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be made."""

    def reached(self, number: int, stage: str) -> None:
        """A candidate in flight has come to a stage, or waits for something."""

    def ended(self, record: TrialRecord) -> None:
        """A trial of this search has ended, in whatever state."""

    def seen(self, record: TrialRecord) -> None:
        """A trial of another search has ended."""

    def happened(self, event: str, **details: Any) -> None:
        """Something that a person may want to know the next morning has happened; JSON types only."""


class Quiet:
    """A listener that takes no notice: a subclass overrides what it wants to know."""

    def begun(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be made."""

    def reached(self, number: int, stage: str) -> None:
        """A candidate in flight has come to a stage, or waits for something."""

    def ended(self, record: TrialRecord) -> None:
        """A trial of this search has ended, in whatever state."""

    def seen(self, record: TrialRecord) -> None:
        """A trial of another search has ended."""

    def happened(self, event: str, **details: Any) -> None:
        """Something that a person may want to know the next morning has happened; JSON types only."""


class OneAtATime:
    """A listener that hands on to another what several threads tell, one after the other.

    Args:
        listener: Is told everything.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._lock = RLock()

    def begun(self, number: int, candidate: Candidate) -> None:
        """Hand it on."""
        with self._lock:
            self._listener.begun(number, candidate)

    def reached(self, number: int, stage: str) -> None:
        """Hand it on."""
        with self._lock:
            self._listener.reached(number, stage)

    def ended(self, record: TrialRecord) -> None:
        """Hand it on."""
        with self._lock:
            self._listener.ended(record)

    def seen(self, record: TrialRecord) -> None:
        """Hand it on."""
        with self._lock:
            self._listener.seen(record)

    def happened(self, event: str, **details: Any) -> None:
        """Hand it on."""
        with self._lock:
            self._listener.happened(event, **details)
