"""Heads of attentions, which go whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from .labels import Indices, Place

HEADS = "heads of an attention go whole or not at all, and the network does not run right with fewer of them"

Head = frozenset[int]
"""The first labels of one head's features, before anything was tied to them."""


class Heads:
    """The heads of a network, where a layer makes several.

    A head is what one product of two tensors of features sums over, as over the features of queries and keys, or
    carries along, as those of the values, for one entry of the other axes. A layer that makes a single one has none
    that could be mixed.

    Args:
        places: All axes whose positions are labelled.
        products: What each product sums over or carries along, and as what, as a trace notes it.
    """

    def __init__(self, places: Sequence[Place], products: Iterable[tuple[str, Tensor]]) -> None:
        starts = np.array([place.start for place in places])
        by_layer: dict[tuple[str, int], set[Head]] = {}
        for role, labels in products:
            unique = np.unique(labels.numpy())
            if len(unique) > 1 and starts.size:
                layer = int(np.searchsorted(starts, unique[-1], side="right"))
                by_layer.setdefault((role, layer), set()).add(frozenset(unique.tolist()))
        self._heads = {
            head for heads in by_layer.values() for head in heads if any(head.isdisjoint(other) for other in heads)
        }

    def are_split_by(self, unit: Mapping[Place, Indices]) -> bool:
        """Say whether what goes at once holds a part of a head, but not all of it."""
        if not self._heads:
            return False
        own = {place.start + int(position) for place, positions in unit.items() for position in positions}
        return any(not own.isdisjoint(head) and not head <= own for head in self._heads)
