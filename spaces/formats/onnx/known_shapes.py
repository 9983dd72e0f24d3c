"""Shape arithmetic of an exported graph, worked out beforehand wherever only the batch axis is free."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from .constant_folding import fold_constants
from .onnx_file import drop_unread_initializers

_STANDARD = ("", "ai.onnx")
_MOST_ELEMENTS = 64
_READERS = {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"}


def fold_known_shapes(model: onnx.ModelProto) -> None:
    """Replace what is computed from constants and known axes by constants, in place; only the batch axis stays free.

    With a free batch axis the exporter computes every axis of a reshape, a slice or a padding at run time. In an int8
    graph these nodes cost more than the copies they steer: a ShuffleNet has some five hundred of them.
    """
    for _round in range(len(model.graph.node)):
        is_changed = fold_constants(model)
        shapes = _inferred_shapes(model)
        constants = _small_integers(model)
        producers = {name: node for node in model.graph.node for name in node.output}
        known: dict[str, np.ndarray] = {}
        for node in model.graph.node:
            axes = _known_axes(node, constants, producers, shapes)
            if axes is not None:
                known[node.output[0]] = axes
            elif node.op_type == "Reshape":
                _free_one_axis(model, node, constants, producers)
        if not known and not is_changed:
            break
        _replace(model, known)
    _drop_unread(model)


def _known_axes(
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    producers: dict[str, onnx.NodeProto],
    shapes: dict[str, list[int | None]],
) -> np.ndarray | None:
    """Return the axes of a tensor that a node picks, None where that is not what it does, or one of them is free."""
    source = producers.get(node.input[0]) if node.input and node.domain in _STANDARD else None
    if node.op_type == "Shape" and node.domain in _STANDARD:
        picked = _axes_of(node, shapes)
    elif source is None or source.op_type != "Shape" or (axes := _axes_of(source, shapes)) is None:
        return None
    elif node.op_type == "Gather" and node.input[1] in constants:
        index = constants[node.input[1]]
        if index.size and not (-len(axes) <= index.min() and index.max() < len(axes)):
            return None
        picked = np.array(axes, dtype=object)[index]
    elif node.op_type == "Slice" and all(name in constants for name in node.input[1:] if name):
        first, last, *further = (constants[name] if name else None for name in node.input[1:])
        step = further[1].item() if len(further) > 1 and further[1] is not None else 1
        picked = axes[slice(first.item(), last.item(), step)] if first is not None and last is not None else None
    else:
        return None
    if picked is None or any(axis is None for axis in np.asarray(picked, dtype=object).reshape(-1)):
        return None
    return np.asarray(picked, dtype=np.int64)


def _axes_of(node: onnx.NodeProto, shapes: dict[str, list[int | None]]) -> list[int | None] | None:
    """Return what a Shape node gives, None for each axis that is free; None in all where nothing is known."""
    axes = shapes.get(node.input[0])
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return None if axes is None else axes[slice(ends.get("start", 0), ends.get("end"))]


def _free_one_axis(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    producers: dict[str, onnx.NodeProto],
) -> None:
    """Give a Reshape a constant shape where only one of its axes is unknown: -1 has one meaning beside the others."""
    joined = producers.get(node.input[1])
    if joined is None or joined.op_type != "Concat":
        return
    parts = [constants.get(name) for name in joined.input]
    unknown = [position for position, part in enumerate(parts) if part is None]
    if len(unknown) != 1 or any(part is not None and (part < 1).any() for part in parts):
        return
    # Only an Unsqueeze of one axis is sure to stand for one number.
    source = producers.get(joined.input[unknown[0]])
    if source is None or source.op_type != "Unsqueeze":
        return
    shape = np.concatenate([np.array([-1], dtype=np.int64) if part is None else part for part in parts])
    name = f"{node.output[0]}#shape"
    model.graph.initializer.append(numpy_helper.from_array(shape, name))
    node.input[1] = name


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: [
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        ]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _small_integers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and int(np.prod(tensor.dims)) <= _MOST_ELEMENTS
    }


def _replace(model: onnx.ModelProto, folded: dict[str, np.ndarray]) -> None:
    for index in reversed(range(len(model.graph.node))):
        if model.graph.node[index].output[0] in folded:
            del model.graph.node[index]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items())


def _drop_unread(model: onnx.ModelProto) -> None:
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type in _READERS and not read.intersection(node.output):
            del graph.node[index]
            read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    drop_unread_initializers(model)
