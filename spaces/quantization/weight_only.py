"""Weights of few bits under float32 activations."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..onnx_file import drop_unread_initializers
from .axis import Rounding
from .bias_correction import correct_biases
from .layers import bits_of_layers, find_layers
from .rounding import round_weights


def quantize_weights(
    model: onnx.ModelProto, weight_bits: int, calibration: np.ndarray, rounding: Rounding, bias_correction: bool
) -> None:
    """Store each layer's weight as int8 that the runtime casts and multiplies by its scales at load, in place.

    ``DequantizeLinear`` would say the same, but ONNX Runtime does not fold it: it ran at every inference.

    Args:
        model: Float32 model.
        weight_bits: 2 to 8.
        calibration: Inputs that error feedback sees, shape (n, *input_shape).
        rounding: How weights are rounded, see :func:`round_weights`.
        bias_correction: Whether biases make good the shifts that ``round_weights`` tells.
    """
    layers = find_layers(model)
    bits = bits_of_layers(layers, weight_bits)
    nodes = {node.name: node for node in model.graph.node}
    unpacking: list[onnx.NodeProto] = []
    weights, shifts = round_weights(model, layers, bits, rounding=rounding, calibration=calibration)
    if bias_correction:
        correct_biases(model, shifts)
    for name, rounded in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rounded.integers, f"{name}#integers"))
        model.graph.initializer.append(numpy_helper.from_array(rounded.factors, f"{name}#scales"))
        unpacking.append(helper.make_node("Cast", [f"{name}#integers"], [f"{name}#cast"], to=onnx.TensorProto.FLOAT))
        unpacking.append(helper.make_node("Mul", [f"{name}#cast", f"{name}#scales"], [f"{name}#weight"]))
    for layer in layers:
        nodes[layer.node_name].input[1] = f"{layer.weight_name}#weight"
    prepend_nodes(model, unpacking)
    drop_unread_initializers(model, among=set(bits))


def prepend_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others, in place."""
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
