"""The values of one tensor in bins of equal width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .learned import LARGEST_UINT8

LEVELS = LARGEST_UINT8 + 1
"""Integers of an unsigned 8-bit activation."""


@dataclass(frozen=True)
class Histogram:
    """Values of a tensor, in bins of equal width between its extremes.

    Args:
        lowest: The least value, or 0 where that is less.
        highest: The greatest value, or 0 where that is greater.
        counts: Values in each bin, shape (bins,).
    """

    lowest: float
    highest: float
    counts: np.ndarray

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.highest - self.lowest) / len(self.counts)

    @cached_property
    def cumulated(self) -> np.ndarray:
        """What lies below each edge, shape (5, bins + 1), so that what a step of a grid holds is one difference.

        The rows: values, their sum and the sum of their squares with each at the middle of its bin, bins that are not
        empty, and the sum of c log c over their counts c.
        """
        middles = self.lowest + self.width * (np.arange(len(self.counts)) + 0.5)
        counts = self.counts.astype(np.float64)
        entropy = counts * np.log(np.maximum(counts, 1.0))
        rows = np.stack([counts, counts * middles, counts * middles**2, counts > 0, entropy])
        return np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)

    def edges(self, scales: np.ndarray | float, zero_points: np.ndarray | int) -> np.ndarray:
        """Return the edges between which the values of each integer of grids lie, shape (..., LEVELS + 1).

        Args:
            scales: Step of each grid, shape (...).
            zero_points: The integer of each that stands for zero, shape (...).
        """
        steps = np.arange(LEVELS + 1) - 0.5 - np.asarray(zero_points)[..., None]
        borders = steps * np.asarray(scales)[..., None]
        places = np.clip(np.rint((borders - self.lowest) / self.width), 0, len(self.counts))
        return np.asarray(places, dtype=np.int64)
