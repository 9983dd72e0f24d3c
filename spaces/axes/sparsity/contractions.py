"""What operators that sum over products do to the labels of channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .pointwise import meet, own_shape
from .tracing import Layers, Trace, varies

_READ_BY_CONSTANT = "weights of a fixed size read them"


def convolution(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """What reads channels along the second axis, and makes others."""
    source, weight, bias, *_, transposed, _, groups = args[:9]
    read = _channels(trace, trace.layers(source), source)
    kernels = trace.layers(weight)
    for layer in kernels:
        if any(varies(layer, axis) for axis in range(2 - weight.dim(), 0)):
            trace.fix([layer], "they are an axis of a convolution's kernel")
    first = _only(trace, [layer.flatten() for layer in kernels if layer.shape[0] > 1])
    second = _only(trace, [layer.flatten() for layer in kernels if layer.shape[0] == 1 and layer.shape[1] > 1])
    count, behind = source.shape[1], (1,) * (source.dim() - 2)
    ins, outs = (first, second) if transposed else (second, first)
    if groups == 1:
        _tie_or_fix(trace, read, ins, count)
        made = outs
    elif count == groups:
        # depthwise: a channel goes with those that are made of it
        made = first
        if transposed and outs is not None:
            trace.fix([outs], _READ_BY_CONSTANT)
        each = outputs.shape[1] // groups
        if made is not None and transposed:
            _tie_or_fix(trace, read, made, count)
            made = made.repeat_interleave(each)
        elif made is not None:
            repeated = None if read is None else read.repeat_interleave(each)
            _tie_or_fix(trace, repeated, made, len(made))
        else:
            _tie_or_fix(trace, read, None, count)
    else:
        made = _grouped(trace, read, first, second, groups, bool(transposed))
    if isinstance(bias, Tensor):
        _tie_or_fix(trace, made, _only(trace, trace.layers(bias)), len(bias))
    trace.put(outputs, [] if made is None else [made.reshape(1, -1, *behind)])


def _grouped(
    trace: Trace, read: Tensor | None, first: Tensor | None, second: Tensor | None, groups: int, transposed: bool
) -> Tensor | None:
    """Every group loses the same places, of what it reads and of what it makes."""
    for layer in (read, first):
        if layer is not None:
            trace.tie_parts(layer, 0, groups)
    if transposed:
        if first is not None:
            _tie_or_fix(trace, read, first, len(first))
        return None if second is None else second.repeat(groups)
    _tie_or_fix(trace, read, None if second is None else second.repeat(groups), 2)
    return first


def _channels(trace: Trace, layers: Layers, source: Tensor) -> Tensor | None:
    """Return the labels of an image's channels, shape (channels,); None where nothing of them can go."""
    channels: Layers = []
    for layer in layers:
        if not varies(layer, 1 - source.dim()):
            trace.fix([layer], "they lie along the axes of an image")
            continue
        for axis in range(-source.dim(), 0):
            if axis != 1 - source.dim():
                layer = trace.tie_along(layer, axis)
        channels.append(layer.flatten())
    return _only(trace, channels)


def _only(trace: Trace, layers: Layers) -> Tensor | None:
    """Return the one layer that there is along an axis; of several, tied, the first."""
    for layer in layers[1:]:
        trace.labels.tie(layers[0], layer)
    return trace.labels.found(layers[0]) if layers else None


def _tie_or_fix(trace: Trace, one: Tensor | None, other: Tensor | None, length: int) -> None:
    """Tie two layers along an axis; where nothing can go of one of them, nothing can of the other."""
    if one is not None and other is not None and one.numel() == other.numel():
        trace.labels.tie(one, other)
        return
    if length > 1:
        trace.fix([layer for layer in (one, other) if layer is not None], _READ_BY_CONSTANT)


