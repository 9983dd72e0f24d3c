"""The student axis as data: which families, widths and depths may be tried."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from ..axis import AxisModel, Choices, Suggester
from ..candidate import Student
from .names import FAMILIES, SHALLOWER


def _is_family(name: str) -> str:
    if name not in (SHALLOWER, *FAMILIES):
        raise ValueError(f"one of {', '.join((SHALLOWER, *FAMILIES))}")
    return name


Family = Annotated[str, AfterValidator(_is_family)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class StudentsAxis(AxisModel):
    """Students: smaller networks that are distilled from the baseline.

    Args:
        families: ``shallower`` or names of torchvision families.
        widths: Fractions of the family's channels, in (0, 1].
        depths: Fractions of the baseline's repeated blocks, in (0, 1]; for ``shallower`` only.
    """

    families: Choices[Family] = ("shallower", "mobilenet_v3_small")
    widths: Choices[Share] = (0.5, 0.75, 1.0)
    depths: Choices[Share] = (0.5, 1.0)

    def suggest(self, trial: Suggester) -> Student:
        """Choose a student; depth is asked only of the family that has one."""
        family = trial.suggest_categorical("student.family", self.families)
        width = trial.suggest_categorical("student.width", self.widths)
        if family != SHALLOWER:
            return Student(family=family, width=width)
        return Student(family=family, width=width, depth=trial.suggest_categorical("student.depth", self.depths))
