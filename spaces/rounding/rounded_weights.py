"""From float weights to integers and scales, by rounding to nearest or with error feedback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .error_feedback import damped, round_with_feedback
from .im2col import as_rows, from_rows
from .input_covariance import InputCovariance, summed_second
from .joint_zeroing import Zeroing, zeroed_weights
from .layers import Layer, readers_of
from .mean_shift import Shifts, mean_shifts
from .scales import along_axis, mse_scales, range_scales, round_to_grid
from .settings import QuantizationSettings
from .weight_loss import signal_to_noise_db
from .wide_layers import round_in_blocks

REACHES = (1.0, 0.9, 0.8, 0.7, 0.6)
"""Shares of the largest weight of an output at which its grid may end, where that is chosen by the outputs' error."""

FINE_BITS = 4
"""From so many bits on, scales are those of least squared error of the weights."""


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
    weights: Mapping[str, np.ndarray],
    layers: list[Layer],
    bits: Mapping[str, int],
    *,
    settings: QuantizationSettings,
    source: Iterable[dict[str, InputCovariance]],
    given: Mapping[str, RoundedWeight] | None = None,
    zeroing: Zeroing | None = None,
    told_loss: Callable[[str, float], None] | None = None,
) -> tuple[dict[str, RoundedWeight], Shifts]:
    """Return the rounded weights by name, and the shifts of the layers' outputs.

    Weights that are zeroed as well are zeroed first, the others making good for them; what is left is rounded by the
    same second moments, and neither ever moves a zero: both steps of "Optimal Brain Compression" (Frantar and Alistarh,
    NeurIPS 2022), as SparseGPT (ICML 2023) does them in one pass.

    Args:
        weights: Weights by name, float32.
        layers: The layers that read them; those that share a weight stand side by side in a portion of the source.
        bits: Bits of each weight by name.
        settings: Whether each output has a scale of its own.
        source: Moments of the layers' inputs by the layers' names, in portions; iterated more than once.
            :func:`round_with_feedback` works on them. Without any, weights are rounded to nearest, and so nothing is
            made good for, and there are no shifts.
        given: Weights that are on their grid already, as training has left them; they are taken as they are, and have
            no part in zeroing.
        zeroing: How many weights are zeroed, and where; none but those that are zero already where None.
        told_loss: Is told, by the name of a weight, the signal to noise in dB of the layers that read it, as far as
            their inputs are looked at.
    """
    given = given or {}
    readers = readers_of(layer for layer in layers if layer.weight_name not in given)
    wanted = {**weights} if zeroing is None else {**weights, **zeroed_weights(weights, readers, source, zeroing)}
    axes = {layer.weight_name: layer.channel_axis for layer in layers}
    # Scales fit what the weights have become: those of before clipped so much that 80 % zeros ruined a network.
    rounded = {}
    for name, weight in wanted.items():
        rounded[name] = given[name] if name in given else round_to_nearest(weight, axes[name], bits[name], settings)
    means: dict[str, np.ndarray] = {}
    for covariances in source:
        means.update({node_name: found.mean for node_name, found in covariances.items()})
        for name in readers:
            found = [covariances[layer.node_name] for layer in readers[name] if layer.node_name in covariances]
            if found:
                rounded[name] = round_for_inputs(wanted[name], rounded[name], axes[name], found, bits[name])
                if told_loss is not None:
                    told_loss(name, signal_to_noise_db(wanted[name], rounded[name].values, axes[name], found))
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


def round_alone(
    weight: np.ndarray, axis: int, found: list[InputCovariance], bits: int, settings: QuantizationSettings
) -> RoundedWeight:
    """Round one weight as :func:`round_weights` does.

    Args:
        weight: Its outputs lie along ``axis``.
        axis: See there.
        found: Moments of the inputs of the layers that read it; rounded to nearest where there are none.
        bits: 2 to 8.
        settings: Whether each output has a scale of its own.
    """
    nearest = round_to_nearest(weight, axis, bits, settings)
    return round_for_inputs(weight, nearest, axis, found, bits) if found else nearest


