"""Operators that the runtime's int8 kernels, or its quantizer, are known to get wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

CLIPPED = "0 does not lie between its limits, which the end of a grid would stand for"
AVERAGED = "the int8 kernel divides windows beyond the edge by all of their cells"


def unfit_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Return by name which nodes stay float32, and why.

    The quantizer leaves a Clip out, its limits becoming the ends of the grid behind it. Every grid holds zero, since
    padding is zero: a Clip that cuts zero off, or whose limits are computed, cannot be left out.

    Args:
        model: Float32 model, its nodes named and its constants initializers.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Clip" and not _holds_zero(node, tensors):
            found[node.name] = CLIPPED
        elif node.op_type == "AveragePool":
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            if attributes.get("ceil_mode"):
                found[node.name] = AVERAGED
    return found


def _holds_zero(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    limits = [-np.inf, np.inf]
    for place, name in enumerate(node.input[1:3]):
        if name and name not in tensors:
            return False
        if name:
            limits[place] = float(numpy_helper.to_array(tensors[name]))
    return bool(limits[0] <= 0 <= limits[1])
