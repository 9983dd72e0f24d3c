"""The NAS-cell axis as data: which cells may be tried, and how they are stacked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..axis import AxisModel, Choices, Suggester
from ..candidate import CellNetwork
from .genotype import CellGenotype

Operation = Literal["none", "skip", "conv1x1", "conv3x3", "separable3x3", "avgpool3x3"]
Count = Annotated[int, Field(ge=1)]


class CellsAxis(AxisModel):
    """NAS cells: every pair of nodes is joined by one operation.

    Args:
        nodes: Nodes of the cell with input and output; 4 gives six edges, the graph of NAS-Bench-201.
        operations: What an edge may carry.
        channels: Channels of the first stage.
        cells_per_stage: Cells stacked in each stage.
    """

    nodes: Annotated[int, Field(ge=2, le=7)] = 4
    operations: Choices[Operation] = ("none", "skip", "conv1x1", "conv3x3", "separable3x3", "avgpool3x3")
    channels: Choices[Count] = (8, 16)
    cells_per_stage: Choices[Count] = (1, 2)

    def suggest(self, trial: Suggester) -> CellNetwork:
        """Choose an operation for every edge, then how the cell is stacked."""
        edges = tuple(
            (source, destination, trial.suggest_categorical(f"cell.edge_{source}_{destination}", self.operations))
            for destination in range(1, self.nodes)
            for source in range(destination)
        )
        return CellNetwork(
            genotype=CellGenotype(nodes=self.nodes, edges=edges),
            channels=trial.suggest_categorical("cell.channels", self.channels),
            cells_per_stage=trial.suggest_categorical("cell.cells_per_stage", self.cells_per_stage),
        )
