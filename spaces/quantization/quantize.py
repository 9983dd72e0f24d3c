"""One float32 ONNX file in, one with weights of few bits out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from ...errors import CandidateFailure
from ..onnx_file import constants_to_initializers, open_session, read_model, write_model
from .axis import Rounding
from .layers import find_layers, name_nodes, read_weights, separate_shared_weights
from .scales import FEWEST_BITS, MOST_BITS
from .static import quantize_weights_and_activations
from .weight_only import quantize_weights

_STAGE = "quantization"
_PROBES = 2

_RUNTIME_ERRORS = (
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


@dataclass(frozen=True)
class QuantizationReach:
    """How much of the network was quantized.

    Args:
        quantized_layers: Layers whose weight is now stored as integers.
        all_layers: Conv, Gemm and MatMul layers with a constant float32 weight.
    """

    quantized_layers: int
    all_layers: int


def quantize(
    source: Path,
    destination: Path,
    *,
    weight_bits: int,
    activation_bits: int,
    calibration: np.ndarray,
    rounding: Rounding = "feedback",
    bias_correction: bool = True,
) -> QuantizationReach:
    """Quantize a float32 ONNX file; its first and last layer keep (up to) 8 bits, and weights of zero stay zero.

    Args:
        source: Float32 file with one input, its batch axis free.
        destination: Where the result goes; it is written whole or not at all.
        weight_bits: 2 to 8.
        activation_bits: 8 for uint8 activations in QDQ form, 32 to leave them float32. Under uint8 activations no
            weight takes more than 7 bits, the last of 8 being lost to saturation on many processors.
        calibration: Inputs from which the ranges of activations are taken, float32, shape (n, *input_shape), n >= 1.
        rounding: ``nearest``, or ``feedback`` to round each layer so that its outputs on the calibration inputs change
            least (OBQ and GPTQ, see :func:`round_with_feedback`).
        bias_correction: With ``feedback``, add to the biases what rounding takes from the layers' mean outputs.

    Raises:
        CandidateFailure: Where onnx or onnxruntime rejects the graph, nothing can be quantized, or the result
            computes a non-finite value.
        ValueError: Where the bits or the calibration inputs have no meaning.
    """
    _check_arguments(weight_bits, activation_bits, calibration)
    model = read_model(source, _STAGE)
    name_nodes(model)
    constants_to_initializers(model)
    separate_shared_weights(model)
    layers = find_layers(model)
    if not layers:
        raise CandidateFailure(_STAGE, f"{source.name} holds no Conv, Gemm or MatMul with a constant float32 weight")
    for name, weight in read_weights(model, {layer.weight_name for layer in layers}).items():
        if not np.isfinite(weight).all():
            raise CandidateFailure(_STAGE, f"the weight {name} holds a non-finite value (NaN or inf)")
    inputs = calibration.astype(np.float32, copy=False)
    try:
        if activation_bits == MOST_BITS:
            model = quantize_weights_and_activations(model, weight_bits, inputs, rounding, bias_correction)
        else:
            quantize_weights(model, weight_bits, inputs, rounding, bias_correction)
        _check_result(model, inputs[:_PROBES])
    except _RUNTIME_ERRORS as error:
        raise CandidateFailure(_STAGE, f"{type(error).__name__}: {error}") from error
    write_model(model, destination, _STAGE)
    return QuantizationReach(quantized_layers=len(layers) - len(find_layers(model)), all_layers=len(layers))


def _check_arguments(weight_bits: int, activation_bits: int, calibration: np.ndarray) -> None:
    if not FEWEST_BITS <= weight_bits <= MOST_BITS:
        raise ValueError(f"weight_bits must be within {FEWEST_BITS}..{MOST_BITS}, got {weight_bits}")
    if activation_bits not in (8, 32):
        raise ValueError(f"activation_bits must be 8 or 32, got {activation_bits}")
    if calibration.ndim < 1 or len(calibration) < 1:
        raise ValueError(f"calibration needs at least one input, got shape {calibration.shape}")
    if not np.isfinite(calibration).all():
        raise ValueError("the calibration inputs hold a non-finite value (NaN or inf)")


def _check_result(model: onnx.ModelProto, inputs: np.ndarray) -> None:
    session = open_session(model)
    for output in session.run(None, {session.get_inputs()[0].name: inputs}):
        if not np.isfinite(output).all():
            raise CandidateFailure(_STAGE, "the quantized network's output holds a non-finite value (NaN or inf)")
