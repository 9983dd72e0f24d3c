"""How networks of cells share weights: every operation has its own at each place of the cell that it can stand at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import TYPE_CHECKING

from torch import nn

from ..axis import Suggester
from .cell_network import OPERATION_MODULES, build_cell_network, stack_cells
from .choice import CellNetwork
from .genotype import CellGenotype

if TYPE_CHECKING:
    from .axis import CellsAxis

OUTPUT = "output"
"""What the last node is called, since the number it has depends on how many nodes the normal form keeps."""

_EDGE = re.compile(r"(\d+\.\d+\.edges\.)(\d+)(\..*)")


class CellNetworks:
    """The networks of the axis, for a supernet.

    An edge's place is that in the cell's normal form, from which networks are made: two graphs that mean one network
    must share one set of weights. Smaller networks take the leading cells of each stage and the leading channels of
    each tensor. Unlike with stages, the largest network does not hold the others: a place has weights for each
    operation (Bender et al., Understanding and simplifying one-shot architecture search, ICML 2018).

    Args:
        axis: The networks that must fit.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.
    """

    are_nested = False

    def __init__(self, axis: CellsAxis, input_shape: tuple[int, ...], outputs: int) -> None:
        self.axis = axis
        self._input_shape, self._outputs = input_shape, outputs

    def largest(self) -> CellNetwork:
        """Return the network with the dearest operation on every edge."""
        return self.axis.largest()

    def smallest(self) -> CellNetwork:
        """Return the network with as few and as cheap operations as the axis allows."""
        return self.axis.smallest()

    def draw(self, trial: Suggester) -> CellNetwork:
        """Return a network of the axis, drawn again where its cell has no path from input to output."""
        choice = self.axis.suggest_network(trial)
        while not choice.genotype.is_connected():
            choice = self.axis.suggest_network(trial)
        return choice

    def of_step(self, chance: Random) -> list[CellNetwork]:
        """Return networks that give every edge each of its operations once, those of them that can be made.

        Strict fairness: Chu et al., FairNAS (ICCV 2021, arXiv:1907.01845). Every operation is trained as often as the
        others of its edge, where drawn one by one those that came more often look better. Left out are cells without a
        path from input to output; the edge that joins the two makes one of any operation but ``none``. Channels and
        cells are drawn.
        """
        edges = [(pair, chance.sample(self.axis.operations, len(self.axis.operations))) for pair in self.axis.pairs()]
        cells = (
            CellGenotype(self.axis.nodes, tuple((*pair, operations[number]) for pair, operations in edges))
            for number in range(len(self.axis.operations))
        )
        return [
            CellNetwork(cell, chance.choice(self.axis.channels), chance.choice(self.axis.cells_per_stage))
            for cell in cells
            if cell.is_connected()
        ]

    def build(self, choice: CellNetwork) -> nn.Module:
        """Return the untrained network of a choice.

        Raises:
            ValueError: Where the cell's output is not connected to its input.
        """
        return build_cell_network(choice, self._input_shape, self._outputs)

    def build_shared(self) -> nn.Module:
        """Return a network, not able to run, whose cells have every operation at every place."""
        return stack_cells(
            lambda channels: _EveryOperation(self.axis, channels),
            max(self.axis.channels),
            max(self.axis.cells_per_stage),
            self._input_shape,
            self._outputs,
        )

    def origins(self, choice: CellNetwork, names: Iterable[str], /) -> dict[str, str]:
        """Return the names with the places of edges instead of their numbers."""
        places = places_of(choice.genotype.canonical())
        return {name: _EDGE.sub(lambda found: f"{found[1]}{places[int(found[2])]}{found[3]}", name) for name in names}


class _EveryOperation(nn.Module):
    """The weights of every operation that has any, at every place of a cell."""

    def __init__(self, axis: CellsAxis, channels: int) -> None:
        super().__init__()
        made = ((place, OPERATION_MODULES[operation](channels)) for place, operation in _all_places(axis))
        self.edges = nn.ModuleDict({place: module for place, module in made if module.state_dict()})


def places_of(normal: CellGenotype) -> list[str]:
    """Return where each edge of a normal form takes its weights from, such as ``0-conv3x3-output-1``.

    The last number tells edges apart that carry one operation between the same nodes.
    """
    earlier: Counter[str] = Counter()
    places = []
    for source, destination, operation in normal.edges:
        end = OUTPUT if destination == normal.nodes - 1 else str(destination)
        place = f"{source}-{operation}-{end}"
        places.append(f"{place}-{earlier[place]}")
        earlier[place] += 1
    return places


def most_parallel_edges(source: int, destination: int | None, nodes: int) -> int:
    """Return a bound on the edges from one node to another in the normal form of a cell.

    A normal form with these nodes keeps at least ``fewest``; the others may have been merged into the two. Between two
    groups of so many nodes lie at most as many edges as there are pairs.

    Args:
        source: Number of a node in the normal form.
        destination: The same; None for the output.
        nodes: Nodes of the cell before.
    """
    fewest = (source if destination is None else destination) + 2
    merged = nodes - fewest + 2
    return (merged // 2) * (merged - merged // 2)


def _all_places(axis: CellsAxis) -> Iterator[tuple[str, str]]:
    """Yield every place that an edge of the axis' normal forms may have, with its operation."""
    for source in range(axis.nodes - 1):
        for destination in (*range(source + 1, axis.nodes - 1), None):
            end = OUTPUT if destination is None else str(destination)
            for operation in sorted(set(axis.operations) & set(OPERATION_MODULES)):
                for number in range(most_parallel_edges(source, destination, axis.nodes)):
                    yield f"{source}-{operation}-{end}-{number}", operation
