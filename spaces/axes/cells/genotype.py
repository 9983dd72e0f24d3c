"""The cell as data: a directed acyclic graph whose edges carry operations, and its normal form.

The graph follows NAS-Bench-201 (Dong & Yang, ICLR 2020): node 0 is the input, the last node the output, every node is
the sum of its incoming edges. Depthwise-separable convolutions are added to its five operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

OPERATIONS = ("none", "skip", "conv1x1", "conv3x3", "separable3x3", "avgpool3x3")

Edge = tuple[int, int, str]
"""Source node, destination node, operation."""


@dataclass(frozen=True)
class CellGenotype:
    """A cell: nodes 0 (input) to ``nodes - 1`` (output) and the operations between them.

    Several edges may join the same two nodes: that happens in the normal form, where a node that only copies another
    has been merged into it.

    Raises:
        ValueError: Where an edge does not point forward, leaves the graph, or carries an unknown operation.
    """

    nodes: int
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        for source, destination, operation in self.edges:
            if not 0 <= source < destination < self.nodes:
                raise ValueError(f"edge {source}->{destination}: expected 0 <= source < destination < {self.nodes}")
            if operation not in OPERATIONS:
                raise ValueError(f"edge {source}->{destination}: {operation!r} is none of {', '.join(OPERATIONS)}")

    def is_connected(self) -> bool:
        """Say whether anything reaches the output from the input."""
        return bool(_live_edges(self.edges, self.nodes - 1))

    def canonical(self) -> CellGenotype:
        """Return the normal form: equal for cells that compute the same function of the same weights' shapes.

        Edges that carry ``none``, that start at a node nothing reaches, or that lead nowhere are dropped; a node whose
        only input is a ``skip`` is merged into the source of that skip, and a node whose only way out is a ``skip``
        into the destination; the remaining inner nodes are renumbered in the order that gives the smallest tuple of
        edges. A cell with no path becomes two nodes without edges.
        """
        live = _live_edges(self.edges, self.nodes - 1)
        output = self.nodes - 1
        while (contracted := _contracted(live, output)) is not None:
            live = contracted
        inner = sorted({node for edge in live for node in edge[:2]} - {0, output})
        orders = (_relabel(live, order, output) for order in permutations(inner))
        smallest = min((relabelled for relabelled in orders if relabelled is not None), default=())
        return CellGenotype(nodes=len(inner) + 2, edges=smallest)

    def text(self) -> str:
        """Return a compact text such as ``0-conv3x3-1 0-skip-2``."""
        return " ".join(f"{source}-{operation}-{destination}" for source, destination, operation in self.edges)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CellGenotype:
        """Read the JSON form, in which tuples have become lists."""
        edges = tuple((int(source), int(destination), str(name)) for source, destination, name in plain["edges"])
        return cls(nodes=int(plain["nodes"]), edges=edges)


def _live_edges(edges: Iterable[Edge], output: int) -> list[Edge]:
    """Return the edges that lie on some path from the input to the output."""
    present = [edge for edge in edges if edge[2] != "none"]
    reached = {0}
    for source, destination, _ in sorted(present):
        if source in reached:
            reached.add(destination)
    needed = {output}
    for source, destination, _ in sorted(present, key=lambda edge: -edge[1]):
        if destination in needed:
            needed.add(source)
    return [edge for edge in present if edge[0] in reached and edge[1] in needed]


def _contracted(edges: list[Edge], output: int) -> list[Edge] | None:
    """Merge the two ends of one skip that adds nothing to the graph; return None where there is no such skip.

    A node whose only input is a skip copies its source; a node whose only way out is a skip is a partial sum of its
    destination. Either way the two nodes are one. Weights are never duplicated by it.
    """
    for position, (source, destination, operation) in enumerate(edges):
        if operation != "skip":
            continue
        copies = destination != output and sum(edge[1] == destination for edge in edges) == 1
        is_partial_sum = source != 0 and sum(edge[0] == source for edge in edges) == 1
        if copies or is_partial_sum:
            gone, stays = (destination, source) if copies else (source, destination)
            others = edges[:position] + edges[position + 1 :]
            return [
                (stays if start == gone else start, stays if end == gone else end, name) for start, end, name in others
            ]
    return None


def _relabel(edges: list[Edge], order: tuple[int, ...], output: int) -> tuple[Edge, ...] | None:
    """Renumber the inner nodes in the given order; return None where an edge would point backwards."""
    label = {0: 0, output: len(order) + 1} | {node: position for position, node in enumerate(order, start=1)}
    relabelled = [(label[source], label[destination], operation) for source, destination, operation in edges]
    if any(source >= destination for source, destination, _ in relabelled):
        return None
    return tuple(sorted(relabelled))
