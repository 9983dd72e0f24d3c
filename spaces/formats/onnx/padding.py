"""Zeros that are put around a tensor by a node of their own, taken into the convolution or pooling that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_file import drop_unread_initializers, names_in_subgraphs

_NEVER_NEGATIVE = ("HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")
_KEEPS_SIGN = ("AveragePool", "MaxPool")
_READERS = ("AveragePool", "Conv", "MaxPool")
_LEAST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Padding:
    """A node that does nothing but put one value around a tensor.

    Args:
        node: The node.
        before: Elements before each axis, shape (axes,); none is negative, and so with ``behind``.
        behind: Elements behind each axis.
        value: What they hold.
    """

    node: onnx.NodeProto
    before: tuple[int, ...]
    behind: tuple[int, ...]
    value: float

    @property
    def is_nothing(self) -> bool:
        return not any((*self.before, *self.behind))

    @property
    def around_extent(self) -> list[int] | None:
        """The padding as a convolution tells it; None where batch or channels are padded."""
        if any((*self.before[:2], *self.behind[:2])) or len(self.before) < 3:
            return None
        return [*self.before[2:], *self.behind[2:]]


def fuse_padding(model: onnx.ModelProto) -> bool:
    """Take constant padding into the convolutions and poolings that alone read it, in place; say whether there was any.

    The runtime fuses them too, but not in an int8 graph, where a ``Pad`` keeps two layers apart. Zeros go into a
    convolution, and into an average that counts them; a maximum pads with minus infinity by itself, which is the same
    as zeros around values that are never negative. What crops, repeats or mirrors, what pads batch or channels, and
    what is read by anything else stays, and so does every pad of a graph with control flow.

    Args:
        model: Its constants are initializers.
    """
    if names_in_subgraphs(model):
        return False
    is_changed = False
    # From the back: of several in a row, the one before the layer comes first.
    for node in reversed(list(model.graph.node)):
        if node.op_type == "Pad" and node.domain in ("", "ai.onnx"):
            is_changed |= _fuse(model, node)
    if is_changed:
        drop_unread_initializers(model)
        del model.graph.value_info[:]
    return is_changed


def _fuse(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    padding = _padding_of(node, tensors)
    readers = [each for each in model.graph.node if node.output[0] in each.input]
    is_output = any(value.name == node.output[0] for value in model.graph.output)
    if padding is None or is_output or not readers:
        return False
    if not padding.is_nothing:
        producers = {name: each for each in model.graph.node for name in each.output}
        is_never_negative = _is_never_negative(node.input[0], producers, tensors)
        changed = [_with_padding(padding, reader, is_never_negative) for reader in readers]
        if None in changed:
            return False
        for reader, attributes in zip(readers, changed, strict=True):
            _set_attributes(reader, attributes or {})
    for reader in readers:
        for place, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[place] = node.input[0]
    model.graph.node.remove(node)
    return True


def _padding_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> _Padding | None:
    """Return what a Pad node does; None where it is something else, or not known beforehand."""
    pads_name, value_name, axes_name = [*node.input[1:4], "", "", ""][:3]
    if pads_name not in tensors or (value_name and value_name not in tensors) or axes_name:
        return None  # the exporter names no axes
    pads = numpy_helper.to_array(tensors[pads_name])
    value = numpy_helper.to_array(tensors[value_name]) if value_name else np.zeros(())
    if (pads < 0).any() or value.size != 1:
        return None
    count = len(pads) // 2
    before, behind = tuple(map(int, pads[:count])), tuple(map(int, pads[count:]))
    found = _Padding(node, before, behind, float(value.item()))
    return found if found.is_nothing or _attributes(node).get("mode", b"constant") == b"constant" else None


def _with_padding(padding: _Padding, reader: onnx.NodeProto, is_never_negative: bool) -> dict[str, Any] | None:
    """Return the attributes of a reader that does the padding as well; None where it cannot."""
    attributes, around = _attributes(reader), padding.around_extent
    reads_it_alone = [name == padding.node.output[0] for name in reader.input].count(True) == 1
    if around is None or not reads_it_alone or reader.input[0] != padding.node.output[0]:
        return None
    own = _own_pads(attributes, len(around) // 2)
    if reader.domain not in ("", "ai.onnx") or reader.op_type not in _READERS or own is None:
        return None
    pads = [first + second for first, second in zip(own, around, strict=True)]
    if reader.op_type == "Conv":
        return {"pads": pads} if padding.value == 0 else None
    kernel = attributes["kernel_shape"]
    # A window that lies in the padding alone would be empty, and one that is cut off is counted otherwise.
    is_plain = not attributes.get("ceil_mode", 0) and set(attributes.get("dilations") or [1]) == {1}
    if not is_plain or any(width >= side for width, side in zip(pads, [*kernel, *kernel], strict=True)):
        return None
    if reader.op_type == "AveragePool":
        counts_own = not any(own) or attributes.get("count_include_pad", 0)
        return {"pads": pads, "count_include_pad": 1} if padding.value == 0 and counts_own else None
    # Where it tells places as well, it counts them without its own padding.
    is_least = len(reader.output) == 1 and padding.value <= (0 if is_never_negative else _LEAST)
    return {"pads": pads} if is_least else None


def _own_pads(attributes: Mapping[str, Any], axes: int) -> list[int] | None:
    """Return the padding that a layer does itself; None where that depends on the extent of its input."""
    how = attributes.get("auto_pad", b"NOTSET")
    if how in (b"NOTSET", b"VALID"):
        return list(attributes.get("pads") or [0] * (2 * axes))
    if set(attributes.get("strides") or [1]) != {1} or "kernel_shape" not in attributes:
        return None
    dilations = attributes.get("dilations") or [1] * axes
    sums = [step * (side - 1) for step, side in zip(dilations, attributes["kernel_shape"], strict=True)]
    lesser, greater = [total // 2 for total in sums], [total - total // 2 for total in sums]
    return [*lesser, *greater] if how == b"SAME_UPPER" else [*greater, *lesser]


def _is_never_negative(
    name: str, producers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> bool:
    """Say whether a tensor is known to hold nothing below zero."""
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "Clip":
        lower = tensors.get(node.input[1]) if len(node.input) > 1 else None
        return lower is not None and bool((numpy_helper.to_array(lower) >= 0).all())
    if node.op_type in _KEEPS_SIGN:
        return _is_never_negative(node.input[0], producers, tensors)
    if node.op_type == "Concat":
        return all(_is_never_negative(each, producers, tensors) for each in node.input)
    return node.op_type in _NEVER_NEGATIVE


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _set_attributes(node: onnx.NodeProto, changed: Mapping[str, Any]) -> None:
    kept = [each for each in node.attribute if each.name not in {*changed, "auto_pad"}]
    made = [helper.make_attribute(name, value) for name, value in changed.items()]
    del node.attribute[:]
    node.attribute.extend([*kept, *made])
