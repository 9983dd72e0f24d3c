"""Weights of few bits under float32 activations."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from ....rounding.layers import Layer
from ....rounding.rounded_weights import RoundedWeight
from ..onnx_file import drop_unread_initializers


def quantize_weights(model: onnx.ModelProto, weights: dict[str, RoundedWeight], layers: list[Layer]) -> None:
    """Store each layer's weight as int8 that the runtime casts and multiplies by its scales at load, in place.

    ``DequantizeLinear`` would say the same, but ONNX Runtime does not fold it: it ran at every inference.

    Args:
        model: Float32 model.
        weights: The rounded weights by name.
        layers: The layers that read them.
    """
    nodes = {node.name: node for node in model.graph.node}
    unpacking: list[onnx.NodeProto] = []
    for name, rounded in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rounded.integers, f"{name}#integers"))
        model.graph.initializer.append(numpy_helper.from_array(rounded.factors, f"{name}#scales"))
        unpacking.append(helper.make_node("Cast", [f"{name}#integers"], [f"{name}#cast"], to=onnx.TensorProto.FLOAT))
        unpacking.append(helper.make_node("Mul", [f"{name}#cast", f"{name}#scales"], [f"{name}#weight"]))
    for layer in layers:
        nodes[layer.node_name].input[1] = f"{layer.weight_name}#weight"
    prepend_nodes(model, unpacking)
    drop_unread_initializers(model, among=set(weights))


def prepend_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others, in place."""
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
