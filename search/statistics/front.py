"""The Pareto front: who is on it, how much it dominates, how that grows, and which point lies at its knee."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from ...evaluators.measurement import metric_range
from ..objectives import OBJECTIVES, Objective, as_losses

Points = Sequence[Sequence[float]] | NDArray[np.float64]
"""Values of shape (n_points, n_objectives)."""

ACCURACY_ALLOWANCE = 0.1
"""How far below the baseline's accuracy the reference point of the hypervolume lies, as a share of the metric's scale:
10 points (see :func:`~karui.evaluators.measurement.metric_range`)."""


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


def hypervolume(values: Points, baseline: Sequence[float], objectives: Sequence[Objective] = OBJECTIVES) -> float:
    """Return the hypervolume of points, such as (size, latency, accuracy), against the baseline.

    Sizes, times and energies count by their natural logarithm, accuracy by its share of the metric's scale; the
    reference point is the baseline's value of each and its accuracy less ten points, so that a file as large, as slow
    or as wrong as that adds nothing. In whatever unit the metric is, the volume is the same. Source: Zitzler & Thiele,
    PPSN 1998; computed by moocore.

    Args:
        values: Shape (n_points, n_objectives): bytes, milliseconds, accuracy, and so on.
        baseline: The baseline's value of each objective.
        objectives: The columns' objectives.
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(objectives))
    if not len(points):
        return 0.0
    is_metric = np.array([objective.unit == "1" for objective in objectives])
    scales = np.array([metric_range(value) or 1.0 for value in baseline])
    units = np.where(is_metric, scales, 1.0)
    reference = as_losses(_by_logarithm([baseline], objectives), objectives)[0] / units
    losses = as_losses(_by_logarithm(points, objectives), objectives) / units
    return float(moocore.hypervolume(losses, ref=reference + np.where(is_metric, ACCURACY_ALLOWANCE, 0.0)))


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
    losses = as_losses(_by_logarithm(points, objectives), objectives)
    width = np.ptp(losses, axis=0)
    shares: NDArray[np.float64] = (losses - losses.min(axis=0)) / np.where(width > 0, width, 1.0)
    return shares


def _by_logarithm(values: Points, objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return values in which sizes, times and energies stand by their logarithm."""
    columns = np.asarray(values, dtype=np.float64).T
    pairs = zip(columns, objectives, strict=True)
    return np.column_stack([column if objective.unit == "1" else np.log(column) for column, objective in pairs])


class HypervolumeHistory:
    """Takes in measured trials one by one; what others of the front cover costs next to nothing.

    Args:
        baseline: The baseline's value of each objective.
        objectives: Those of the study.
    """

    def __init__(self, baseline: Sequence[float], objectives: Sequence[Objective] = OBJECTIVES) -> None:
        self._baseline = baseline
        self._objectives = objectives
        self._front: NDArray[np.float64] = np.empty((0, len(objectives)))
        self.volumes: list[float] = []
        self.seen: set[int] = set()

    def add(self, number: int, values: Sequence[float] | NDArray[np.float64], feasible: bool) -> float:
        """Take in a trial, and return by how much it widened the front.

        Args:
            number: Its number.
            values: Its value of each objective.
            feasible: Whether it keeps every bound; otherwise it adds nothing.
        """
        self.seen.add(number)
        point = np.asarray(values, dtype=np.float64)
        before = volume = self.volumes[-1] if self.volumes else 0.0
        if feasible and not self._is_covered(point):
            front = np.vstack([self._front, point])
            self._front = front[pareto_mask(front, self._objectives)]
            volume = hypervolume(self._front, self._baseline, self._objectives)
        self.volumes.append(volume)
        return max(volume - before, 0.0)

    def _is_covered(self, point: NDArray[np.float64]) -> bool:
        front, own = as_losses(self._front, self._objectives), as_losses(point[None], self._objectives)
        return bool((front <= own).all(axis=1).any())
