"""The student axis as data: which families, widths, depths and resolutions may be tried."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from ..axis import AxisModel, Choices, Suggester, choose
from ..candidate import Student
from .names import FAMILIES, RESOLUTIONS, SHALLOWER


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


class StudentsAxis(AxisModel):
    """Students: smaller networks that are distilled from the baseline.

    Args:
        families: ``shallower`` or names of torchvision families.
        widths: Fractions of the family's channels, in (0, 1].
        depths: Fractions of the baseline's repeated blocks, in (0, 1]; for ``shallower`` only.
        resolutions: Fractions of the height and width at which the baseline computes, 1, 0.5 or 0.25; for ``shallower``
            only.
    """

    families: Choices[Family] = ("shallower", "mobilenet_v3_small")
    widths: Choices[Share] = (0.5, 0.75, 1.0)
    depths: Choices[Share] = (0.5, 1.0)
    resolutions: Choices[Resolution] = (1.0,)

    def suggest(self, trial: Suggester) -> Student:
        """Choose a student; depth and resolution are asked only of the family that has them."""
        family = trial.suggest_categorical("student.family", self.families)
        width = trial.suggest_categorical("student.width", self.widths)
        if family != SHALLOWER:
            return Student(family=family, width=width)
        depth = trial.suggest_categorical("student.depth", self.depths)
        return Student(family, width, depth, choose(trial, "student.resolution", self.resolutions))
