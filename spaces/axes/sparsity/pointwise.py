"""What operators that work element by element do to the labels of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from .tracing import Layers, Trace, varies


def follow_pointwise(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """What is done element by element."""
    operands = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
    layers = meet(trace, [(trace.layers(tensor), own_shape(tensor)) for tensor in operands])
    for output in tree_leaves(outputs):
        if isinstance(output, Tensor):
            trace.put(output, [raised(layer, output.dim()) for layer in layers])


def meet(trace: Trace, operands: Sequence[tuple[Layers, Sequence[int]]]) -> Layers:
    """Tie what meets element by element, shapes broadcast from the last axis; return the layers of the outcome.

    Args:
        trace: Where.
        operands: The layers and the shape of each.
    """
    for number, (layers, _) in enumerate(operands):
        for layer in layers:
            for other, (others, shape) in enumerate(operands):
                if other != number:
                    _meet(trace, layer, others, shape)
    return [layer for layers, _ in operands for layer in layers]


def own_shape(tensor: Tensor) -> list[int]:
    """Return a tensor's shape, 1 along axes along which it was expanded: these follow what they meet."""
    return [1 if step == 0 else length for length, step in zip(tensor.shape, tensor.stride(), strict=True)]


def _meet(trace: Trace, layer: Tensor, others: Layers, shape: Sequence[int]) -> None:
    for axis in range(-layer.dim(), 0):
        if not varies(layer, axis) or -axis > len(shape) or shape[axis] == 1:
            continue
        partners = [other for other in others if varies(other, axis)]
        if not partners:
            trace.fix([layer], "they meet a tensor whose size is fixed")
        for partner in partners:
            trace.labels.tie(layer, partner)


def raised(layer: Tensor, dimensions: int) -> Tensor:
    """Return a layer with so many axes, the new ones in front."""
    return layer.reshape((1,) * (dimensions - layer.dim()) + tuple(layer.shape))