def product(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """``mm(a, b)``, ``addmm(bias, a, b)`` and ``linear(a, weight, bias)``."""
    name = str(operator.overloadpacket.__name__)
    if name == "linear":
        left, right = args[0], args[1]
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        sides = trace.layers(left), [layer.t() for layer in trace.layers(right)]
    else:
        bias = args[0] if name == "addmm" else None
        left, right = args[-2:]
        sides = trace.layers(left), trace.layers(right)
    made = contracted(trace, *sides, outputs.dim())
    _add_bias(trace, made, bias, outputs)


def batched_product(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """``bmm(a, b)`` and ``baddbmm(bias, a, b)``."""
    left, right = args[-2:]
    sides = trace.layers(left), trace.layers(right)
    if not any(trace.is_own(tensor) for tensor in (left, right)):
        note_heads(trace, *sides)
    if outputs.shape[0] > 1:
        _meet_in_batches(trace, *sides)
    made = contracted(trace, *sides, 3)
    _add_bias(trace, made, args[0] if len(args) == 3 else None, outputs)


def _add_bias(trace: Trace, made: Layers, bias: Any, outputs: Tensor) -> None:
    if isinstance(bias, Tensor):
        own = trace.layers(bias)
        made = meet(trace, [(made, outputs.shape), (own, bias.shape)])
        made = [layer.reshape((1,) * (outputs.dim() - layer.dim()) + tuple(layer.shape)) for layer in made]
    trace.put(outputs, made)


def note_heads(trace: Trace, left: Layers, right: Layers) -> None:
    """Note the features that a product of (..., m, k) and (..., k, n) sums over and carries along, batch by batch."""
    roles = (("first", left, -1, -2), ("second", right, -2, -1), ("carried", left, -2, -1), ("carried", right, -1, -2))
    for role, layers, axis, other in roles:
        for layer in layers:
            if varies(layer, axis) and not varies(layer, other):
                rows = layer.movedim(axis, -1).reshape(-1, layer.shape[axis])
                trace.heads += [(role, row) for row in torch.unique(rows, dim=0)]


def _meet_in_batches(trace: Trace, left: Layers, right: Layers) -> None:
    for one, other in ((left, right), (right, left)):
        for layer in one:
            if varies(layer, -3) and not any(varies(partner, -3) for partner in other):
                trace.fix([layer], "they meet a tensor whose size is fixed")


def contracted(trace: Trace, left: Layers, right: Layers, dimensions: int) -> Layers:
    """Tie what a product of matrices sums over, and return the layers of what it makes.

    Args:
        trace: Where.
        left: Layers of a tensor of shape (..., m, k).
        right: Those of one of shape (..., k, n).
        dimensions: Axes of the outcome.
    """
    ins = _summed(trace, left, -1, -2)
    others = [layer.mT for layer in _summed(trace, [layer.mT for layer in right], -1, -2)]
    for layer in ins:
        for other in others:
            # (..., k) of both, the batch axis where both differ along it
            one, two = layer.select(-2, 0), other.select(-1, 0)
            trace.labels.tie(one, two)
    if not ins or not others:
        trace.fix([*ins, *others], _READ_BY_CONSTANT)
    made: Layers = []
    for layer in left:
        layer = trace.simple(layer)
        if not varies(layer, -1) and layer.numel() > 1:
            made.append(layer)
    for layer in right:
        layer = trace.simple(layer)
        if not varies(layer, -2) and layer.numel() > 1:
            made.append(layer)
    return [layer.reshape((1,) * (dimensions - layer.dim()) + tuple(layer.shape)) for layer in made]


def _summed(trace: Trace, layers: Layers, summed: int, other: int) -> Layers:
    """Return the layers that differ along the axis that is summed over, each the same along the other one."""
    return [
        trace.tie_along(layer, other + layer.dim()) if varies(layer, other) else layer
        for layer in layers
        if varies(layer, summed)
    ]


def attention(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """Scaled dot products of queries, keys and values, each of shape (batch, heads, tokens, width)."""
    queries, keys, values = (trace.layers(tensor) for tensor in args[:3])
    note_heads(trace, queries, [layer.mT for layer in keys if layer.dim() > 1])
    note_heads(trace, [], values)
    masks = [value for value in (*args[3:], *kwargs.values()) if isinstance(value, Tensor)]
    for layer in (*queries, *keys, *values):
        if varies(layer, -2):
            trace.fix([layer], "they lie along the tokens of an attention")
    heads = [
        [layer for layer in layers if any(varies(layer, axis) for axis in (-3, -4))]
        for layers in (queries, keys, values)
    ]
    shapes = [(*own_shape(tensor)[:-2], 1, 1) for tensor in (*args[:3], *masks)]
    biases = [trace.layers(mask) for mask in masks]
    for layer in [layer for layers in biases for layer in layers if any(varies(layer, axis) for axis in (-1, -2))]:
        trace.fix([layer], "they are the mask of an attention")
    meet(trace, list(zip([*heads, *biases], shapes, strict=True)))
    wide = [[layer for layer in layers if varies(layer, -1)] for layers in (queries, keys)]
    for one in wide[0]:
        for other in wide[1]:
            trace.labels.tie(one, other)
    if not all(wide):
        trace.fix([layer for layers in wide for layer in layers], _READ_BY_CONSTANT)
    made = [layer for layers in heads for layer in layers if not varies(layer, -1)]
    made += [layer for layer in values if varies(layer, -1)]
    trace.put(outputs[0], [layer for layer in made if not varies(layer, -2)])


def recurrence(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """One layer of a recurrent network reads channels along the last axis; its own states stay."""
    source, reading, *rest = args
    trace.fix_all((rest, kwargs), "they are the states of a recurrent layer")
    read = [layer for layer in trace.layers(source) if varies(layer, -1)]
    trace.fix([layer for layer in trace.layers(source) if not varies(layer, -1)], "they are steps of a recurrent layer")
    columns = [layer for layer in trace.layers(reading) if varies(layer, -1)]
    trace.fix(
        [layer for layer in trace.layers(reading) if not varies(layer, -1)], "they are the states of a recurrent layer"
    )
    # (time, batch, channels): the same at each step of each sample
    flat = []
    for layer in read:
        for axis in range(layer.dim() - 1):
            layer = trace.tie_along(layer, axis)
        flat.append(layer.flatten())
    _tie_or_fix(trace, _only(trace, flat), _only(trace, [layer.flatten() for layer in columns]), source.shape[-1])


def embedding(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """Rows of a table, taken by their numbers."""
    made: Layers = []
    for layer in trace.layers(args[0]):
        if varies(layer, -2):
            trace.fix([layer], "they are taken by their numbers")
        else:
            made.append(layer.reshape((1,) * (outputs.dim() - 1) + (-1,)))
    trace.put(outputs, made)
