"""What comes of one candidate: its measurements and learning curves, its own failure, or an error of nobody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import CandidateFailure, CandidateStopped, TargetUnavailable, plain_line, plain_text
from ..evaluators.measurement import Measurement
from ..spaces.artifact import StageRecord
from ..spaces.building.recipe import trainings_of as recipe_trainings
from ..spaces.candidate import Candidate

PEERS = 5
"""How many earlier trainings a projection looks at; with fewer, nothing is projected."""


@dataclass(frozen=True)
class LearningCurve:
    """The metric of one training on the validation data, epoch by epoch.

    Args:
        kind: ``warm``, ``from scratch`` or ``aware``: curves of different kinds are not compared.
        epochs: Epochs of the whole schedule; neither are curves of different length.
        metrics: After each epoch, from the first; as many as ``epochs`` where it was not stopped.
    """

    kind: str
    epochs: int
    metrics: tuple[float, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the training went to its end."""
        return len(self.metrics) == self.epochs

    def standing(self, epoch: int) -> float:
        """Return the best metric up to that epoch, which is the one that training keeps."""
        return max(self.metrics[:epoch])


@dataclass(frozen=True)
class PastTraining:
    """A training that went to its end, and what came of it.

    Args:
        curve: Complete.
        end: The accuracy of the file, or the best metric of the training where that is more: rounding may have taken
            from this file what it leaves to another one.
    """

    curve: LearningCurve
    end: float


def optimistic_end(curve: LearningCurve, past: Sequence[PastTraining]) -> float | None:
    """Return what a training that has come so far may reach at most, or None where too little is known to say.

    Of the earlier trainings of its kind and length, the :data:`PEERS` are looked at that stood nearest to it at this
    epoch. Each may be outdone in one way only: one that stood lower is given the lead of the new one on top of its
    end. The largest of these is returned. So it supposes that the new training is like one of its peers, or worse;
    for the k nearest of many that are alike, one in k + 1 ends above them all. Nothing here depends on the unit or the
    zero of the metric.

    Args:
        curve: At least one epoch of it.
        past: Earlier trainings.
    """
    epoch = len(curve.metrics)
    peers = [other for other in past if (other.curve.kind, other.curve.epochs) == (curve.kind, curve.epochs)]
    if len(peers) < PEERS:
        return None
    standings = np.array([peer.curve.standing(epoch) for peer in peers])
    ends = np.array([peer.end for peer in peers])
    leads = curve.standing(epoch) - standings
    nearest = np.argsort(np.abs(leads), kind="stable")[:PEERS]
    return float(np.max(ends[nearest] + np.maximum(leads[nearest], 0.0)))


def is_rung(epoch: int, epochs: int) -> bool:
    """Say whether a training is looked at after this epoch: after 1, 2, 4, 8, ... but not after the last."""
    return epoch < epochs and epoch & (epoch - 1) == 0


Training = tuple[str, str]
"""The stage, and what tells one training of that stage from the others."""


def trainings_of(candidate: Candidate) -> tuple[Training, ...]:
    """Return the trainings behind a candidate's file, the same ones for however many epochs."""
    return recipe_trainings(replace(candidate, epochs_factor=1))


@dataclass(frozen=True)
class Stop:
    """A gate's verdict against a candidate.

    Args:
        gate: One of :data:`GATES`.
        reason: One sentence with the numbers.
        excess: By what share a bound is broken, or the candidate is beaten at least; positive.
    """

    gate: str
    reason: str
    excess: float


@dataclass(frozen=True)
class Outcome:
    """What was found out about one candidate.

    Args:
        measurements: By name.
        digest: SHA-256 of the file that was measured.
        stages: How long each stage took.
        notes: What the file was made of otherwise than asked for, a sentence each.
        curves: How its trainings went, where it had any.
        let_through: The gate that would have stopped it, and why, where it went on as a test of that gate.
    """

    measurements: Mapping[str, Measurement]
    digest: str
    stages: tuple[StageRecord, ...] = ()
    notes: tuple[str, ...] = ()
    curves: tuple[LearningCurve, ...] = ()
    let_through: Stop | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        curves = [[curve.kind, curve.epochs, list(curve.metrics)] for curve in self.curves]
        return {
            "measurements": {name: item.to_dict() for name, item in self.measurements.items()},
            "digest": self.digest,
            **({"notes": list(self.notes)} if self.notes else {}),
            **({"curves": curves} if curves else {}),
            **({"let_through": asdict(self.let_through)} if self.let_through else {}),
            "stages": [[item.stage, item.seconds, item.cached] for item in self.stages],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Outcome:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: Where that is something else.
        """
        return cls(
            measurements={name: Measurement.from_dict(item) for name, item in plain["measurements"].items()},
            digest=str(plain["digest"]),
            stages=tuple(map(_read_stage, plain["stages"])),
            notes=tuple(map(str, plain.get("notes", ()))),
            curves=tuple(map(_read_curve, plain.get("curves", ()))),
            let_through=_read_stop(plain["let_through"]) if "let_through" in plain else None,
        )


def _read_stage(plain: Sequence[Any]) -> StageRecord:
    stage, seconds, cached = plain
    return StageRecord(str(stage), _number(seconds), bool(cached))


def _read_curve(plain: Sequence[Any]) -> LearningCurve:
    kind, epochs, found = plain
    return LearningCurve(str(kind), int(epochs), tuple(map(_number, found)))


def _read_stop(plain: Mapping[str, Any]) -> Stop:
    return Stop(str(plain["gate"]), str(plain["reason"]), _number(plain["excess"]))


def _number(plain: Any) -> float:
    if not isinstance(plain, (int, float)) or isinstance(plain, bool):
        raise ValueError(f"a number was expected, got {str(plain)[:60]}")
    return float(plain)


FaultKind = Literal["memory", "accelerator", "machine", "signal", "bug"]
"""What is at fault where no candidate is: no memory left; an accelerator or its driver; disks, open files and the like;
a signal that ended the worker process; or code."""

_MOST_OF_A_TRACEBACK = 20_000


class WorkerLost(CandidateFailure):
    """A candidate during which its worker process died, or took longer than it may."""


@dataclass(frozen=True)
class UnexpectedError:
    """An error in the middle of a candidate that is not the candidate's own, as far as can be told.

    Args:
        stage: Where the candidate was when it happened.
        reason: Type and message, in one line.
        traceback: As Python prints it.
        kind: What it is an error of; ``bug`` where nothing says that it is the machine's.
    """

    stage: str
    reason: str
    traceback: str
    kind: FaultKind = "bug"

    def __post_init__(self) -> None:
        """Make plain what other people's code said."""
        object.__setattr__(self, "reason", plain_line(self.reason))
        object.__setattr__(self, "traceback", plain_text(self.traceback, _MOST_OF_A_TRACEBACK))


Ending = Outcome | CandidateFailure | CandidateStopped | UnexpectedError
"""What came of one candidate."""

Result = Ending | TargetUnavailable
"""How the evaluation of one candidate ended; where its target did not answer, nothing came of it yet."""
