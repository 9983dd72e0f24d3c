"""Giving back to a layer's bias what rounding its weights took from its mean output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..onnx_file import drop_unread_initializers


def correct_biases(model: onnx.ModelProto, shifts: dict[str, np.ndarray]) -> None:
    """Add to each layer's bias the mean shift of its outputs, in place; a Conv or Gemm without a bias gets one.

    The empirical form of Nagel et al., "Data-free quantization through weight equalization and bias correction",
    ICCV 2019, section 4.2. Left as they are: a bias that is no constant, and a MatMul that no addition of a constant
    follows, since one more operator would cost time at every inference.

    Args:
        model: Its nodes named.
        shifts: By node name, what rounding takes from the mean output, E[x] (W - W'), shape (outputs,).
    """
    replaced = set()
    for node in model.graph.node:
        if node.name not in shifts:
            continue
        shift = shifts[node.name]
        reader, position = (_addition_behind(model, node), -1) if node.op_type == "MatMul" else (node, 2)
        if node.op_type == "Gemm":
            factors = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            beta = factors.get("beta", 1.0)
            shift = shift * factors.get("alpha", 1.0) / beta if beta else np.zeros_like(shift)
        if reader is not None and (old := _shift_bias(model, reader, position, shift)) is not None:
            replaced.add(old)
    drop_unread_initializers(model, among=replaced)


def _shift_bias(model: onnx.ModelProto, node: onnx.NodeProto, position: int, shift: np.ndarray) -> str | None:
    """Give a node a bias of its own, since another may read the same; return the name of the old one."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if position < 0:
        position = next(place for place, name in enumerate(node.input) if name in tensors)
    old = node.input[position] if len(node.input) > position else ""
    if old and old not in tensors:
        return None
    bias = numpy_helper.to_array(tensors[old]) if old else np.zeros(1)
    name = f"{node.name}#bias"
    model.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), name))
    if len(node.input) > position:
        node.input[position] = name
    else:
        node.input.append(name)
    return old


def _addition_behind(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the addition of a constant that alone reads what a matrix product gives."""
    vectors = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    readers: list[onnx.NodeProto] = [other for other in model.graph.node if node.output[0] in other.input]
    if len(readers) != 1 or node.output[0] in {value.name for value in model.graph.output}:
        return None
    return readers[0] if readers[0].op_type == "Add" and vectors.intersection(readers[0].input) else None
