"""Weights of few bits under uint8 activations, in the QDQ form that ONNX Runtime fuses into int8 kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from .activation_ranges import BATCH, activation_grids, float_activations, within_activation_functions
from .layers import LAYER_OPERATORS, Layer, find_layers
from .learned import ActivationGrid
from .rounding import RoundedWeight, replace_weights
from .settings import QuantizationSettings

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


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration inputs to the runtime, a batch at a time."""

    def __init__(self, input_name: str, inputs: np.ndarray) -> None:
        starts = range(0, len(inputs), BATCH)
        self._feeds = iter([{input_name: inputs[start : start + BATCH]} for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, None after the last."""
        return next(self._feeds, None)


def quantize_weights_and_activations(
    model: onnx.ModelProto,
    weights: dict[str, RoundedWeight],
    calibration: np.ndarray,
    settings: QuantizationSettings,
    activations: Mapping[str, ActivationGrid],
) -> onnx.ModelProto:
    """Return the QDQ model: signed int8 weights within their bits, unsigned activations.

    Args:
        model: Float32 model; its weights are replaced by their rounded values in place.
        weights: The rounded weights by name; layers whose weight is not among them stay float32.
        calibration: Inputs from which the ranges of activations are taken, shape (n, *input_shape).
        settings: How ranges are taken.
        activations: Grids of activations that are known already, by tensor name; no range is taken for these. Names
            of no tensor of the model are passed over, and so are tensors that take the grid of the one they are moved
            from, as the output of a MaxPool does.
    """
    reached = {layer.node_name for layer in find_layers(model) if layer.weight_name in weights}
    overrides = _replace_weights(model, weights)
    # of the rounded network: with its biases, corrected for that, the float weights would give other activations
    grids = {**activation_grids(model, calibration, settings.activation_ranges), **activations}
    overrides |= _activation_overrides(model, grids)
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


def has_int8_kernel(model: onnx.ModelProto, layer: Layer) -> bool:
    """Say whether a layer can be computed in int8: the matrix product takes weights of two axes only."""
    node = next(node for node in model.graph.node if node.name == layer.node_name)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == layer.weight_name)
    return node.op_type == "Conv" or len(weight.dims) == 2


def _replace_weights(model: onnx.ModelProto, weights: dict[str, RoundedWeight]) -> dict[str, list[dict[str, Any]]]:
    """Replace weights by their rounded values and return the scales in the form that onnxruntime takes them."""
    overrides: dict[str, list[dict[str, Any]]] = {}
    zero = np.array(0, dtype=np.int8)
    # Already on the grid here: onnxruntime rounds to nearest, and clips to 8 bits only.
    replace_weights(model, weights)
    for name, rounded in weights.items():
        axis = {} if rounded.channel_axis is None else {"axis": rounded.channel_axis}
        overrides[name] = [
            {"quant_type": QuantType.QInt8, "scale": scale, "zero_point": zero, **axis} for scale in rounded.scales
        ]
    return overrides


def _activation_overrides(
    model: onnx.ModelProto, grids: Mapping[str, ActivationGrid]
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Return the grids in the form that onnxruntime takes them."""
    known = float_activations(model) if grids else set()
    return {
        name: [{"scale": np.array(grid.scale, np.float32), "zero_point": np.array(grid.zero_point, np.uint8)}]
        for name, grid in within_activation_functions(model, grids).items()
        if name in known
    }


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
