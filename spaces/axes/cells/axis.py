"""The NAS-cell axis as data: which cells may be tried, and how they are stacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...candidate import Candidate
from ...data.images import check_images
from ...section import Choices
from ...step import NetworkMaterials
from ..axis import NetworkAxis, Suggester
from .choice import CellNetwork
from .genotype import CellGenotype

if TYPE_CHECKING:
    from torch import nn

    from ...task import Task
    from ..supernet.networks import SharedNetworks

Operation = Literal["none", "skip", "conv1x1", "conv3x3", "separable3x3", "avgpool3x3"]
Count = Annotated[int, Field(ge=1, le=65_536)]

BY_COST: tuple[Operation, ...] = ("none", "skip", "avgpool3x3", "conv1x1", "separable3x3", "conv3x3")
"""The operations, the cheapest first: those with more weights cost more."""


class CellsAxis(NetworkAxis):
    """NAS cells: every pair of nodes is joined by one operation.

    Args:
        nodes: Nodes of the cell with input and output; 4 gives six edges, the graph of NAS-Bench-201.
        operations: What an edge may carry.
        channels: Channels of the first stage.
        cells_per_stage: Cells stacked in each stage.
        weights: ``new``: every network is trained from new weights; ``supernet``: it takes them from one supernet,
            which is trained once.
    """

    kind: ClassVar[str] = CellNetwork.kind
    label: ClassVar[str] = "NAS cells"
    prefix: ClassVar[str] = "cell."
    uses: ClassVar[Mapping[str, str]] = {"cell": "NAS cells"}

    nodes: Annotated[int, Field(ge=2, le=7)] = 4
    operations: Choices[Operation] = ("none", "skip", "conv1x1", "conv3x3", "separable3x3", "avgpool3x3")
    channels: Choices[Count] = (8, 16)
    cells_per_stage: Choices[Count] = (1, 2)
    weights: Literal["new", "supernet"] = "new"

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Choose a network of cells."""
        return replace(candidate, architecture=self.suggest_network(trial))

    def suggest_network(self, trial: Suggester) -> CellNetwork:
        """Choose an operation for every edge, then how the cell is stacked."""
        edges = tuple(
            (source, destination, trial.suggest_categorical(f"cell.edge_{source}_{destination}", self.operations))
            for source, destination in self.pairs()
        )
        return CellNetwork(
            genotype=CellGenotype(nodes=self.nodes, edges=edges),
            channels=trial.suggest_categorical("cell.channels", self.channels),
            cells_per_stage=trial.suggest_categorical("cell.cells_per_stage", self.cells_per_stage),
        )

    def largest(self) -> CellNetwork:
        """Return the network whose every edge carries the dearest operation, with the most channels and cells.

        Most other cells have operations that it has not: it is the dearest network, no more.
        """
        dearest = max(self.operations, key=BY_COST.index)
        edges = tuple((*pair, dearest) for pair in self.pairs())
        return CellNetwork(CellGenotype(self.nodes, edges), max(self.channels), max(self.cells_per_stage))

    def smallest(self) -> CellNetwork:
        """Return the network of the cheapest cell that joins input and output, with the fewest channels and cells.

        That is one edge from the input to the output; where every pair of nodes must be joined, all edges carry the
        cheapest operation.
        """
        cheapest, *dearer = sorted(self.operations, key=BY_COST.index)
        joined = dearer[0] if cheapest == "none" and dearer else cheapest
        ends = (0, self.nodes - 1)
        edges = tuple((*pair, joined if pair == ends else cheapest) for pair in self.pairs())
        return CellNetwork(CellGenotype(self.nodes, edges), min(self.channels), min(self.cells_per_stage))

    def pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of nodes that an edge joins: source and destination."""
        return [(source, destination) for destination in range(1, self.nodes) for source in range(destination)]

    def check(self, task: Task, output_shape: tuple[int, ...]) -> None:
        """Check that the task is one of images and classes."""
        check_images("cells", task.input_shape, output_shape)

    @classmethod
    def start(cls, architecture: CellNetwork, materials: NetworkMaterials) -> nn.Module:
        """Return an untrained network of cells."""
        from .cell_network import build_cell_network

        return build_cell_network(architecture, materials.input_shape, materials.outputs)

    @property
    def shares_weights(self) -> bool:
        """Whether its networks take their weights from one supernet."""
        return self.weights == "supernet"

    def shared_networks(self, input_shape: tuple[int, ...], outputs: int) -> SharedNetworks[Any]:
        """Return its networks as a supernet needs them."""
        from .shared_cells import CellNetworks

        return CellNetworks(self, input_shape, outputs)

    def supernet_differences(self) -> dict[str, str]:
        """Return that every operation of an edge is trained as often; they were drawn one by one before."""
        return {"drawn": "fairly"}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> CellNetwork:
        """Read a network of cells."""
        return CellNetwork.from_dict(plain)

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Bring the cell into its normal form (see :meth:`.genotype.CellGenotype.canonical`)."""
        network = candidate.architecture
        if not isinstance(network, CellNetwork):
            return candidate
        return replace(candidate, architecture=replace(network, genotype=network.genotype.canonical()))

    @classmethod
    def problem(cls, candidate: Candidate) -> str | None:
        """Say where the cell has no path through it."""
        network = candidate.architecture
        if isinstance(network, CellNetwork) and not network.genotype.is_connected():
            return "the cell has no path from its input to its output"
        return None
