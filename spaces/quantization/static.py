"""Weights of few bits under uint8 activations, in the QDQ form that ONNX Runtime fuses into int8 kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from ..candidate import MOST_BITS_BESIDE_INT8
from .axis import Rounding
from .bias_correction import correct_biases
from .layers import LAYER_OPERATORS, Layer, bits_of_layers, find_layers
from .rounding import RoundedWeight, round_weights

QUANTIZED_OPERATORS = (
    *LAYER_OPERATORS,
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Operators with an int8 kernel on the CPU, or that only move values. Others stay float32 between the int8 islands:
``HardSwish``, ``BatchNormalization`` and ``ReduceMean`` have no such kernel, ``Softmax`` loses too much."""


_BATCH = 32


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration inputs to the runtime, a batch at a time."""

    def __init__(self, input_name: str, inputs: np.ndarray) -> None:
        starts = range(0, len(inputs), _BATCH)
        self._feeds = iter([{input_name: inputs[start : start + _BATCH]} for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, None after the last."""
        return next(self._feeds, None)


def quantize_weights_and_activations(
    model: onnx.ModelProto, weight_bits: int, calibration: np.ndarray, rounding: Rounding, bias_correction: bool
) -> onnx.ModelProto:
    """Return the QDQ model: signed per-channel int8 weights within their bits, unsigned activations (min-max).

    Args:
        model: Float32 model; its weights are rounded to their grid in place.
        weight_bits: 2 to 8; more than ``MOST_BITS_BESIDE_INT8`` are taken as that many.
        calibration: Inputs from which the ranges of activations are taken, shape (n, *input_shape).
        rounding: How weights are rounded, see :func:`round_weights`.
        bias_correction: Whether biases make good the shifts that ``round_weights`` tells.
    """
    layers = [layer for layer in find_layers(model) if _has_int8_kernel(model, layer)]
    reached = {layer.node_name for layer in layers}
    bits = bits_of_layers(layers, weight_bits, most_bits=MOST_BITS_BESIDE_INT8) if layers else {}
    weights, shifts = round_weights(model, layers, bits, rounding=rounding, calibration=calibration)
    overrides = _replace_weights(model, weights)
    if bias_correction:
        correct_biases(model, shifts)
    excluded = [node.name for node in model.graph.node if node.op_type in LAYER_OPERATORS and node.name not in reached]
    # The mark of onnxruntime's own pre-processing; ours is the exporter's folding and remove_identities.
    mark = model.metadata_props.add()
    mark.key, mark.value = "onnx.quant.pre_process", "karui"
    with tempfile.TemporaryDirectory(prefix="karui-quantize-") as folder, _quiet():
        float_file, quantized_file = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, float_file)
        quantize_static(
            float_file,
            quantized_file,
            _Batches(model.graph.input[0].name, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            nodes_to_exclude=excluded,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            # The runtime may still raise a weight's scale where a large bias would overflow int32. That keeps the
            # integers within their bits and zeros at zero, so it is left on.
            extra_options={"TensorQuantOverrides": overrides},
        )
        quantized = onnx.load(quantized_file)
    del quantized.metadata_props[:]
    return quantized


def _has_int8_kernel(model: onnx.ModelProto, layer: Layer) -> bool:
    """The int8 matrix product takes weights of two axes only."""
    node = next(node for node in model.graph.node if node.name == layer.node_name)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == layer.weight_name)
    return node.op_type == "Conv" or len(weight.dims) == 2


def _replace_weights(model: onnx.ModelProto, weights: dict[str, RoundedWeight]) -> dict[str, list[dict[str, Any]]]:
    """Replace weights by their rounded values and return the scales in the form that onnxruntime takes them."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    zero = np.array(0, dtype=np.int8)
    for name, rounded in weights.items():
        # Already on the grid here: onnxruntime rounds to nearest, and clips to 8 bits only.
        tensors[name].CopyFrom(numpy_helper.from_array(rounded.values, name))
        overrides[name] = [
            {"quant_type": QuantType.QInt8, "axis": rounded.channel_axis, "scale": scale, "zero_point": zero}
            for scale in rounded.scales
        ]
    return overrides


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization, which talks through the root logger and prints."""
    root, runtime = logging.getLogger(), logging.getLogger("onnxruntime")
    level = runtime.level
    # Without a handler, the first logging.warning() would install one for good.
    handler = logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_reject)
    runtime.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        runtime.setLevel(level)
        root.removeFilter(_reject)
        root.removeHandler(handler)


def _reject(_record: logging.LogRecord) -> bool:
    return False
