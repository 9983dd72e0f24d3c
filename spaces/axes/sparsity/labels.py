"""Labels of channels: which places of a network's parameters go together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Indices = NDArray[np.int64]

FIXED = 0
"""The label of what can never go, such as the channels of an input."""


@dataclass(frozen=True)
class Place:
    """One axis of a parameter or buffer.

    Args:
        name: A name of the tensor in the network.
        axis: Which of its axes.
        start: The label of the axis' first position; the others follow.
        length: Positions along it.
    """

    name: str
    axis: int
    start: int
    length: int


class Labels:
    """A label for each position along each axis of each parameter and buffer; those that go together are tied.

    Args:
        network: Its tensors are labelled; a tensor of several names once.
    """

    def __init__(self, network: nn.Module) -> None:
        self.places: list[Place] = []
        self._first: dict[int, list[Place]] = {}
        start = FIXED + 1
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            own = self._first.setdefault(id(tensor), [])
            for axis, length in enumerate(tensor.shape):
                if length > 1:
                    own.append(Place(name, axis, start, length))
                    start += length
            self.places += own
        self._parents: Indices = np.arange(start)
        self._reasons: dict[int, str] = {FIXED: "tied to an input or a constant"}

    def of_tensor(self, tensor: Tensor) -> list[Tensor] | None:
        """Return the labels along each axis of a parameter or buffer of the network; None of another tensor."""
        places = self._first.get(id(tensor))
        if places is None:
            return None
        layers = []
        for place in places:
            shape = [1] * tensor.dim()
            shape[place.axis] = place.length
            layers.append(torch.arange(place.start, place.start + place.length).reshape(shape))
        return layers

    def along(self, place: Place) -> Indices:
        """Return what each position along an axis is tied to: equal numbers go together; shape (length,)."""
        return self._find(np.arange(place.start, place.start + place.length))

    def found(self, labels: Tensor) -> Tensor:
        """Return the labels, those that are tied made equal."""
        return torch.from_numpy(self._find(labels.numpy()))

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Let labels go together, position by position, one broadcast to the other."""
        first, second = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call]
        pairs = np.stack([self._find(first.numpy()).ravel(), self._find(second.numpy()).ravel()])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.size:
            self._join(np.unique(pairs, axis=1).T.tolist())

    def fix(self, labels: Tensor, reason: str) -> None:
        """Let none of these go, for a reason in words."""
        for root in np.unique(self._find(labels.numpy())).tolist():
            self._reasons.setdefault(root, reason)

    def reason(self, label: int) -> str | None:
        """Return why a label, one that :meth:`along` gave, cannot go; None where it can."""
        return self._reasons.get(label)

    def _find(self, labels: Indices) -> Indices:
        roots: Indices = self._parents[labels]
        while True:
            above = self._parents[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def _join(self, pairs: Iterable[tuple[int, int]]) -> None:
        for pair in pairs:
            one, other = (self._root(label) for label in pair)
            if one == other:
                continue
            low, high = min(one, other), max(one, other)
            self._parents[high] = low
            reason = self._reasons.pop(high, None)
            if reason is not None and self._reasons.get(low) is None:
                self._reasons[low] = reason

    def _root(self, label: int) -> int:
        while (above := int(self._parents[label])) != label:
            self._parents[label] = self._parents[above]
            label = above
        return label
