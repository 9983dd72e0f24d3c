"""The kinds of network that a candidate may be, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .cells.genotype import CellGenotype
from .stages.choice import StageNetwork


@dataclass(frozen=True)
class Baseline:
    """The user's own network, as it came."""

    kind = "baseline"


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


@dataclass(frozen=True)
class CellNetwork:
    """A network stacked from one NAS cell.

    Args:
        genotype: The cell.
        channels: Channels of the first stage; each later stage doubles them.
        cells_per_stage: Cells stacked in each stage.
    """

    genotype: CellGenotype
    channels: int
    cells_per_stage: int

    kind = "cell"


Architecture = Baseline | Student | CellNetwork | StageNetwork


def read_architecture(plain: Mapping[str, Any]) -> Architecture:
    """Read plain JSON types: the fields of an architecture, and its ``kind``.

    Raises:
        ValueError: On an unknown kind.
    """
    others = dict(plain)
    kind = others.pop("kind")
    if kind == Baseline.kind:
        return Baseline()
    if kind == Student.kind:
        return Student(**others)
    if kind == CellNetwork.kind:
        genotype = CellGenotype.from_dict(others.pop("genotype"))
        return CellNetwork(genotype=genotype, **others)
    if kind == StageNetwork.kind:
        return StageNetwork.from_dict(others)
    raise ValueError(f"unknown kind of architecture: {kind!r}")


def plain_architecture(architecture: Architecture) -> dict[str, Any]:
    """Return plain JSON types; :func:`read_architecture` reads them back.

    What is left out where it is as it always was keeps the keys of results from before it could be otherwise.
    """
    plain = {"kind": architecture.kind, **asdict(architecture)}
    if plain.get("resolution") == 1.0:
        del plain["resolution"]
    return plain


def describe_architecture(architecture: Architecture) -> str:
    """Return a short text for tables and plots, such as ``shallower x0.5, depth 0.5``."""
    if isinstance(architecture, Student):
        depth = f", depth {architecture.depth:g}" if architecture.depth != 1.0 else ""
        resolution = f", resolution {architecture.resolution:g}" if architecture.resolution != 1.0 else ""
        return f"{architecture.family} x{architecture.width:g}{depth}{resolution}"
    if isinstance(architecture, CellNetwork):
        return f"cell {architecture.channels}ch x{architecture.cells_per_stage} [{architecture.genotype.text()}]"
    if isinstance(architecture, StageNetwork):
        return architecture.describe()
    return "baseline"
