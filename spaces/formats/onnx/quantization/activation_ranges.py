"""Which values the 256 integers of an activation stand for, from what the tensor holds on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np
import onnx
from onnx import numpy_helper

from ....rounding.histogram import Histogram
from ....rounding.learned import ActivationGrid
from ....rounding.range_search import grid_between, least_squared_error, most_information
from ....rounding.settings import ActivationRule
from ..onnx_file import Arrays, feeds_for, open_watching
from .recorded import Extremes, extremes_of

PERCENTILE = 99.99
"""Share of the values, in percent, below the upper end of a range; as many lie above the lower end."""

BATCH = 32

_LEAST_RANGE = 1e-30
"""Narrower ranges have steps that float32 hardly tells from nothing."""

_BINS = 4096

RULES: tuple[ActivationRule, ...] = get_args(ActivationRule)


def activation_grids(
    model: onnx.ModelProto, calibration: Arrays, how: ActivationRule
) -> dict[str, ActivationGrid]:  # fmt: skip
    """Return the grids of a model's float activations by tensor name.

    All are found from one histogram for each tensor, so that no more than a batch of activations is held at a time.
    Tensors that are always zero, or not finite, are left out, and so are all of them for ``minmax``, the rule of
    onnxruntime itself. Its other rules are not used: they hold all activations of all inputs at once, its entropy has a
    single range to choose from between 128 bins and as many integers, and with 1,024 bins a network of twelve layers
    took it 46 seconds.

    Args:
        model: Float32 model with one input.
        calibration: float32, shape (n, *input_shape).
        how: ``percentile``; ``entropy``, the range whose grid keeps the most information (Migacz, "8-bit inference with
            TensorRT", GTC 2017); or ``mse``, the least squared error (Banner, Nahshan and Soudry, "Post training 4-bit
            quantization", NeurIPS 2019, section 3).
    """
    if how == "minmax":
        return {}
    return {name: _grid(found, how) for name, found in histograms(model, calibration).items()}


def grids_by_rule(
    model: onnx.ModelProto, calibration: Arrays, extremes: Extremes
) -> dict[ActivationRule, dict[str, ActivationGrid]]:
    """Return what :func:`activation_grids` gives by each rule, for little more than by one of them.

    Args:
        model: Float32 model with one input.
        calibration: float32, shape (n, *input_shape).
        extremes: The least and the greatest value, with zero among them, of those tensors that are wanted.
    """
    found = _histograms_between(model, calibration, extremes)
    return {how: {name: _grid(each, how) for name, each in found.items() if how != "minmax"} for how in RULES}


def histograms(model: onnx.ModelProto, calibration: Arrays) -> dict[str, Histogram]:
    """Return the histograms of the finite activations that are not always (next to) zero, by tensor name.

    Args:
        model: Float32 model with one input.
        calibration: float32, shape (n, *input_shape).
    """
    return _histograms_between(model, calibration, extremes_of(model, float_activations(model), calibration))


def _histograms_between(model: onnx.ModelProto, calibration: Arrays, extremes: Extremes) -> dict[str, Histogram]:
    alive = {name: ends for name, ends in extremes.items() if _LEAST_RANGE < ends[1] - ends[0] < np.inf}
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in alive}
    for name, values in _values(model, set(alive), calibration):
        lowest, highest = alive[name]
        bins = ((values - np.float32(lowest)) * np.float32(_BINS / (highest - lowest))).astype(np.int32)
        counts[name] += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)
    return {name: Histogram(*alive[name], counts[name]) for name in alive}


def float_activations(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float32 tensors that are computed or fed, as far as their types are known."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    constants = {tensor.name for tensor in inferred.initializer}
    return {
        value.name
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in constants
    }


def within_activation_functions(
    model: onnx.ModelProto, grids: Mapping[str, ActivationGrid]
) -> dict[str, ActivationGrid]:  # fmt: skip
    """Return the grids, those of a Relu's or Clip's output reaching no further than its function does.

    Such a function is left out of the file, the end of its grid standing for it: a grid that goes beyond would let
    values through that the function cuts off.
    """
    fitted = dict(grids)
    for name, (lower, upper) in function_limits(model).items():
        if (grid := grids.get(name)) is None:
            continue
        lowest, highest = grid.ends
        # Half a step beyond is rounding.
        if lowest < lower - grid.scale / 2 or highest > upper + grid.scale / 2:
            fitted[name] = grid_between(max(lowest, min(lower, 0.0)), min(highest, max(upper, 0.0)))
    return fitted


def function_limits(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Return between which values a Relu or Clip holds its output, by the name of that tensor; inf where it does not.

    Args:
        model: A model whose constants are initializers.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    limits = {node.output[0]: (0.0, np.inf) for node in model.graph.node if node.op_type == "Relu"}
    for node in model.graph.node:
        if node.op_type == "Clip":
            lower, upper = (
                float(numpy_helper.to_array(tensors[name])) if name in tensors else limit
                for name, limit in zip([*node.input[1:3], "", ""], (-np.inf, np.inf), strict=False)
            )
            limits[node.output[0]] = lower, upper
    return limits


def _grid(found: Histogram, how: ActivationRule) -> ActivationGrid:
    if how == "percentile":
        lowest, highest = _between_percentiles(found)
        return grid_between(lowest, highest) if lowest < highest else grid_between(found.lowest, found.highest)
    if how == "entropy":
        return most_information(found)
    return least_squared_error(found)


def _between_percentiles(found: Histogram) -> tuple[float, float]:
    edges = np.linspace(found.lowest, found.highest, _BINS + 1)
    shares = np.append(0.0, np.cumsum(found.counts)) / found.counts.sum()
    below, above = np.interp([1 - PERCENTILE / 100, PERCENTILE / 100], shares, edges)
    return min(float(below), 0.0), max(float(above), 0.0)


def _values(model: onnx.ModelProto, names: set[str], calibration: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of the model, batch after batch, flat."""
    session = open_watching(model, names)
    outputs = [value.name for value in session.get_outputs()]
    for start in range(0, len(calibration), BATCH):
        batch = calibration[start : start + BATCH]
        feeds = feeds_for(model, batch)
        for name, values in (*zip(outputs, session.run(None, feeds), strict=True), *feeds.items()):
            if name in names and values.size:
                yield name, np.asarray(values).reshape(-1)
