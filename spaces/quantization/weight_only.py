"""Weights of few bits under float32 activations."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .layers import bits_of_layers, find_layers, read_weights
from .scales import along_axis, mse_scales, round_to_grid


def quantize_weights(model: onnx.ModelProto, weight_bits: int) -> None:
    """Store each layer's weight as int8 that the runtime casts and multiplies by its scales at load, in place.

    ``DequantizeLinear`` would say the same, but ONNX Runtime does not fold it: it ran at every inference.
    """
    layers = find_layers(model)
    bits = bits_of_layers(layers, weight_bits)
    axes = {layer.weight_name: layer.channel_axis for layer in layers}
    nodes = {node.name: node for node in model.graph.node}
    unpacking: list[onnx.NodeProto] = []
    for name, weight in read_weights(model, set(bits)).items():
        scales = mse_scales(weight, bits[name], axes[name])
        integers = round_to_grid(weight, scales, bits[name], axes[name])
        factors = along_axis(scales, weight.ndim, axes[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(integers, f"{name}#integers"))
        model.graph.initializer.append(numpy_helper.from_array(factors, f"{name}#scales"))
        unpacking.append(helper.make_node("Cast", [f"{name}#integers"], [f"{name}#cast"], to=onnx.TensorProto.FLOAT))
        unpacking.append(helper.make_node("Mul", [f"{name}#cast", f"{name}#scales"], [f"{name}#weight"]))
    for layer in layers:
        nodes[layer.node_name].input[1] = f"{layer.weight_name}#weight"
    prepend_nodes(model, unpacking)
    drop_unread_initializers(model, set(bits))


def prepend_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others, in place."""
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def drop_unread_initializers(model: onnx.ModelProto, names: set[str]) -> None:
    """Remove those of the named initializers that nothing reads any more, in place."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for index in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[index].name
        if name in names and name not in read:
            del model.graph.initializer[index]
