"""How many multiply-adds the layers of an ONNX graph take."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from .onnx_file import copy_of

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by name."""


def shapes_of_one_input(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors whose shape is known when one input is run, batch axis included."""
    single = copy_of(model)
    for value in single.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def multiply_adds_of(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the multiply-adds of a node for one input: 0 where it is no layer, None where its shapes are not known.

    Args:
        node: Conv, Gemm and MatMul count.
        shapes: As :func:`shapes_of_one_input` returns them.
    """
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    if any(name not in shapes for name in (*node.input[:2], node.output[0])):
        return None
    outputs = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return outputs * math.prod(shapes[node.input[1]][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return outputs * shapes[node.input[0]][0 if transposed else -1]
