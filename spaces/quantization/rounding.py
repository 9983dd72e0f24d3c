"""From float weights to integers and scales, by rounding to nearest or with error feedback."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx

from .axis import Rounding
from .error_feedback import round_with_feedback
from .layers import Layer, read_weights
from .moments import Moments, input_moments
from .scales import along_axis, mse_scales, round_to_grid
from .unfolding import as_rows, from_rows

Shifts = dict[str, np.ndarray]
"""By node name, what rounding takes from a layer's mean output, E[x] (W - W'), float64, shape (outputs,)."""


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on the grid.

    Args:
        integers: int8, the shape of the weight.
        scales: float32, one per index of the channel axis.
        channel_axis: Axis that the scales belong to.
    """

    integers: np.ndarray
    scales: np.ndarray
    channel_axis: int

    @property
    def factors(self) -> np.ndarray:
        """The scales in the shape that broadcasts against the integers, float32."""
        return along_axis(self.scales, self.integers.ndim, self.channel_axis).astype(np.float32)

    @property
    def values(self) -> np.ndarray:
        """What the integers stand for, float32; divided by the scale it rounds to the integers again."""
        return np.asarray(self.integers * self.factors, dtype=np.float32)


def round_weights(
    model: onnx.ModelProto, layers: list[Layer], bits: dict[str, int], *, rounding: Rounding, calibration: np.ndarray
) -> tuple[dict[str, RoundedWeight], Shifts]:
    """Return the rounded weights by name, and the shifts of the layers' outputs; the model is left as it is.

    Args:
        model: Float32 model, its nodes named.
        layers: Layers of that model.
        bits: Bits of each weight by name.
        rounding: ``nearest``, or ``feedback`` for :func:`round_with_feedback` on the layers' calibration inputs.
            Rounding to nearest looks at no inputs and so tells no shifts.
        calibration: float32, shape (n, *input_shape).
    """
    axes = {layer.weight_name: layer.channel_axis for layer in layers}
    weights = read_weights(model, set(bits))
    rounded = {}
    for name, weight in weights.items():
        scales = mse_scales(weight, bits[name], axes[name])
        rounded[name] = RoundedWeight(round_to_grid(weight, scales, bits[name], axes[name]), scales, axes[name])
    if rounding == "nearest":
        return rounded, {}
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        readers[layer.weight_name].append(layer)
    means: dict[str, np.ndarray] = {}
    # Layers that share a weight stand side by side, so that their moments mostly come in one portion.
    for moments in input_moments(model, [layer for name in readers for layer in readers[name]], calibration):
        means.update({node_name: found.mean for node_name, found in moments.items()})
        for name in readers:
            found = [moments[layer.node_name] for layer in readers[name] if layer.node_name in moments]
            if found:
                rounded[name] = _with_feedback(weights[name], rounded[name], found, bits[name])
    return rounded, _shifts(layers, weights, rounded, means)


def _with_feedback(
    weight: np.ndarray, nearest: RoundedWeight, found: list[Moments], bits: int
) -> RoundedWeight:  # fmt: skip
    """Round one weight for all layers that read it."""
    groups = len(found[0].second)
    if any(len(moments.second) != groups for moments in found):
        return nearest
    axis = nearest.channel_axis
    integers = round_with_feedback(
        as_rows(weight, axis, groups),
        nearest.scales.reshape(groups, -1),
        np.sum([moments.second for moments in found], axis=0),
        as_rows(nearest.integers, axis, groups),
        bits,
    )
    return RoundedWeight(from_rows(integers, weight.shape, axis), nearest.scales, axis)


def _shifts(
    layers: list[Layer],
    weights: dict[str, np.ndarray],
    rounded: dict[str, RoundedWeight],
    means: dict[str, np.ndarray],
) -> Shifts:
    shifts = {}
    for layer in layers:
        if (mean := means.get(layer.node_name)) is not None and np.isfinite(mean).all():
            lost = weights[layer.weight_name].astype(np.float64) - rounded[layer.weight_name].values
            rows = as_rows(lost, layer.channel_axis, len(mean))
            shifts[layer.node_name] = np.einsum("gok,gk->go", rows, mean).reshape(-1)
    return shifts
