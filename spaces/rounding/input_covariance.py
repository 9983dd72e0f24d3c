"""Means and second moments of what a layer sees: all that rounding its weight has to know of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class InputCovariance:
    """Statistics of a layer's unfolded inputs.

    Args:
        second: Sum of x x^T over the rows seen, shape (groups, columns, columns); (groups, 0, 0) for layers too wide
            for it.
        mean: Mean over all rows, shape (groups, columns).
        rows: Of those, some of the rows themselves, shape (groups, rows, columns); else None.
        count: Rows of which the second moments are the sum.
    """

    second: np.ndarray
    mean: np.ndarray
    rows: np.ndarray | None = None
    count: int = 0


def summed_second(found: list[InputCovariance]) -> np.ndarray | None:
    """Return the second moments of all layers that read one weight, summed.

    Args:
        found: Theirs, at least one; where the layers divide the weight into groups differently, or are too wide for
            second moments, the answer is None.
    """
    if len({len(covariances.second) for covariances in found}) != 1 or not found[0].second.size:
        return None
    return np.asarray(np.sum([covariances.second for covariances in found], axis=0))
