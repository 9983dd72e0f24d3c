"""What a trial leaves behind: attributes in Optuna's storage, written and read in one place."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..evaluators.measurement import Measurement
from ..spaces.artifact import StageRecord
from ..spaces.candidate import Candidate
from .curves import LearningCurve
from .gates import Gates, Stop

ATTEMPTS = 3
"""How often a candidate is begun before a search that keeps being killed on it gives it up."""


@dataclass(frozen=True)
class Outcome:
    """What was found out about one candidate.

    Args:
        measurements: By name.
        digest: SHA-256 of the file that was measured.
        stages: How long each stage took.
        curves: How its trainings went, where it had any.
        let_through: The gate that would have stopped it, and why, where it went on as a test of that gate.
    """

    measurements: Mapping[str, Measurement]
    digest: str
    stages: tuple[StageRecord, ...] = ()
    curves: tuple[LearningCurve, ...] = ()
    let_through: Stop | None = None


class Evaluate(Protocol):
    """Makes a candidate and measures it; given to the search from outside, so that the search needs no torch."""

    def __call__(self, candidate: Candidate, gates: Gates | None = None, /) -> Outcome:
        """Make and measure, and stop where the gates say so.

        Raises:
            CandidateFailure: Where this candidate cannot be made or measured.
            CandidateStopped: Where a gate stops it.
        """


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

    @property
    def key(self) -> str:
        """The candidate's canonical key, or an empty text."""
        return self.candidate.key if self.candidate else ""

    def values(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return the values of the named measurements of an evaluated trial."""
        if self.outcome is None:
            raise ValueError(f"trial {self.number} is {self.state} and has no measurements")
        return tuple(self.outcome.measurements[name].value for name in names)


def owner_mark() -> dict[str, Any]:
    """Return what tells later whether the process that runs a trial is still there."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_of(os.getpid())}


def owner_is_gone(mark: Mapping[str, Any] | None) -> bool:
    """Say whether the process of this mark ran on this host and runs no more; unknown marks count as gone."""
    if mark is None:
        return True
    if mark.get("host") != socket.gethostname():
        return False
    pid = int(mark["pid"])
    if pid == os.getpid() or mark.get("started") != _start_of(pid):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since boot, where the system tells: process numbers are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def write_candidate(trial: Trial, candidate: Candidate) -> None:
    """Note the candidate of a running trial."""
    trial.set_user_attr("candidate", candidate.to_dict())
    trial.set_user_attr("summary", candidate.describe())


def write_outcome(trial: Trial, outcome: Outcome) -> None:
    """Note what was measured."""
    trial.set_user_attr("measurements", {name: item.to_dict() for name, item in outcome.measurements.items()})
    trial.set_user_attr("digest", outcome.digest)
    trial.set_user_attr("stages", [[item.stage, item.seconds, item.cached] for item in outcome.stages])
    if outcome.curves:
        trial.set_user_attr("curves", [[curve.kind, curve.epochs, list(curve.metrics)] for curve in outcome.curves])
    if outcome.let_through is not None:
        trial.set_user_attr("let_through", asdict(outcome.let_through))


def write_end(trial: Trial, status: str, stage: str = "", reason: str = "") -> None:
    """Note how a trial that was not evaluated ended."""
    trial.set_user_attr("status", status)
    trial.set_user_attr("stage", stage)
    trial.set_user_attr("reason", reason)


def attempts_of(trial: FrozenTrial) -> int:
    """Return how often the parameters of this trial have been begun, this time included."""
    return int(trial.user_attrs.get("attempts", 1))


def read_record(trial: FrozenTrial) -> TrialRecord:
    """Read a trial back from the storage."""
    attributes = trial.user_attrs
    outcome = _read_outcome(attributes) if trial.state == TrialState.COMPLETE else None
    plain = attributes.get("candidate")
    state, stage, reason = _ending_of(trial)
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
        return attributes["status"], attributes["stage"], attributes["reason"]
    attempts = attempts_of(trial)
    state = "failed" if attempts >= ATTEMPTS else "interrupted"
    return state, "", f"the search was stopped or killed during attempt {attempts} of {ATTEMPTS}"


def _read_outcome(attributes: Mapping[str, Any]) -> Outcome:
    return Outcome(
        measurements={name: Measurement.from_dict(item) for name, item in attributes["measurements"].items()},
        digest=attributes["digest"],
        stages=tuple(StageRecord(stage, seconds, cached) for stage, seconds, cached in attributes["stages"]),
        curves=tuple(LearningCurve(kind, epochs, tuple(found)) for kind, epochs, found in attributes.get("curves", ())),
        let_through=Stop(**attributes["let_through"]) if "let_through" in attributes else None,
    )
