"""The axes whose networks may share one supernet each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..architectures import Architecture
from ..cells.axis import CellsAxis
from ..cells.choice import CellNetwork
from ..cells.sharing import CellNetworks
from ..stages.axis import StagesAxis
from ..stages.choice import StageNetwork
from ..stages.sharing import StageNetworks
from .networks import SharedNetworks

SharingAxis = CellsAxis | StagesAxis


@dataclass(frozen=True)
class SharingAxes:
    """The axes of a study whose networks take their weights from a supernet; None where their weights begin anew.

    Args:
        cells: Networks of cells.
        stages: Networks of inverted-residual stages.
    """

    cells: CellsAxis | None = None
    stages: StagesAxis | None = None

    def of(self, architecture: Architecture) -> SharingAxis | None:
        """Return the axis with whose networks this one shares its weights; None where it shares none."""
        if isinstance(architecture, CellNetwork):
            return self.cells if self.cells is not None and self.cells.weights == "supernet" else None
        return self.stages if isinstance(architecture, StageNetwork) else None


def networks_of(axis: SharingAxis, input_shape: tuple[int, ...], outputs: int) -> SharedNetworks[Any]:
    """Return the networks of an axis for inputs of this shape and outputs of this length."""
    if isinstance(axis, CellsAxis):
        return CellNetworks(axis, input_shape, outputs)
    return StageNetworks(axis, input_shape, outputs)
