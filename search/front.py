"""The Pareto front: who is on it, how much it dominates, and which point lies at its knee."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from .objectives import Objective, as_losses

Points = Sequence[Sequence[float]] | NDArray[np.float64]
"""Values of shape (n_points, n_objectives)."""

ACCURACY_ALLOWANCE = 0.1
"""How far below the baseline's accuracy the reference point of the hypervolume lies (10 points)."""


def pareto_mask(values: Points, objectives: Sequence[Objective]) -> NDArray[np.bool_]:
    """Say which points no other point dominates; of equal points the first counts.

    Args:
        values: Shape (n_points, n_objectives), finite.
        objectives: The columns' objectives.

    Returns:
        Shape (n_points,).
    """
    return nondominated(as_losses(values, objectives))


def nondominated(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which rows no other row dominates, smaller being better throughout; of equal rows the first counts.

    Args:
        losses: Shape (n_points, n_objectives), finite.

    Returns:
        Shape (n_points,).
    """
    if not len(losses):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(losses), dtype=bool)


def hypervolume(values: Points, baseline: Sequence[float]) -> float:
    """Return the hypervolume of (size, latency, accuracy) points against the baseline.

    Size and latency count by their natural logarithm; the reference point is the baseline's size and latency and its
    accuracy less ten points, so that a file as large, as slow or as wrong as that adds nothing. Source: Zitzler &
    Thiele, PPSN 1998; computed by moocore.

    Args:
        values: Shape (n_points, 3): bytes, milliseconds, accuracy.
        baseline: The baseline's three values.
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, 3)
    if not len(points):
        return 0.0
    losses = np.column_stack([np.log(points[:, 0]), np.log(points[:, 1]), -points[:, 2]])
    reference = np.array([np.log(baseline[0]), np.log(baseline[1]), ACCURACY_ALLOWANCE - baseline[2]])
    return float(moocore.hypervolume(losses, ref=reference))


def knee_index(values: Points, objectives: Sequence[Objective]) -> int:
    """Return the point closest to the ideal one, by :func:`knee_shares`; ties go to the earlier point.

    Source: compromise programming (Yu, Management Science 1973; Zeleny 1973), Euclidean norm. No other point dominates
    what it returns: one that did would be closer.

    Raises:
        ValueError: Where there is no point.
    """
    shares = knee_shares(values, objectives)
    if not len(shares):
        raise ValueError("no point to choose from")
    return int(np.argmin(np.linalg.norm(shares, axis=1)))


def knee_shares(values: Points, objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return each objective scaled to [0, 1] over the points: 0 the best of them, 1 the worst; 0 where all are alike.

    Sizes and times are scaled by their logarithm, since halving is what matters.

    Returns:
        Shape (n_points, n_objectives).
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(objectives))
    if not len(points):
        return points
    scaled = np.column_stack(
        [
            np.log(column) if objective.unit != "1" else column
            for column, objective in zip(points.T, objectives, strict=True)
        ]
    )
    losses = as_losses(scaled, objectives)
    width = np.ptp(losses, axis=0)
    shares: NDArray[np.float64] = (losses - losses.min(axis=0)) / np.where(width > 0, width, 1.0)
    return shares
