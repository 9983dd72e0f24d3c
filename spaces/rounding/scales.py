"""Scales that round weights to a grid of few bits with the least squared error."""

from __future__ import annotations

import numpy as np

from ..bit_names import FEWEST_BITS, MOST_BITS

_BLOCK_ELEMENTS = 65_536
"""Elements searched at a time, so that the temporaries stay in the processor's cache."""

_FEWEST_FACTORS, _MOST_FACTORS, _FACTORS_TIMES_ELEMENTS = 40, 400, 40_000
"""Short rows, as of depthwise convolutions, have a rugged error and are cheap: they are searched more finely."""

_SMALLEST_FACTOR = {2: 0.05, 3: 0.2, 4: 0.35, 5: 0.5, 6: 0.6, 7: 0.7, 8: 0.8}
_LEAST_SQUARES_STEPS = 2
_SMALLEST_SCALE = 1e-20
_SCALE_OF_NOTHING = 1e-4


def grid_limits(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest integer of the grid; 8 bits leave out -128, as the int8 kernels prefer.

    Raises:
        ValueError: Where bits is not within 2..8.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits must be within {FEWEST_BITS}..{MOST_BITS}, got {bits}")
    largest = 2 ** (bits - 1) - 1
    return (-largest if bits == MOST_BITS else -largest - 1), largest


def mse_scales(weight: np.ndarray, bits: int, channel_axis: int | None) -> np.ndarray:
    """Return the scales s that minimise the squared error between w and s * round(w / s), clipped to the grid.

    A grid of clipping factors is searched, then the scale is set to the least-squares optimum for the integers found
    and the rounding repeated, as in Lloyd's method (Lloyd, "Least squares quantization in PCM", 1982). Search over
    clipping: Banner, Nahshan and Soudry, "Post training 4-bit quantization", NeurIPS 2019, section 3.

    Args:
        weight: Any shape, finite.
        bits: 2 to 8.
        channel_axis: The axis with one scale per index; None for one scale in all.

    Returns:
        Positive float32 scales, shape (channels,), or (1,) where channel_axis is None. A channel without any non-zero
        takes the smallest scale of the others, so that a bias quantized in steps of it loses nothing.

    Raises:
        ValueError: Where bits is not within 2..8.
    """
    grid_limits(bits)
    rows = _rows(weight, channel_axis)
    scales = np.zeros(len(rows), dtype=np.float64)
    step = max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        scales[start : start + step] = _search(rows[start : start + step], bits)
    return _above_zero(scales)


def range_scales(weight: np.ndarray, bits: int, channel_axis: int | None, reach: float) -> np.ndarray:
    """Return the scales at which the largest integer of the grid stands for a share of the largest weight.

    Args:
        weight: Any shape, finite.
        bits: 2 to 8.
        channel_axis: The axis with one scale per index; None for one scale in all.
        reach: That share, above 0.

    Returns:
        As :func:`mse_scales`.
    """
    _, largest = grid_limits(bits)
    scales = reach * np.abs(_rows(weight, channel_axis)).max(axis=1, initial=0.0).astype(np.float64) / largest
    return _above_zero(scales)


def round_to_grid(weight: np.ndarray, scales: np.ndarray, bits: int, channel_axis: int | None) -> np.ndarray:
    """Return the int8 integers nearest to weight / scales that the grid of so many bits holds; zero stays zero.

    Args:
        weight: Any shape.
        scales: Shape (channels,), or (1,) where channel_axis is None.
        bits: 2 to 8.
        channel_axis: The axis that the scales belong to.

    Raises:
        ValueError: Where bits is not within 2..8.
    """
    smallest, largest = grid_limits(bits)
    integers = np.rint(weight / along_axis(scales, weight.ndim, channel_axis))
    clipped: np.ndarray = np.clip(integers, smallest, largest).astype(np.int8)
    return clipped


def along_axis(scales: np.ndarray, axes: int, channel_axis: int | None) -> np.ndarray:
    """Return the scales in the shape that broadcasts against a weight of so many axes."""
    if channel_axis is None:
        return scales.reshape((1,) * axes)
    shape = [1] * axes
    shape[channel_axis] = -1
    return scales.reshape(shape)


def _above_zero(scales: np.ndarray) -> np.ndarray:
    """Return float32 scales, those of nothing but zeros as small as the smallest other one."""
    positive = scales[scales > 0]
    scales = np.where(scales > 0, scales, positive.min() if positive.size else _SCALE_OF_NOTHING)
    return np.asarray(np.maximum(scales, _SMALLEST_SCALE), dtype=np.float32)


def _rows(weight: np.ndarray, channel_axis: int | None) -> np.ndarray:
    if channel_axis is None:
        return weight.reshape(1, -1).astype(np.float32)
    moved = np.moveaxis(weight, channel_axis, 0)
    return np.ascontiguousarray(moved.reshape(moved.shape[0], -1), dtype=np.float32)


def _search(rows: np.ndarray, bits: int) -> np.ndarray:
    """Return the best scale per row, 0 for rows of zeros."""
    _, largest = grid_limits(bits)
    reach = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    full = np.where(reach > 0, np.maximum(reach / largest, _SMALLEST_SCALE), 1.0)
    best = full.copy()
    least = np.full(len(rows), np.inf)
    factors = np.clip(_FACTORS_TIMES_ELEMENTS // max(1, rows.shape[1]), _FEWEST_FACTORS, _MOST_FACTORS)
    for factor in np.linspace(1.0, _SMALLEST_FACTOR[bits], int(factors)):
        scales = full * factor
        error, _ = _error_and_integers(rows, scales, bits)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    for _step in range(_LEAST_SQUARES_STEPS):
        _, integers = _error_and_integers(rows, best, bits)
        energy = np.einsum("ij,ij->i", integers, integers, dtype=np.float64)
        fitted = np.einsum("ij,ij->i", rows, integers, dtype=np.float64) / np.maximum(energy, 1.0)
        scales = np.where(fitted > 0, fitted, best)
        error, _ = _error_and_integers(rows, scales, bits)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return np.where(reach > 0, best, 0.0)


def _error_and_integers(rows: np.ndarray, scales: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    column = scales.astype(np.float32)[:, None]
    smallest, largest = grid_limits(bits)
    integers = rows / column
    np.rint(integers, out=integers)
    np.clip(integers, smallest, largest, out=integers)
    residue = integers * column
    residue -= rows
    return np.einsum("ij,ij->i", residue, residue, dtype=np.float64), integers
