"""Rounding and zeroing the weights of an ONNX graph: its numbers go to :mod:`karui.spaces.rounding`, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path

import numpy as np
import onnx

from ....rounding.allocation import spread_bits
from ....rounding.bit_choice import BitChoice
from ....rounding.input_covariance import InputCovariance
from ....rounding.joint_zeroing import Zeroing, zeroed_weights
from ....rounding.layers import Layer, readers_of
from ....rounding.mean_shift import Shifts, mean_shifts
from ....rounding.rounded_weights import RoundedWeight, round_weights
from ....rounding.settings import QuantizationSettings
from .covariance_source import CovarianceSource
from .sensitivity_probe import kept_table
from .weight_layers import read_weights, write_weights


def spread_over_layers(
    model: onnx.ModelProto,
    layers: list[Layer],
    reached: list[Layer],
    choice: BitChoice,
    inputs: np.ndarray,
    settings: QuantizationSettings,
    sensitivity: Path | None,
    given: Set[str] = frozenset(),
) -> dict[str, int]:
    """Return the bits of each weight that is reached, by name.

    Args:
        model: Float32 model.
        layers: All of its layers.
        reached: Those among them that are quantized.
        choice: How many bits, and how they are spread.
        inputs: Calibration inputs, float32, shape (n, *input_shape), for a budget.
        settings: How weights are rounded, for a budget.
        sensitivity: Where the table that a budget is spread by is kept; None to keep it nowhere.
        given: Weights that training has rounded already; they have no part in a budget.
    """
    # Of all layers, so that the table serves float activations as well.
    return spread_bits(reached, choice, lambda: kept_table(sensitivity, model, layers, inputs, settings), given)


def round_layers(
    model: onnx.ModelProto,
    layers: list[Layer],
    bits: dict[str, int],
    *,
    settings: QuantizationSettings,
    calibration: np.ndarray,
    given: Mapping[str, RoundedWeight] | None = None,
    zeroing: Zeroing | None = None,
    told_loss: Callable[[str, float], None] | None = None,
) -> tuple[dict[str, RoundedWeight], Shifts]:
    """Return the rounded weights by name, and the shifts of the layers' outputs; the model is left as it is.

    Args:
        model: Float32 model, its nodes named.
        layers: Layers of that model.
        bits: Bits of each weight by name.
        settings: How weights are rounded: ``feedback`` looks at the layers' calibration inputs, ``nearest`` at none.
        calibration: float32, shape (n, *input_shape).
        given: As for :func:`~karui.spaces.rounding.rounded_weights.round_weights`.
        zeroing: Likewise.
        told_loss: Likewise.
    """
    rounded_here = [layer for layer in layers if layer.weight_name not in (given or {})]
    return round_weights(
        read_weights(model, set(bits)), layers, bits, settings=settings, given=given, zeroing=zeroing,
        source=_source(model, rounded_here, settings, calibration), told_loss=told_loss,
    )  # fmt: skip


def replace_weights(model: onnx.ModelProto, weights: Mapping[str, RoundedWeight]) -> None:
    """Replace weights, by name, by what they are rounded to, in place."""
    write_weights(model, {name: rounded.values for name, rounded in weights.items()})


def zero_layers(
    model: onnx.ModelProto,
    layers: list[Layer],
    *,
    zeroing: Zeroing,
    settings: QuantizationSettings,
    calibration: np.ndarray,
) -> Shifts:
    """Zero float32 weights in place, and return what that takes from the layers' mean outputs.

    Args:
        model: Float32 model, its nodes named; the weights of its layers are replaced.
        layers: Layers of that model.
        zeroing: How many weights, and where; see :func:`~karui.spaces.rounding.joint_zeroing.zeroed_weights`.
        settings: With rounding to ``nearest``, weights go by magnitude, nothing makes good for them, and there are no
            shifts, since no inputs are looked at.
        calibration: float32, shape (n, *input_shape).
    """
    readers = readers_of(layers)
    weights = read_weights(model, set(readers))
    source = _source(model, layers, settings, calibration)
    zeroed = zeroed_weights(weights, readers, source, zeroing)
    means = {node_name: found.mean for covariances in source for node_name, found in covariances.items()}
    write_weights(model, zeroed)
    return mean_shifts(layers, weights, zeroed, means)


def _source(
    model: onnx.ModelProto, layers: list[Layer], settings: QuantizationSettings, calibration: np.ndarray
) -> Iterable[dict[str, InputCovariance]]:
    if settings.rounding != "feedback":
        return []
    # Layers that share a weight stand side by side, so that their moments come in one portion.
    watched = [layer for readers in readers_of(layers).values() for layer in readers]
    return CovarianceSource(model, watched, calibration)
