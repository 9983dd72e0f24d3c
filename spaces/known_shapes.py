"""Shape arithmetic of an exported graph, worked out beforehand wherever only the batch axis is free."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .onnx_file import drop_unread_initializers

_ARITHMETIC = {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"}
_MOST_ELEMENTS = 64
_READERS = {"Shape", *_ARITHMETIC}


def fold_known_shapes(model: onnx.ModelProto) -> None:
    """Replace what is computed from known axes by constants, in place; only the batch axis stays free.

    With a free batch axis the exporter computes every axis of a reshape or a slice at run time. In an int8 graph
    these nodes cost more than the copies they steer: a ShuffleNet has some five hundred of them.
    """
    for _round in range(len(model.graph.node)):
        shapes = _inferred_shapes(model)
        constants = _small_integers(model)
        folded: dict[str, np.ndarray] = {}
        producers = {name: node for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            value = _value(node, {**constants, **folded}, producers, shapes)
            if value is not None:
                folded[node.output[0]] = value
            elif node.op_type == "Reshape":
                _free_one_axis(model, node, {**constants, **folded}, producers)
        if not folded:
            break
        _replace(model, folded)
    _drop_unread(model)


def _value(
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    producers: dict[str, onnx.NodeProto],
    shapes: dict[str, list[int | None]],
) -> np.ndarray | None:
    """Return the integers that a node computes, None where they are not known yet."""
    if node.op_type not in _ARITHMETIC or node.domain not in ("", "ai.onnx"):
        return None
    source = producers.get(node.input[0])
    if node.op_type == "Gather" and source is not None and source.op_type == "Shape" and not source.attribute:
        axes, index = shapes.get(source.input[0]), constants.get(node.input[1])
        if axes is None or index is None or index.size != 1:
            return None
        axis = axes[int(index.item())]
        return None if axis is None else np.full(index.shape, axis, dtype=np.int64)
    if not all(name in constants for name in node.input if name):
        return None
    feeds = {name: constants[name] for name in node.input if name}
    outputs: list[np.ndarray] = ReferenceEvaluator(node).run(None, feeds)  # type: ignore[assignment]
    value = np.asarray(outputs[0])
    return value if value.dtype == np.int64 and value.size <= _MOST_ELEMENTS else None


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