def round_for_inputs(
    weight: np.ndarray, nearest: RoundedWeight, axis: int, found: list[InputCovariance], bits: int
) -> RoundedWeight:  # fmt: skip
    """Round one weight so that the outputs of all layers that read it change least.

    At few bits the scales of least squared error clip what feedback cannot make good: a ResNet-20 of two bits lost 4.4
    points by them, and 0.4 by the best of :data:`REACHES` for the outputs. From :data:`FINE_BITS` on both are alike.

    Args:
        weight: Its outputs lie along ``axis``.
        nearest: What :func:`round_to_nearest` gives.
        axis: See there.
        found: Moments of the inputs of the layers that read it, at least one; of layers that divide the weight into
            groups differently, nothing can be made of them, and it stays rounded to nearest.
        bits: 2 to 8.
    """
    if found[0].rows is not None:
        return _round_wide(weight, nearest, axis, found, bits)
    second = summed_second(found)
    if second is None:
        return nearest
    curvature = damped(second)
    if curvature is None or bits >= FINE_BITS:
        return _with_feedback(weight, nearest, axis, second, bits)
    groups = len(second)
    rows = as_rows(weight, axis, groups).astype(np.float64)
    best, least = nearest, np.full(rows.shape[:2], np.inf)
    for reach in REACHES:
        scales = range_scales(weight, bits, nearest.channel_axis, reach)
        start = RoundedWeight(round_to_grid(weight, scales, bits, nearest.channel_axis), scales, nearest.channel_axis)
        tried = _with_feedback(weight, start, axis, second, bits)
        lost = rows - as_rows(tried.values, axis, groups)
        errors = np.einsum("gij,gij->gi", lost, lost @ curvature)
        if nearest.channel_axis is None:
            errors = np.full_like(errors, errors.sum())
        best, least = _better_rows(best, tried, (errors < least).reshape(-1), axis), np.minimum(errors, least)
    return best


def _round_wide(
    weight: np.ndarray, nearest: RoundedWeight, axis: int, found: list[InputCovariance], bits: int
) -> RoundedWeight:  # fmt: skip
    """Round a weight of which only rows of inputs are known; see :func:`round_for_inputs`."""
    seen = [covariances.rows for covariances in found if covariances.rows is not None]
    if len({len(rows) for rows in seen}) != 1:
        return nearest
    inputs = np.concatenate(seen, axis=1)
    if not np.isfinite(inputs).all():
        return nearest
    rows = as_rows(weight, axis, len(inputs))
    scales = np.broadcast_to(nearest.scales, weight.shape[axis]).reshape(rows.shape[:2])
    integers = [round_in_blocks(rows[group], scales[group], inputs[group], bits) for group in range(len(rows))]
    return replace(nearest, integers=from_rows(np.stack(integers), weight.shape, axis))


def _with_feedback(weight: np.ndarray, start: RoundedWeight, axis: int, second: np.ndarray, bits: int) -> RoundedWeight:
    groups = len(second)
    integers = round_with_feedback(
        as_rows(weight, axis, groups),
        np.broadcast_to(start.scales, weight.shape[axis]).reshape(groups, -1),
        second,
        as_rows(start.integers, axis, groups),
        bits,
    )
    return RoundedWeight(from_rows(integers, weight.shape, axis), start.scales, start.channel_axis)


def _better_rows(old: RoundedWeight, new: RoundedWeight, better: np.ndarray, axis: int) -> RoundedWeight:
    """Return the new integers and scales of those outputs that are better by them, and the old ones of the others."""
    if new.channel_axis is None:
        return new if better.all() else old
    shape = [1] * new.integers.ndim
    shape[axis] = -1
    integers = np.where(better.reshape(shape), new.integers, old.integers)
    return RoundedWeight(integers, np.where(better, new.scales, old.scales), new.channel_axis)
