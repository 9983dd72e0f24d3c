"""Weights of few bits under uint8 activations, in the QDQ form that ONNX Runtime fuses into int8 kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType

from ....notes import Note, untold
from ....rounding.layers import Layer
from ....rounding.learned import ActivationGrid
from ....rounding.rounded_weights import RoundedWeight
from ....rounding.settings import QuantizationSettings
from .activation_ranges import activation_grids, float_activations, within_activation_functions
from .graph_rounding import replace_weights
from .insertion import Spared, float_products, insert_grids
from .operator_kinds import SLOWER, nodes_of_kinds
from .range_choice import Grids, Outputs, best_grids
from .recorded import extremes_of, is_finite, record
from .segments import segments_of
from .spared_notes import ENDLESS, tell_spared
from .sparing import spare
from .unfit import unfit_nodes
from .weight_layers import LAYER_OPERATORS, find_layers

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


def quantize_weights_and_activations(
    model: onnx.ModelProto,
    weights: dict[str, RoundedWeight],
    calibration: np.ndarray,
    settings: QuantizationSettings,
    activations: Mapping[str, ActivationGrid],
    wanted: Outputs = (),
    note: Note = untold,
    *,
    checked: bool = True,
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
        wanted: What the float32 network gives for the first calibration inputs, by which ranges are chosen where that
            is asked for.
        note: Is told what stays float32, and why.
        checked: Whether every operator is compared with float32, and spared where it is wrong.
    """
    overrides = _replace_weights(model, weights)
    layers = [layer for layer in find_layers(model) if layer.weight_name in weights]
    known = float_activations(model)
    # of the rounded network: with its biases, corrected for that, the float weights would give other activations
    extremes = extremes_of(model, known, calibration)
    endless = frozenset(name for name, ends in extremes.items() if not is_finite(ends))
    finite = {name: ends for name, ends in extremes.items() if name not in endless}
    unfit = {**dict.fromkeys(nodes_of_kinds(model, settings.float_kinds), SLOWER), **unfit_nodes(model)}
    start = Spared(endless | float_products(model), frozenset(unfit))

    def insert(grids: Grids, spared: Spared) -> onnx.ModelProto:
        of_all = {**overrides, **_activation_overrides(model, {**grids, **activations})}
        return insert_grids(
            model, weights, layers, overrides=of_all, extremes=finite, operators=QUANTIZED_OPERATORS, spared=spared
        )

    if settings.activation_ranges == "auto":
        widest = {name: grid for name, grid in segments_of(insert({}, start)).grids.items() if name not in activations}
        grids = best_grids(model, calibration, finite, widest, wanted)
    else:
        grids = activation_grids(model, calibration, settings.activation_ranges)
    if not checked:
        return insert(grids, start)
    tensors = record(model, _watched(model, known), calibration)
    file = spare(model, partial(insert, grids), start, tensors, trained=set(activations))
    reasons = {**dict.fromkeys(endless, ENDLESS), **unfit, **file.reasons}
    tell_spared(model, file, reasons, QUANTIZED_OPERATORS, note)
    return file.model


def _watched(model: onnx.ModelProto, known: set[str]) -> set[str]:
    """Return the tensors that may get a grid, and the outputs."""
    touched = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type in QUANTIZED_OPERATORS:
            touched.update((*node.input, *node.output))
    return touched & (known | {value.name for value in model.graph.output})


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
