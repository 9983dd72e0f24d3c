"""The dependency graph of a network, in which looking for the layers that are tied to one ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch_pruning
from torch import nn
from torch_pruning import ops

from ....errors import CandidateFailure

MOST_PASSES = 64
"""How often channels may go along one edge for one group; in torchvision's families, at most four times."""

MOST_WIDTHS = 16
"""How many channels may go along it in all, in widths of the widest layer; there, at most four."""


class Endless(CandidateFailure):
    """Looking for the layers that are tied to one was given up."""


class BoundedGraph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """A dependency graph that gives up where the layers tied to one find no end.

    Where a network folds axes in a way that the graph does not understand, every turn of a circle maps channels to
    further ones: to follow them all takes minutes, or does not end.
    """

    def build_dependency(self, network: nn.Module, **settings: Any) -> BoundedGraph:
        """Build the graph, and let every edge count what goes along it."""
        super().build_dependency(network, **settings)
        nodes = self.module2node.values()
        outputs = [node.module for node in nodes if isinstance(node.module, ops._OutputOp)]
        self._widest = max((length for sized in (*network.parameters(), *outputs) for length in sized.shape), default=1)
        for number, edge in enumerate(edge for node in nodes for edge in node.dependencies):
            # behind what an edge does to channels of an axis that is split or joined, one that only looks
            edge.index_mapping.append(partial(self._count, number, edge))
        return self

    def get_pruning_group(
        self, module: nn.Module, pruning_fn: Callable[..., Any], idxs: Sequence[int]
    ) -> torch_pruning.Group:
        """Return what goes with these channels.

        Raises:
            Endless: Where that finds no end.
        """
        self._passes: Counter[int] = Counter()
        self._channels: Counter[int] = Counter()
        self._makers: set[nn.Module] = {module}
        return super().get_pruning_group(module, pruning_fn, idxs)

    def tied_groups(
        self, kinds: tuple[type[nn.Module], ...]
    ) -> Iterator[tuple[torch_pruning.Group | None, set[nn.Module]]]:
        """Yield every group of tied layers among which one is of these kinds, and the layers that make its channels.

        The group holds all of their channels; it is None where looking for it was given up.
        """
        seen: set[nn.Module] = set()
        for layer in [module for module in self.module2node if isinstance(module, kinds)]:
            if layer in seen:
                continue
            pruner = self.get_pruner_of_module(layer)
            channels = list(range(pruner.get_out_channels(layer)))
            try:
                group = self.get_pruning_group(layer, pruner.prune_out_channels, channels)
            except Endless:
                group = None
            seen |= self._makers
            yield group, set(self._makers)

    def _count(self, number: int, edge: Any, channels: list[Any]) -> list[Any]:
        """Return the channels that go along an edge as they are."""
        self._passes[number] += 1
        self._channels[number] += len(channels)
        if channels and self.is_out_channel_pruning_fn(edge.handler):
            self._makers.add(edge.target.module)
        if self._passes[number] > MOST_PASSES or self._channels[number] > MOST_WIDTHS * self._widest:
            raise Endless("sparsity", "the layers that are tied to one find no end")
        return channels
