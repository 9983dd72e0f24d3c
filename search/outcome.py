"""What comes of one candidate: its measurements, its own failure, or an error that nobody expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ..errors import CandidateFailure, CandidateStopped, TargetUnavailable, plain_line, plain_text
from ..evaluators.measurement import Measurement
from ..spaces.artifact import StageRecord
from ..spaces.candidate import Candidate
from .curves import LearningCurve
from .gates import Gates, Stop


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


class Evaluate(Protocol):
    """Makes a candidate and measures it; given to the search from outside, so that the search needs no torch."""

    def __call__(self, candidate: Candidate, gates: Gates | None = None, /) -> Outcome:
        """Make and measure, and stop where the gates say so; called without them where there are none.

        Raises:
            CandidateFailure: Where this candidate cannot be made or measured.
            CandidateStopped: Where a gate stops it.
            TargetUnavailable: Where it is made, but what is to measure it does not answer.
        """


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
