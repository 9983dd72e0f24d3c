"""The exits axis as data: where an early exit may lie, and how sure its head must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator

from ....errors import SpaceError
from ...candidate import BuildStage, Candidate
from ...section import Choices
from ...step import FileWork, Step
from ..axis import Axis, Sentences, Suggester, choose

if TYPE_CHECKING:
    from ...task import Task


def _depth(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError("a share of the multiply-adds from 0 (no exit) to below 1")
    return value


def _threshold(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("a confidence between 0 (always taken) and 1 (never taken), both excluded")
    return value


Depth = Annotated[float, AfterValidator(_depth)]
Threshold = Annotated[float, AfterValidator(_threshold)]


class ExitsAxis(Axis):
    """Early exits: a small head that answers for the inputs of which it is sure, after a part of the network.

    Args:
        depths: Shares of the multiply-adds before the exit; the nearest place where the graph can be cut is taken, and
            0 stands for no exit.
        thresholds: Confidences above which the exit is taken; asked only where there is one.
    """

    prefix: ClassVar[str] = "exit."
    first_stage: ClassVar[BuildStage] = BuildStage.PACKING
    uses: ClassVar[Mapping[str, str]] = {"exits": "early exits"}

    depths: Choices[Depth] = (0.0, 0.3, 0.6)
    thresholds: Choices[Threshold] = (0.8, 0.9, 0.95)

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add an exit to a candidate, or none."""
        depth = trial.suggest_categorical("exit.depth", self.depths)
        if not depth:
            return candidate
        threshold = choose(trial, "exit.threshold", self.thresholds)
        return replace(candidate, exit_depth=depth, exit_threshold=threshold)

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return where the exit lies."""
        return {"exit.depth": candidate.exit_depth, "exit.threshold": candidate.exit_threshold}

    @property
    def depends_on_input(self) -> bool:
        """Whether there may be an exit; candidates without one are timed like the others."""
        return True

    def check(self, task: Task, output_shape: tuple[int, ...]) -> None:
        """Check that the task's outputs and targets are those of classes."""
        from .coverage import kind_of_targets

        if not any(self.depths) or (kind := kind_of_targets(task, output_shape)) is None:
            return
        raise SpaceError(
            "the axis [exits] cannot decide for this task when an input is done",
            where="[exits]",
            expected="one row of logits of two or more classes for each input, and class indices as targets",
            got=f"outputs of shape {output_shape} for each input, targets of a batch {kind}",
            remedy="leave the section [exits] out",
        )

    def coverage(self, trains_later: bool) -> Iterable[Sentences]:  # noqa: ARG002
        """Return what says where an exit can lie."""
        return (_places,) if any(self.depths) else ()

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Leave the threshold out where there is no exit; whole numbers become floats, since JSON tells them apart."""
        depth = float(candidate.exit_depth)
        return replace(candidate, exit_depth=depth, exit_threshold=float(candidate.exit_threshold) if depth else 0.0)

    @classmethod
    def through(cls, candidate: Candidate, stage: BuildStage) -> Candidate:
        """Return the candidate without its exit, before the file is packed."""
        return candidate if stage >= cls.first_stage else replace(candidate, exit_depth=0.0)

    @classmethod
    def add_steps(cls, candidate: Candidate, steps: Sequence[Step]) -> Sequence[Step]:
        """Put an exit in the place of packing: the halves before and behind it are packed one by one."""
        if not candidate.exit_depth:
            return steps
        choice = {"depth": candidate.exit_depth, "threshold": candidate.exit_threshold}
        leave = Step("exit", BuildStage.PACKING, "exits", choice, is_learnt=True, one_by_one=True)
        return [*(step for step in steps if step.stage != BuildStage.PACKING), leave]

    @classmethod
    def change_file(cls, source: Path, destination: Path, step: Step, work: FileWork) -> None:
        """Write the packed file with an exit."""
        from .exit_file_check import ExitChoice
        from .stage import ExitStage

        stage = work.kept.setdefault("exits", ExitStage(work.task))
        stage.make(source, destination, ExitChoice(**step.settings))

    @classmethod
    def describe(cls, candidate: Candidate) -> Sequence[str]:
        """Return where the exit lies and how sure it is."""
        return [f"exit {candidate.exit_depth:g} > {candidate.exit_threshold:g}"] if candidate.exit_depth else []

    @classmethod
    def configuration(cls, candidate: Candidate) -> Sequence[tuple[str, str]]:
        """Return the same in words."""
        if not candidate.exit_depth:
            return []
        where, sure = f"{candidate.exit_depth:.0%}", f"{candidate.exit_threshold:.0%}"
        return [("Early exit", f"after {where} of the multiply-adds, where it is more than {sure} sure")]

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Say whether a trial has an exit."""
        return bool(chosen.get("exit.depth", 0))


def _places(task: Task, baseline: Path) -> Iterable[str]:
    from .coverage import describe_places

    return describe_places(task, baseline)
