"""What every change of the weights of an ONNX file begins with."""

from __future__ import annotations

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from .....errors import CandidateFailure
from ....data.named import describe_shapes, parts_of
from ....rounding.layers import Layer
from ..constant_folding import fold_constants
from ..onnx_file import Arrays, constants_to_initializers, drop_unread_initializers
from ..padding import fuse_padding
from .weight_layers import find_layers, name_nodes, read_weights, separate_shared_weights

STAGE = "quantization"

RUNTIME_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    EncodeError,
    RuntimeError,
    ValueError,
    runtime_errors.EPFail,
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)
"""What onnx and onnxruntime raise about a graph; TypeError, KeyError and their like are bugs and pass through, and so
does OSError: a full disk is no fault of the candidate."""


def prepare_layers(model: onnx.ModelProto, name: str) -> list[Layer]:
    """Bring a model into the form that quantization knows, in place, and return its layers.

    Args:
        model: Its nodes get names, its constants become initializers and are worked out, padding goes into the layers,
            a PRelu of one slope becomes a LeakyRelu, which has an int8 kernel, weights read along two axes are copied.
        name: What the model is called in messages.

    Raises:
        CandidateFailure: Where it holds no layer, or a weight that is not finite.
    """
    layers = prepare(model)
    if not layers:
        raise CandidateFailure(STAGE, f"{name} holds no Conv, Gemm or MatMul with a constant float32 weight")
    return layers


def prepare(model: onnx.ModelProto) -> list[Layer]:
    """Do what :func:`prepare_layers` does where there need not be any layer.

    Raises:
        CandidateFailure: Where a weight is not finite.
    """
    name_nodes(model)
    constants_to_initializers(model)
    fold_constants(model)
    fuse_padding(model)
    leaky_relu_for_prelu(model)
    separate_shared_weights(model)
    layers = find_layers(model)
    for weight_name, weight in read_weights(model, {layer.weight_name for layer in layers}).items():
        if not np.isfinite(weight).all():
            raise CandidateFailure(STAGE, f"the weight {weight_name} holds a non-finite value (NaN or inf)")
    return layers


def leaky_relu_for_prelu(model: onnx.ModelProto) -> None:
    """Write each PRelu whose slopes are all alike as the LeakyRelu that it is, in place."""
    slopes = {tensor.name: tensor for tensor in model.graph.initializer}
    replaced = set()
    for node in model.graph.node:
        if node.op_type != "PRelu" or node.input[1] not in slopes:
            continue
        values = numpy_helper.to_array(slopes[node.input[1]])
        # Slopes of more axes than the input would broadcast it.
        if values.dtype == np.float32 and values.size == 1 and np.isfinite(values).all():
            replaced.add(node.input[1])
            node.op_type = "LeakyRelu"
            node.attribute.append(helper.make_attribute("alpha", float(values.reshape(-1)[0])))
            del node.input[1]
    drop_unread_initializers(model, among=replaced)


def check_calibration(calibration: Arrays) -> None:
    """Check calibration inputs.

    Raises:
        ValueError: Where there are none, or they are not finite.
    """
    arrays = parts_of(calibration).values()
    if any(array.ndim < 1 or len(array) < 1 for array in arrays):
        raise ValueError(f"calibration needs at least one input, got shape {describe_shapes(calibration)}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("the calibration inputs hold a non-finite value (NaN or inf)")
