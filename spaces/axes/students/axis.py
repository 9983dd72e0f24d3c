"""The student axis as data: which families, widths, depths and resolutions may be tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from ...candidate import Baseline, Candidate
from ...data.images import check_images
from ...section import Choices
from ...sparsity_names import share_of
from ...step import NetworkMaterials
from ..axis import NetworkAxis, Sentences, Suggester, choose
from ..sparsity.axis import describe_channels
from .choice import Student
from .names import FAMILIES, RESOLUTIONS, SHALLOWER

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ...task import Task


def _is_family(name: str) -> str:
    if name not in (SHALLOWER, *FAMILIES):
        raise ValueError(f"one of {', '.join((SHALLOWER, *FAMILIES))}")
    return name


Family = Annotated[str, AfterValidator(_is_family)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


def _is_resolution(share: float) -> float:
    if share not in RESOLUTIONS:
        raise ValueError(f"one of {', '.join(f'{each:g}' for each in RESOLUTIONS)}")
    return share


Resolution = Annotated[float, AfterValidator(_is_resolution)]


class StudentsAxis(NetworkAxis):
    """Students: smaller networks that are distilled from the baseline.

    Args:
        families: ``shallower`` or names of torchvision families.
        widths: Fractions of the family's channels, in (0, 1].
        depths: Fractions of the baseline's repeated blocks, in (0, 1]; for ``shallower`` only.
        resolutions: Fractions of the height and width at which the baseline computes, 1, 0.5 or 0.25; for ``shallower``
            only.
    """

    kind: ClassVar[str] = Student.kind
    prefix: ClassVar[str] = "student."
    uses: ClassVar[Mapping[str, str]] = {"student": "students"}

    families: Choices[Family] = ("shallower", "mobilenet_v3_small")
    widths: Choices[Share] = (0.5, 0.75, 1.0)
    depths: Choices[Share] = (0.5, 1.0)
    resolutions: Choices[Resolution] = (1.0,)

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Choose a student."""
        return replace(candidate, architecture=self.suggest_network(trial))

    def suggest_network(self, trial: Suggester) -> Student:
        """Choose a student; depth and resolution are asked only of the family that has them."""
        family = trial.suggest_categorical("student.family", self.families)
        width = trial.suggest_categorical("student.width", self.widths)
        if family != SHALLOWER:
            return Student(family=family, width=width)
        depth = trial.suggest_categorical("student.depth", self.depths)
        return Student(family, width, depth, choose(trial, "student.resolution", self.resolutions))

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return what is chosen of a student."""
        student = candidate.architecture
        if not isinstance(student, Student):
            return {}
        return {f"student.{name}": value for name, value in vars(student).items()}

    def less_of_one_thing(self, start: Candidate) -> Iterable[Sequence[Candidate]]:
        """Return the model with fewer blocks, and at a lower resolution."""
        if not self.is_of_model:
            return
        width, depth, resolution = (max(choices) for choices in (self.widths, self.depths, self.resolutions))
        whole = Student(SHALLOWER, width, depth, resolution)
        depths, resolutions = (sorted(choices, reverse=True)[1:] for choices in (self.depths, self.resolutions))
        yield [replace(start, architecture=replace(whole, depth=share)) for share in depths]
        yield [replace(start, architecture=replace(whole, resolution=share)) for share in resolutions]

    @property
    def is_of_model(self) -> bool:
        """Whether there are students that are cut out of the model itself."""
        return SHALLOWER in self.families

    def check(self, task: Task, output_shape: tuple[int, ...]) -> None:
        """Check that the task is one of images and classes, where there are students of other families."""
        if any(family != SHALLOWER for family in self.families):
            check_images("students", task.input_shape, output_shape)

    def coverage(self, trains_later: bool) -> Iterable[Sentences]:  # noqa: ARG002
        """Return what says which channels, blocks and pixels of the model can go."""
        if not self.is_of_model:
            return
        if min(self.widths) != 1.0:
            yield describe_channels
        if depths := tuple(sorted(set(self.depths) - {1.0}, reverse=True)):
            yield partial(_depths, depths)
        if resolutions := tuple(sorted(set(self.resolutions) - {1.0}, reverse=True)):
            yield partial(_resolutions, resolutions)

    def cuts(self) -> Iterable[Candidate]:
        """Return the students of the model itself."""
        if self.is_of_model:
            choices = (sorted(each, reverse=True) for each in (self.resolutions, self.widths, self.depths))
            for resolution, width, depth in product(*choices):
                yield Candidate(Student(SHALLOWER, width, depth, resolution)).canonical()

    @classmethod
    def is_cut_out(cls, architecture: Student) -> bool:
        """Say whether a student is the model itself with fewer blocks and channels."""
        return architecture.family == SHALLOWER

    @classmethod
    def start(cls, architecture: Student, materials: NetworkMaterials) -> nn.Module:
        """Return a student, cut out of the model, or of another family and with what weights of the model fit."""
        from .starting import start

        return start(architecture, materials)

    @classmethod
    def differences(cls, network: Candidate, attends: bool) -> dict[str, str]:  # noqa: ARG003
        """Return that channels are counted and wired as in the masked network."""
        return {"channels": "as masked, heads whole"} if isinstance(network.architecture, Student) else {}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Student:
        """Read a student."""
        return Student(**plain)

    @classmethod
    def as_made(cls, candidate: Candidate, notes: Sequence[str]) -> Candidate:
        """Return the candidate with the width that came out."""
        student, share = candidate.architecture, share_of(notes)
        if share is None or not isinstance(student, Student):
            return candidate
        return replace(candidate, architecture=replace(student, width=round(1 - share, 2)))

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Take a "shallower" student of full depth and resolution for what it is: the model with channels removed.

        Unless more channels are removed from it afterwards.
        """
        student = candidate.architecture
        if not isinstance(student, Student):
            return candidate
        student = student.in_floats()
        is_whole = student.depth == 1.0 and student.resolution == 1.0
        if student.family == SHALLOWER and is_whole and not candidate.removed_channels:
            return replace(candidate, architecture=Baseline(), removed_channels=round(1.0 - student.width, 6))
        return replace(candidate, architecture=student)


def _depths(depths: tuple[float, ...], task: Task, baseline: Path) -> Iterable[str]:  # noqa: ARG001
    from .coverage import describe_depths

    return describe_depths(depths, task)


def _resolutions(resolutions: tuple[float, ...], task: Task, baseline: Path) -> Iterable[str]:  # noqa: ARG001
    from .coverage import describe_resolutions

    return describe_resolutions(resolutions, task)
