"""Constants of quantized biases that follow from others: left out of the file, found again at load."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEWEST_ELEMENTS = 8
"""A ``Mul`` node takes about as many bytes as a scale of so many elements."""

_LAYERS_WITH_BIAS = ("Conv", "Gemm")


def derive_bias_constants(model: onnx.ModelProto, fixed: set[str], prefix: str) -> None:
    """Leave out zero points and scales of int32 biases where the rest of the graph says the same, in place.

    A zero point of zeros is the default. A scale that equals, bit for bit, the product of the scales of input and
    weight becomes that product, which the runtime folds. Zero points of int8 weights stay: without them, ONNX Runtime
    1.32 no longer fuses ``Gemm``.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in fixed}
    producers = {name: node for node in model.graph.node for name in node.output}
    products: list[onnx.NodeProto] = []
    for layer in model.graph.node:
        if layer.op_type not in _LAYERS_WITH_BIAS or len(layer.input) < 3:
            continue
        found = [producers.get(name) for name in layer.input[:3]]
        dequantized = [node for node in found if node is not None and node.op_type == "DequantizeLinear"]
        if len(dequantized) < 3 or not _is_int32(dequantized[2], constants):
            continue
        _drop_zero_point(dequantized[2], constants)
        product = _product(dequantized, constants, f"{prefix}_product{len(products)}")
        if product is not None:
            products.append(product)
            dequantized[2].input[1] = product.output[0]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*products, *nodes])


def _is_int32(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    return node.input[0] in constants and constants[node.input[0]].data_type == TensorProto.INT32


def _drop_zero_point(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> None:
    if len(node.input) < 3 or node.input[2] not in constants:
        return
    if not numpy_helper.to_array(constants[node.input[2]]).any():
        del node.input[2]


def _product(
    dequantized: list[onnx.NodeProto], constants: dict[str, TensorProto], output: str
) -> onnx.NodeProto | None:
    names = [node.input[1] for node in dequantized]
    if any(name not in constants or constants[name].data_type != TensorProto.FLOAT for name in names):
        return None
    of_input, of_weight, of_bias = (numpy_helper.to_array(constants[name]) for name in names)
    if of_bias.size < FEWEST_ELEMENTS or of_input.size != 1:
        return None
    product = (of_input * of_weight).astype(np.float32)
    if product.shape != of_bias.shape or product.tobytes() != of_bias.tobytes():
        return None
    return helper.make_node("Mul", names[:2], [output])
