"""What each operator does to the labels of channels: one rule for each kind of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .contractions import attention, batched_product, convolution, embedding, product, recurrence
from .movements import RULES as MOVEMENTS
from .pointwise import follow_pointwise, meet, raised
from .tracing import Follow, Layers, Trace, varies

_SPATIAL = re.compile(r"(pool|upsample|reflection_pad|replication_pad|grid_sampler).*?([123])d")
_POINTWISE = {
    "hardswish", "hardtanh", "relu6", "leaky_relu", "celu", "elu", "gelu", "softplus", "log_sigmoid_forward",
    "_prelu_kernel", "hardshrink", "softshrink", "nan_to_num", "where", "masked_fill", "native_dropout", "copy",
    "_to_copy", "threshold", "lerp", "addcmul", "addcdiv", "rsub", "clamp", "fill", "silu", "mish", "add_relu",
}  # fmt: skip
_SAME = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_empty_strided", "new_zeros",
    "new_ones", "new_empty", "new_full",
}  # fmt: skip
_SUMS = {"sum", "linalg_vector_norm", "nansum"}


def follow(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """Tie and fix the labels of an operator's inputs, and label its outputs; what one without a rule reads stays."""
    name = str(operator.overloadpacket.__name__)
    in_place = name.endswith("_") and not name.endswith("__")
    plain = name[:-1] if in_place else name
    tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
    labelled = [tensor for tensor in tensors if trace.layers(tensor)]  # all of them count as read
    if not labelled:
        return
    if in_place and plain == "copy" and args[0]._is_view():
        trace.fix_all((args, kwargs), "they are written into a part of another tensor")
        return
    rule = _rule(operator, plain)
    if rule is None:
        trace.fix_all((args, kwargs), f"the operator {plain} reads them")
        return
    rule(trace, operator, args, kwargs, outputs)


def _rule(operator: Any, name: str) -> Follow | None:
    if name in MOVEMENTS:
        return MOVEMENTS[name]
    if name in _RULES:
        return _RULES[name]
    if _SPATIAL.search(name) is not None:
        return _spatial
    return follow_pointwise if torch.Tag.pointwise in operator.tags or name in _POINTWISE else None


