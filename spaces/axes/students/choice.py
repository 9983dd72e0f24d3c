"""A student as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .names import SHALLOWER


@dataclass(frozen=True)
class Student:
    """A smaller network that learns from the baseline.

    Args:
        family: ``shallower`` (the baseline with fewer blocks and channels) or the name of a torchvision family.
        width: Fraction of the family's channels kept, in (0, 1] (torchvision's own multipliers may exceed 1).
        depth: Fraction of the repeated blocks of each stage kept, in (0, 1]; 1 for torchvision families.
        resolution: Fraction of height and width at which the network computes, 1, 1/2 or 1/4; 1 for torchvision
            families.
    """

    family: str
    width: float
    depth: float = 1.0
    resolution: float = 1.0

    kind = "student"

    def in_floats(self) -> Student:
        """Return the same with every fraction a float, since JSON tells 1 and 1.0 apart."""
        return Student(self.family, float(self.width), float(self.depth), float(self.resolution))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; a whole resolution is left out, as it was before there were others."""
        plain = asdict(self)
        if plain["resolution"] == 1.0:
            del plain["resolution"]
        return plain

    def describe(self) -> str:
        """Return a short text such as ``shallower x0.5, depth 0.5``."""
        depth = f", depth {self.depth:g}" if self.depth != 1.0 else ""
        resolution = f", resolution {self.resolution:g}" if self.resolution != 1.0 else ""
        return f"{self.family} x{self.width:g}{depth}{resolution}"

    def sentence(self) -> str:
        """Return what it is in words."""
        family = "your model's own blocks" if self.family == SHALLOWER else self.family
        depth = f", {self.depth:.0%} of the blocks" if self.depth != 1 else ""
        return f"a student of {family}: {self.width:.0%} of the channels{depth}"
