"""The layers of an ONNX graph whose weights can be quantized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ....rounding.layers import Layer

LAYER_OPERATORS = ("Conv", "Gemm", "MatMul")
OTHER_OPERATORS = ("ConvTranspose", "Einsum", "GRU", "Gather", "LSTM", "RNN")
"""Operators whose weights are many, but are neither rounded nor zeroed at once."""


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers with a constant float32 weight of at least two axes, in the order of the graph."""
    inputs = {value.name for value in model.graph.input}
    weights = {
        tensor.name: len(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2 and tensor.name not in inputs
    }
    return [
        Layer(node.name, node.input[1], _channel_axis(node, weights[node.input[1]]))
        for node in model.graph.node
        if node.op_type in LAYER_OPERATORS and node.domain in ("", "ai.onnx") and node.input[1] in weights
    ]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place: layers are known by it."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}#{index}"
        taken.add(node.name)


def separate_shared_weights(model: onnx.ModelProto) -> None:
    """Give a layer its own copy of a weight that an earlier layer reads along another axis, in place."""
    axes: dict[str, int] = {}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    for layer in find_layers(model):
        if axes.setdefault(layer.weight_name, layer.channel_axis) == layer.channel_axis:
            continue
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensors[layer.weight_name])
        copy.name = f"{layer.weight_name}#{layer.node_name}"
        nodes[layer.node_name].input[1] = copy.name


def read_weights(model: onnx.ModelProto, names: set[str]) -> dict[str, np.ndarray]:
    """Return the named initializers as arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in names}


def write_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Replace the named initializers by arrays, in place."""
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))


def _channel_axis(node: onnx.NodeProto, axes: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return axes - 1
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else 1
