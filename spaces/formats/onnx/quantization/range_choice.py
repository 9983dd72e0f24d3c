"""Which rule for the ranges of activations serves a network's outputs best: that is tried, on calibration data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from ....rounding.learned import ActivationGrid
from ..onnx_file import Arrays, feeds_for, open_session
from .activation_ranges import grids_by_rule, within_activation_functions
from .emulation import EmulatedRounding
from .recorded import Extremes
from .segments import origin_of

Grids = Mapping[str, ActivationGrid]
Outputs = Sequence[np.ndarray]

LEAST_GAIN_DB = 1.0
"""By so much the error of the outputs has to fall for values to be clipped."""

_BATCH = 32


def best_grids(
    model: onnx.ModelProto,
    calibration: Arrays,
    extremes: Extremes,
    widest: Grids,
    wanted: Outputs,
) -> Grids:
    """Return the grids of the rule by which the outputs of the whole rounded network change least.

    No rule is best for every network: clipping a few large values may gain 3 dB, or lose as much where the next layer
    lives on them. The error of single tensors does not tell; that of the outputs does, and ranks rules on calibration
    data as on data that were not seen. Other rules than the extremes trade small errors everywhere for large ones at
    the ends, of which a mean says little: they have to gain :data:`LEAST_GAIN_DB`.

    Args:
        model: Float32 model with one input, its weights as they will be.
        calibration: Inputs from which ranges are taken, shape (n, *input_shape).
        extremes: The least and the greatest value of each tensor on these.
        widest: The grids of all tensors that are rounded, where each follows from its extremes.
        wanted: What the float32 network gives for the first of these inputs.
    """
    if not widest:
        return {}
    inputs = calibration[: len(wanted[0])]
    rounding = EmulatedRounding(model, widest)
    tried = grids_by_rule(model, calibration, extremes)
    errors = {}
    for rule, grids in tried.items():
        known = within_activation_functions(model, {**widest, **grids})
        whole = {name: known[origin_of(model, name, widest)] for name in widest}
        batches = [rounding.run(inputs[start : start + _BATCH], whole) for start in range(0, len(inputs), _BATCH)]
        errors[rule] = squared_error(wanted, [np.concatenate(parts) for parts in zip(*batches, strict=True)])
    best = min(errors, key=lambda rule: errors[rule])
    return tried[best if errors[best] <= errors["minmax"] * 10 ** (-LEAST_GAIN_DB / 10) else "minmax"]


def squared_error(wanted: Outputs, given: Outputs) -> float:
    """Return the mean squared error of some outputs relative to their variance, summed; inf where one is not finite."""
    total = 0.0
    for before, after in zip(wanted, given, strict=True):
        if not np.isfinite(after).all():
            return math.inf
        difference = np.square(after.astype(np.float64) - before).mean()
        total += float(difference / (before.astype(np.float64).var() or 1.0))
    return total


def outputs_of(model: onnx.ModelProto, inputs: Arrays) -> Outputs:
    """Return all outputs of a model for any number of inputs."""
    session = open_session(model)
    starts = range(0, len(inputs), _BATCH)
    batches = [session.run(None, feeds_for(model, inputs[start : start + _BATCH])) for start in starts]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
