"""Following channels through one forward pass: which places of the parameters every operator ties together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .labels import Labels

Split = Literal["places", "wholes", "counts"]
"""What goes together where channels are split into parts: the same place of every part, whole parts (of three or more
axes, all but the last but one), or nothing, because the code counts on where the parts begin."""

Layers = list[Tensor]
"""The labels of a tensor's elements, one tensor for each set of its axes along which they differ; of size one along all
others. An element goes where one of its labels does. Along an axis that no layer knows, nothing can go."""

Follow = Callable[["Trace", Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Gets the trace, the operator, its arguments and what it returned."""

_LAYERS = "_karui_layers"


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ties the labels of channels while a network runs, operator by operator.

    Args:
        labels: The labels of the network's parameters and buffers.
        split: What is tied where channels are split into parts.
        follow: What each operator does to the labels: see :func:`~.operators.follow`.
    """

    def __init__(self, labels: Labels, split: Split, follow: Follow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._follow = follow
        self.labels = labels
        self.split = split
        self.splits: list[Tensor] = []  # the labels that a split touched
        self.read: set[int] = set()  # by id, the tensors of the network that were read
        self.heads: list[tuple[str, Tensor]] = []  # what each product of two features reads or makes, and as what

    def __torch_dispatch__(
        self, operator: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outputs = operator(*args, **kwargs)
        self._follow(self, operator, args, kwargs, outputs)
        return outputs

    def is_own(self, tensor: Tensor) -> bool:
        """Say whether a tensor is a parameter or buffer of the network, or a view of one."""
        whole = tensor if tensor._base is None else tensor._base
        return self.labels.of_tensor(whole) is not None

    def layers(self, tensor: Tensor) -> Layers:
        """Return the labels of a tensor, those that are tied made equal."""
        own = getattr(tensor, _LAYERS, None)
        if own is None:
            own = self.labels.of_tensor(tensor)
            if own is None:
                return []
            self.read.add(id(tensor))
        return [layer for layer in (self.simple(layer) for layer in own) if layer.numel() > 1]

    def put(self, tensor: Any, layers: Layers) -> None:
        """Say what the labels of an operator's output are; layers that share an axis are tied."""
        if not isinstance(tensor, Tensor) or self.labels.of_tensor(tensor) is not None:
            return
        kept: Layers = []
        for layer in layers:
            layer = self.simple(layer)
            if layer.numel() == 1:
                self.labels.fix(layer, "one of them is read on its own")
                continue
            twin = next((number for number, other in enumerate(kept) if axes(other) & axes(layer)), None)
            if twin is None:
                kept.append(layer)
            else:
                self.labels.tie(kept[twin], layer)
                kept[twin] = self.simple(kept[twin] + torch.zeros_like(layer))
        setattr(tensor, _LAYERS, kept)

    def simple(self, layer: Tensor) -> Tensor:
        """Return a layer with tied labels made equal, of size one along axes along which they do not differ."""
        for axis in range(layer.dim()):
            if layer.shape[axis] > 1 and layer.stride(axis) == 0:
                layer = layer.narrow(axis, 0, 1)
        layer = self.labels.found(layer)
        for axis in range(layer.dim()):
            if layer.shape[axis] > 1 and bool((layer == layer.narrow(axis, 0, 1)).all()):
                layer = layer.narrow(axis, 0, 1)
        return layer

    def fix(self, layers: Sequence[Tensor], reason: str) -> None:
        """Let nothing go of these layers."""
        for layer in layers:
            self.labels.fix(layer, reason)

    def fix_all(self, values: Any, reason: str) -> None:
        """Let nothing go of any tensor among these values."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                self.fix(self.layers(tensor), reason)

    def tie_along(self, layer: Tensor, axis: int) -> Tensor:
        """Let all that lie along an axis go together."""
        self.labels.tie(layer, layer.narrow(axis, 0, 1))
        return self.simple(layer)

    def tie_parts(self, layer: Tensor, axis: int, parts: int, *, wholes: bool = False) -> None:
        """Tie the same places of equal parts along an axis, or all places of each part."""
        axis %= layer.dim()
        grid = layer.reshape(*layer.shape[:axis], parts, -1, *layer.shape[axis + 1 :])
        self.tie_along(grid, axis + 1 if wholes else axis)


def axes(layer: Tensor) -> set[int]:
    """Return along which axes a layer's labels differ, counted from the last: -1, -2, ..."""
    return {axis - layer.dim() for axis, length in enumerate(layer.shape) if length > 1}


def varies(layer: Tensor, axis: int) -> bool:
    """Say whether a layer's labels differ along an axis."""
    return layer.dim() > 0 and -layer.dim() <= axis < layer.dim() and layer.shape[axis] > 1


def full(layer: Tensor, tensor: Tensor) -> Tensor:
    """Return a layer with the shape of the tensor that it is of."""
    return layer.expand(tensor.shape)
