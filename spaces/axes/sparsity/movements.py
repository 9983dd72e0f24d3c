"""What operators that only move elements do to the labels of channels: the same as to the elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .labels import FIXED
from .pointwise import follow_pointwise, meet
from .tracing import Follow, Layers, Trace, full, varies

_NUMBERED = "they are taken by their numbers"


def _move(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    source = args[0]
    results = [output for output in tree_leaves(outputs) if isinstance(output, Tensor)]
    moved: list[Layers] = [[] for _ in results]
    for layer in trace.layers(source):
        outcome = tree_leaves(operator(full(layer, source), *args[1:], **kwargs))
        for layers, each in zip(moved, outcome, strict=True):
            layers.append(each)
    for output, layers in zip(results, moved, strict=True):
        trace.put(output, layers)


def _view(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    source = args[0]
    layers: Layers = []
    for layer in trace.layers(source):
        moved = trace.simple(full(layer, source).reshape(outputs.shape))
        if _varying(layer) < _varying(moved):
            moved = _split(trace, moved)
        layers.append(moved)
    trace.put(outputs, layers)


def _varying(layer: Tensor) -> int:
    return sum(length > 1 for length in layer.shape)


def _split(trace: Trace, layer: Tensor) -> Tensor:
    """Tie what goes together of channels that lie along several axes now."""
    trace.splits.append(layer)
    along = [axis for axis in range(layer.dim()) if layer.shape[axis] > 1]
    free = {"places": -1, "wholes": -2}.get(trace.split)
    if free is None:
        return layer
    for axis in along:
        if axis != along[free]:
            layer = trace.tie_along(layer, axis)
    return layer


def _pieces(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """Splits into several tensors along an axis."""
    source = args[0]
    dimension = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    lengths = [piece.shape[dimension] for piece in outputs]
    for layer in trace.layers(source):
        if varies(layer, dimension - layer.dim() if dimension >= 0 else dimension):
            _cut(trace, layer, dimension % layer.dim(), lengths)
    _move(trace, operator, args, kwargs, outputs)


def _cut(trace: Trace, layer: Tensor, axis: int, lengths: list[int]) -> None:
    """Tie the same places of equal pieces; of unequal ones, what lies before a border that is a number stays."""
    if len(lengths) < 2:
        return
    trace.splits.append(layer)
    if len(set(lengths)) == 1 and trace.split != "counts":
        trace.tie_parts(layer, axis, len(lengths))
        return
    trace.fix([layer.narrow(axis, 0, sum(lengths[:-1]))], _NUMBERED)
    if trace.split == "counts":
        trace.fix([layer], _NUMBERED)


def _slice(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    source = args[0]
    dimension, start, end, step = (tuple(args[1:]) + (0, None, None, 1)[len(args) - 1 :])[:4]
    axis = dimension % source.dim()
    length = source.shape[axis]
    begin, stop, step = slice(start, end, step).indices(length)
    for layer in trace.layers(source):
        if layer.shape[axis] > 1 and (begin, stop, step) != (0, length, 1):
            _sliced(trace, layer, axis, range(begin, stop, step), from_end=start is not None and start < 0)
    _move(trace, operator, args, kwargs, outputs)


def _sliced(trace: Trace, layer: Tensor, axis: int, taken: range, *, from_end: bool) -> None:
    trace.splits.append(layer)
    length = layer.shape[axis]
    if trace.split != "counts":
        if taken.step > 1 and length % taken.step == 0:
            trace.tie_parts(layer, axis, length // taken.step, wholes=True)
            return
        size = len(taken)
        if taken.step == 1 and size and length % size == 0 and taken.start % size == 0:
            trace.tie_parts(layer, axis, length // size)
            return
    if taken.step > 1:
        trace.fix([layer], _NUMBERED)
    elif from_end:
        trace.fix([layer.narrow(axis, taken.start, length - taken.start)], _NUMBERED)
    else:
        trace.fix([layer.narrow(axis, 0, taken.stop if taken.stop < length else taken.start)], _NUMBERED)


def _select(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    source, dimension, index = args
    for layer in trace.layers(source):
        axis = dimension % layer.dim()
        if layer.shape[axis] > 1:
            place = index % layer.shape[axis]
            before = layer.narrow(axis, 0, place + 1)
            trace.fix([before if index >= 0 else layer.narrow(axis, place, layer.shape[axis] - place)], _NUMBERED)
    _move(trace, operator, args, kwargs, outputs)


def _numbered(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """Elements taken by the numbers of their places, or moved by a number of places."""
    source = args[0]
    name = str(operator.overloadpacket.__name__)
    if name == "index":
        indices = args[1]
        along = {axis for axis, index in enumerate(indices) if index is not None}
        if any(index is not None and index.dtype == torch.bool for index in indices):
            along = set(range(source.dim()))
    elif name == "roll":
        dims = args[2] if len(args) > 2 else kwargs.get("dims", [])
        along = {axis % source.dim() for axis in dims} or set(range(source.dim()))
    else:
        along = {args[1] % source.dim()}
    for layer in trace.layers(source):
        if any(layer.shape[axis] > 1 for axis in along):
            trace.fix([layer], _NUMBERED)
    _move(trace, operator, args, kwargs, outputs)


def _pad(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    source, amounts = args[:2]
    layers: Layers = []
    for layer in trace.layers(source):
        for number in range(len(amounts) // 2):
            axis = layer.dim() - 1 - number
            before, after = amounts[2 * number : 2 * number + 2]
            if layer.shape[axis] == 1 or (before, after) == (0, 0):
                continue
            if before < 0 or after < 0:
                trace.fix([layer], _NUMBERED)
            layer = torch.nn.functional.pad(layer, [0] * (2 * number) + [before, after], value=FIXED)
        layers.append(layer)
    trace.put(outputs, layers)


def _concatenation(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    tensors = args[0]
    given = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    axis = given % outputs.dim()
    stacked = str(operator.overloadpacket.__name__) == "stack"
    parts: list[tuple[Layers, tuple[int, ...]]] = []
    for tensor in tensors:
        if tensor.dim() == 1 and tensor.numel() == 0 and not stacked:
            continue
        layers, shape = trace.layers(tensor), list(tensor.shape)
        if stacked:
            layers = [layer.unsqueeze(axis) for layer in layers]
            shape.insert(axis, 1)
        parts.append((layers, tuple(shape)))
    beside = [
        (
            [layer for layer in layers if layer.shape[axis] == 1],
            [1 if place == axis else n for place, n in enumerate(shape)],
        )
        for layers, shape in parts
    ]
    made = meet(trace, beside)
    along = [[layer for layer in layers if layer.shape[axis] > 1] for layers, _ in parts]
    if any(along):
        made.append(_joined(trace, along, [shape for _, shape in parts], axis))
    trace.put(outputs, made)


def _joined(trace: Trace, along: list[Layers], shapes: list[tuple[int, ...]], axis: int) -> Tensor:
    """Return the layer along an axis on which tensors are set side by side; nothing goes of those without one."""
    pieces = []
    for layers, shape in zip(along, shapes, strict=True):
        for layer in layers[1:]:
            trace.labels.tie(layers[0], layer)
        empty = [shape[place] if place == axis else 1 for place in range(len(shape))]
        pieces.append(layers[0] if layers else torch.full(empty, FIXED))
    widest = [1 if place == axis else max(piece.shape[place] for piece in pieces) for place in range(pieces[0].dim())]
    return torch.cat(
        [piece.expand([-1 if place == axis else n for place, n in enumerate(widest)]) for piece in pieces], dim=axis
    )


def _shuffle(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """``channel_shuffle`` keeps its number of groups, so each loses the same places."""
    source, groups = args
    for layer in trace.layers(source):
        if layer.shape[1] > 1:
            trace.splits.append(layer)
            trace.tie_parts(layer, 1, groups)
    _move(trace, operator, args, kwargs, outputs)


def _unfold(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """``im2col``: every channel as often as its kernel has places."""
    source, kernel = args[:2]
    places = kernel[0] * kernel[1]
    layers: Layers = []
    for layer in trace.layers(source):
        if source.dim() != 4 or layer.shape[1] == 1 or layer.numel() != layer.shape[1]:
            trace.fix([layer], "they lie along the axes of an image")
        else:
            layers.append(layer.flatten().repeat_interleave(places).reshape(1, -1, 1))
    trace.put(outputs, layers)


def _restrided(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """``as_strided``, by which torch gives a pooled image its input's layout: the same elements, or unknown ones."""
    source, shape, strides = args[:3]
    is_same = list(shape) == list(source.shape) and all(
        one == other for one, other, length in zip(strides, source.stride(), shape, strict=True) if length > 1
    )
    if not is_same:
        trace.fix_all(source, "the operator as_strided reads them")
    trace.put(outputs, trace.layers(source) if is_same else [])


def _written(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """``index_put`` of one value where a mask of the same shape says so, which is done element by element."""
    source, indices, values = args[:3]
    mask = indices[0]
    if len(indices) == 1 and mask.dtype == torch.bool and mask.shape == source.shape and values.numel() == 1:
        follow_pointwise(trace, operator, (source, mask), {}, outputs)
    else:
        trace.fix_all((args, kwargs), "some of them are written one by one")


RULES: dict[str, Follow] = {
    **dict.fromkeys(
        (
            "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "flip", "repeat", "alias", "detach",
            "lift_fresh", "unbind", "pixel_shuffle", "pixel_unshuffle", "diagonal", "unfold", "movedim", "contiguous",
        ),
        _move,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten"), _view),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _pieces),
    **dict.fromkeys(("index", "index_select", "roll"), _numbered),
    "slice": _slice,
    "select": _select,
    "constant_pad_nd": _pad,
    "cat": _concatenation,
    "stack": _concatenation,
    "channel_shuffle": _shuffle,
    "as_strided": _restrided,
    "index_put": _written,
    "im2col": _unfold,
}  # fmt: skip
