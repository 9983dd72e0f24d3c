"""A network of cells as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .genotype import CellGenotype


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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CellNetwork:
        """Read what :meth:`to_dict` wrote."""
        others = dict(plain)
        return cls(genotype=CellGenotype.from_dict(others.pop("genotype")), **others)

    def describe(self) -> str:
        """Return a short text such as ``cell 16ch x2 [0-skip-1]``."""
        return f"cell {self.channels}ch x{self.cells_per_stage} [{self.genotype.text()}]"

    def sentence(self) -> str:
        """Return what it is in words."""
        cells = self.cells_per_stage
        return (
            f"stacked from one searched cell, {self.channels} channels at first, "
            f"{cells} {'cell' if cells == 1 else 'cells'} a stage: {self.genotype.text()}"
        )