def _same(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    trace.put(outputs, trace.layers(args[0]) if outputs.shape == args[0].shape else [])


def _spatial(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """Pools, resizes and pads, which work on the last axes of each channel."""
    match = _SPATIAL.search(str(operator.overloadpacket.__name__))
    behind = int(match.group(2)) if match is not None else 0
    layers = _tied_behind(trace, trace.layers(args[0]), behind)
    trace.fix_all((args[1:], kwargs), "an operator that moves pixels reads them")
    for output in tree_leaves(outputs):
        trace.put(output, layers)


def _tied_behind(trace: Trace, layers: Layers, behind: int) -> Layers:
    """Tie what lies behind each channel along the last axes; layers that differ there alone are fixed."""
    kept: Layers = []
    for layer in layers:
        for axis in range(-behind, 0):
            if varies(layer, axis):
                if all(other < -behind or layer.shape[other] == 1 for other in range(-behind, 0) if other != axis) and (
                    layer.numel() == layer.shape[axis]
                ):
                    trace.fix([layer], "they lie along an axis that is pooled or resized")
                layer = trace.tie_along(layer, axis)
        if layer.numel() > 1:
            kept.append(layer)
    return kept


def _reduction(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
    """Whatever makes one number of those along some axes, or one of which each hangs on all of them."""
    name = str(operator.overloadpacket.__name__)
    source = args[0]
    names = [argument.name for argument in operator._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    along = given.get("dim")
    reduced = _axes(along, source.dim())
    layers: Layers = []
    for layer in trace.layers(source):
        crossing = [axis for axis in reduced if varies(layer, axis)]
        if crossing and not (name in _SUMS and layer.numel() == _size(layer, crossing) and _adds(given)):
            trace.fix([layer], f"the operator {name.strip('_')} counts all channels")
        if not crossing or _keeps_shape(outputs, source):
            layers.append(layer)
    for output in tree_leaves(outputs):
        if isinstance(output, Tensor):
            gone = reduced if output.dim() < source.dim() else []
            trace.put(output, [_without(layer, gone) for layer in layers])


def _keeps_shape(outputs: Any, source: Tensor) -> bool:
    """Say whether an operator's first output has its input's shape."""
    return bool(tree_leaves(outputs)[0].shape == source.shape)


def _adds(given: dict[str, Any]) -> bool:
    """Say whether a zero adds nothing: in a norm of a positive, finite order."""
    order = given.get("ord", 2)
    return order is None or (isinstance(order, (int, float)) and 0 < order < float("inf"))


def _axes(along: Any, dimensions: int) -> list[int]:
    """Return the axes that an argument names, counted from the last."""
    if along is None or (isinstance(along, (list, tuple)) and not along):
        return list(range(-dimensions, 0))
    several = along if isinstance(along, (list, tuple)) else [along]
    return [axis if axis < 0 else axis - dimensions for axis in several]


def _size(layer: Tensor, along: Sequence[int]) -> int:
    size = 1
    for axis in along:
        size *= layer.shape[axis]
    return size


def _without(layer: Tensor, gone: Sequence[int]) -> Tensor:
    for axis in sorted((axis + layer.dim() for axis in gone), reverse=True):
        layer = layer.squeeze(axis)
    return layer


def _batch_norm(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    source, *own = args[:5]
    in_training = bool(args[5]) if len(args) > 5 and isinstance(args[5], bool) else False
    layers = trace.layers(source)
    for layer in layers:
        for axis in range(-source.dim(), 0):
            if in_training and axis != 1 - source.dim() and varies(layer, axis):
                trace.fix([layer], "a normalization counts all channels")
    behind = (1,) * (source.dim() - 2)
    operands = [(layers, source.shape)]
    for tensor in own:
        if isinstance(tensor, Tensor):
            shaped = [layer.reshape((-1, *behind)) for layer in trace.layers(tensor)]
            operands.append((shaped, (len(tensor), *behind)))
    layers = [raised(layer, source.dim()) for layer in meet(trace, operands)]
    trace.put(outputs[0], layers)


def _layer_norm(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    source, shape, *own = args[:4]
    reason = "a layer normalization counts all channels"
    trace.fix_all(own, reason)
    layers = trace.layers(source)
    normalized = [layer for layer in layers if any(varies(layer, axis) for axis in range(-len(shape), 0))]
    trace.fix(normalized, reason)
    for output in tree_leaves(outputs)[:1]:
        trace.put(output, layers)  # those that cannot go keep their labels, and with them the reason


def _group_norm(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    """Whole groups go: without some of its channels, a group has other statistics."""
    source, weight, bias, _, channels, _, groups = args[:7]
    behind = (1,) * (source.dim() - 2)
    operands = [(trace.layers(source), source.shape)]
    for tensor in [tensor for tensor in (weight, bias) if isinstance(tensor, Tensor)]:
        own = [layer.reshape((-1, *behind)) for layer in trace.layers(tensor)]
        operands.append((own, (channels, *behind)))
    layers: Layers = []
    for layer in meet(trace, operands):
        layer = raised(layer, source.dim())
        for axis in range(2 - source.dim(), 0):
            layer = trace.tie_along(layer, axis)
        if varies(layer, 1 - source.dim()):
            trace.tie_parts(layer, 1, groups, wholes=True)
        layer = trace.simple(layer)
        if layer.numel() == 1:
            trace.fix([layer], "a normalization counts all channels")
        layers.append(layer)
    trace.put(outputs[0], layers)


def _gated_linear(trace: Trace, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:  # noqa: ARG001
    source = args[0]
    dimension = _axes(args[1] if len(args) > 1 else kwargs.get("dim", -1), source.dim())[0]
    layers: Layers = []
    for layer in trace.layers(source):
        if varies(layer, dimension):
            trace.tie_parts(layer, dimension + layer.dim(), 2)
            layer = layer.narrow(dimension, 0, layer.shape[dimension] // 2)
        layers.append(layer)
    trace.put(outputs, layers)


_RULES: dict[str, Follow] = {
    "convolution": convolution,
    "mm": product,
    "addmm": product,
    "linear": product,
    "bmm": batched_product,
    "baddbmm": batched_product,
    "embedding": embedding,
    "mkldnn_rnn_layer": recurrence,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_attention_math": attention,
    "_scaled_dot_product_flash_attention": attention,
    "_scaled_dot_product_efficient_attention": attention,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "glu": _gated_linear,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(
        (
            "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "prod", "logsumexp", "all",
            "any", "linalg_vector_norm", "nansum", "_softmax", "_log_softmax", "_safe_softmax", "var_mean", "std_mean",
            "median", "cumsum", "cumprod", "sort", "topk", "aminmax",
        ),
        _reduction,
    ),
}  # fmt: skip
