"""Where the range of a tensor should end: from its extremes inwards, whatever costs least by its histogram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .histogram import LEVELS, Histogram
from .learned import ActivationGrid

_FACTORS = np.linspace(1.0, 1 / 16, 61)
"""Shares of an extreme at which a range may end; of 4,096 bins, the smallest leaves one for each integer."""

_SWEEPS = 2
"""How often each end is searched with the other one fixed, once both have been searched in step."""

Cost = Callable[[Histogram, np.ndarray, np.ndarray], np.ndarray]
"""Takes a histogram and the scales and zero points of some grids, each of shape (n,); returns the cost of each."""


def grid_between(lowest: float, highest: float) -> ActivationGrid:
    """Return the grid from one real value to another; zero is one of its points.

    Args:
        lowest: At most 0.
        highest: At least 0, and above ``lowest``.
    """
    scales, zero_points = _grids_between(np.array([lowest]), np.array([highest]))
    return ActivationGrid(float(scales[0]), int(zero_points[0]))


def least_squared_error(found: Histogram) -> ActivationGrid:
    """Return the grid of the least squared error."""
    return _search(found, _squared_errors)


def most_information(found: Histogram) -> ActivationGrid:
    """Return the grid that loses the least information."""
    return _search(_without_zeros(found), _lost_information)


def _grids_between(lowest: np.ndarray, highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and the zero points of grids between real values."""
    scales = (highest - lowest) / (LEVELS - 1)
    return scales, np.clip(np.rint(-lowest / scales), 0, LEVELS - 1)


def _without_zeros(found: Histogram) -> Histogram:
    """Return the histogram with no more zeros than there are values beside them.

    Zeros lose nothing on any grid, but half of what a Relu gives are zeros: spread over the first step with its
    neighbours they would outweigh all else, and the range would end at a third of what it should.
    """
    counts = found.counts.copy()
    zero = min(int(-found.lowest / found.width), len(counts) - 1)
    counts[zero] = min(counts[zero], max(counts[max(0, zero - 1)] * (zero > 0), *counts[zero + 1 : zero + 2], 0))
    return replace(found, counts=counts)


def _search(found: Histogram, cost: Cost) -> ActivationGrid:
    """Return the grid of least cost: both ends are drawn in together, then each by itself."""
    extremes = np.array([found.lowest, found.highest])
    least, best = np.inf, extremes
    for moved in ([True, True], *([True, False], [False, True]) * _SWEEPS):
        if not extremes[moved].any():
            continue
        ends = np.where(moved, _FACTORS[:, None] * extremes, best)
        costs = cost(found, *_grids_between(*ends.T))
        first = int(np.argmin(costs))
        if costs[first] < least:
            least, best = costs[first], ends[first]
    return grid_between(*best)


def _squared_errors(found: Histogram, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    """Return the sums of squared differences from the nearest points of grids, less what is the same for all grids.

    That is the variance within the bins, the values being taken to lie in their middles.
    """
    edges = found.edges(scales, zero_points)
    edges[:, [0, -1]] = 0, len(found.counts)
    counts, sums, squares = (np.diff(row[edges], axis=1) for row in found.cumulated[:3])
    points = (np.arange(LEVELS) - zero_points[:, None]) * scales[:, None]
    return np.asarray((squares - 2 * points * sums + points**2 * counts).sum(1))


def _lost_information(found: Histogram, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    """Return the divergences of what grids keep from what they are given, less what chance makes of it.

    Given is the histogram within the grid, the first and the last of its bins holding all that is clipped to them; kept
    are the values of each integer, spread evenly over its bins. Bins of one integer differ by chance as well, which
    costs a grid of wide steps half a value for each bin more than it has integers (Miller, "Note on the bias of
    information estimates", 1955): of few values, little else would be seen.
    """
    values, _, _, filled, entropy = found.cumulated
    edges = found.edges(scales, zero_points)
    first, last = edges[:, 0], edges[:, -1]
    inside, bins = np.diff(values[edges], axis=1), np.diff(filled[edges], axis=1)
    spread = np.log(np.maximum(inside, 1.0) / np.maximum(bins, 1.0))
    given = entropy[last] - entropy[first]
    kept = (inside * spread).sum(1)
    # The first and the last bin within the grid that is not empty, and the integers that these belong to.
    lower = np.searchsorted(filled, filled[first], side="right") - 1
    upper = np.searchsorted(filled, filled[last], side="left") - 1
    left, right = (bins > 0).argmax(1), LEVELS - 1 - (bins > 0)[:, ::-1].argmax(1)
    for clipped, bin_, integer in ((values[first], lower, left), (values[-1] - values[last], upper, right)):
        count = found.counts[np.clip(bin_, 0, len(found.counts) - 1)].astype(np.float64)
        given += _times_log(count + clipped) - _times_log(count)
        kept += clipped * spread[np.arange(len(spread)), integer]
    chance = (bins.sum(1) - np.count_nonzero(bins, axis=1)) / 2
    total, left_inside = values[-1], inside.sum(1)
    lost = (given - kept - chance) / total - np.log(total / np.maximum(left_inside, 1.0))
    return np.where(left_inside > 0, lost, np.inf)


def _times_log(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts * np.log(np.maximum(counts, 1.0)))
