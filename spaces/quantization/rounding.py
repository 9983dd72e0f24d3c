"""From float weights to integers and scales, by rounding to nearest or with error feedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from .error_feedback import round_with_feedback
from .layers import Layer, read_weights
from .moments import Moments, MomentSource
from .scales import along_axis, mse_scales, round_to_grid
from .settings import QuantizationSettings
from .shifts import Shifts, mean_shifts
from .unfolding import as_rows, from_rows
from .zeroing import Zeroing, readers_of, zeroed_weights


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on the grid.

    Args:
        integers: int8, the shape of the weight.
        scales: float32, one per index of the channel axis, or shape (1,) where that is None.
        channel_axis: Axis that the scales belong to; None for one scale in all.
    """

    integers: np.ndarray
    scales: np.ndarray
    channel_axis: int | None

    @property
    def factors(self) -> np.ndarray:
        """The scales in the shape that broadcasts against the integers, float32."""
        return along_axis(self.scales, self.integers.ndim, self.channel_axis).astype(np.float32)

    @property
    def values(self) -> np.ndarray:
        """What the integers stand for, float32; divided by the scale it rounds to the integers again."""
        return np.asarray(self.integers * self.factors, dtype=np.float32)


def round_weights(
    model: onnx.ModelProto,
    layers: list[Layer],
    bits: dict[str, int],
    *,
    settings: QuantizationSettings,
    calibration: np.ndarray,
    given: Mapping[str, RoundedWeight] | None = None,
    zeroing: Zeroing | None = None,
) -> tuple[dict[str, RoundedWeight], Shifts]:
    """Return the rounded weights by name, and the shifts of the layers' outputs; the model is left as it is.

    Weights that are zeroed as well are zeroed first, the others making good for them; what is left is rounded by the
    same second moments, and neither ever moves a zero: both steps of "Optimal Brain Compression" (Frantar and Alistarh,
    NeurIPS 2022), as SparseGPT (ICML 2023) does them in one pass.

    Args:
        model: Float32 model, its nodes named.
        layers: Layers of that model.
        bits: Bits of each weight by name.
        settings: How weights are rounded: ``feedback`` means :func:`round_with_feedback` on the layers' calibration
            inputs; rounding to nearest looks at no inputs, and so makes good for nothing and tells no shifts.
        calibration: float32, shape (n, *input_shape).
        given: Weights that are on their grid already, as training has left them; they are taken as they are, and have
            no part in zeroing.
        zeroing: How many weights are zeroed, and where; none but those that are zero already where None.
    """
    given = given or {}
    weights = read_weights(model, set(bits))
    readers = readers_of([layer for layer in layers if layer.weight_name not in given])
    # Layers that share a weight stand side by side, so that their moments mostly come in one portion.
    watched = [layer for name in readers for layer in readers[name]]
    source: Iterable[dict[str, Moments]] = []
    if settings.rounding == "feedback":
        source = MomentSource(model, watched, calibration)
    wanted = weights if zeroing is None else {**weights, **zeroed_weights(weights, readers, source, zeroing)}
    axes = {layer.weight_name: layer.channel_axis for layer in layers}
    # Scales fit what the weights have become: those of before clipped so much that 80 % zeros ruined a network.
    rounded = {}
    for name, weight in wanted.items():
        rounded[name] = given[name] if name in given else round_to_nearest(weight, axes[name], bits[name], settings)
    means: dict[str, np.ndarray] = {}
    for moments in source:
        means.update({node_name: found.mean for node_name, found in moments.items()})
        for name in readers:
            found = [moments[layer.node_name] for layer in readers[name] if layer.node_name in moments]
            if found:
                rounded[name] = round_for_inputs(wanted[name], rounded[name], axes[name], found, bits[name])
    return rounded, mean_shifts(layers, weights, {name: each.values for name, each in rounded.items()}, means)


def round_to_nearest(weight: np.ndarray, axis: int, bits: int, settings: QuantizationSettings) -> RoundedWeight:
    """Round one weight to nearest, by the scales of least squared error.

    Args:
        weight: Any shape, finite.
        axis: Its outputs lie along this axis.
        bits: 2 to 8.
        settings: Whether each output has a scale of its own.
    """
    scales_axis = axis if settings.granularity == "channel" else None
    scales = mse_scales(weight, bits, scales_axis)
    return RoundedWeight(round_to_grid(weight, scales, bits, scales_axis), scales, scales_axis)


def round_for_inputs(
    weight: np.ndarray, nearest: RoundedWeight, axis: int, found: list[Moments], bits: int
) -> RoundedWeight:  # fmt: skip
    """Round one weight so that the outputs of all layers that read it change least.

    Args:
        weight: Its outputs lie along ``axis``.
        nearest: What :func:`round_to_nearest` gives; its scales are kept.
        axis: See there.
        found: Moments of the inputs of the layers that read it, at least one; of layers that divide the weight into
            groups differently, nothing can be made of them, and it stays rounded to nearest.
        bits: 2 to 8.
    """
    groups = len(found[0].second)
    if any(len(moments.second) != groups for moments in found):
        return nearest
    integers = round_with_feedback(
        as_rows(weight, axis, groups),
        np.broadcast_to(nearest.scales, weight.shape[axis]).reshape(groups, -1),
        np.sum([moments.second for moments in found], axis=0),
        as_rows(nearest.integers, axis, groups),
        bits,
    )
    return RoundedWeight(from_rows(integers, weight.shape, axis), nearest.scales, nearest.channel_axis)
