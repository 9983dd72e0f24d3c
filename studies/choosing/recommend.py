"""Which points to recommend: what an engineer would ship, a file that is light and about as good as the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...evaluators.measurement import metric_range
from ...search.objectives import Objective
from ...search.statistics.front import knee_index

MOST_POINTS_LOST = 1.0
"""How many points of accuracy a recommended file may lose against the baseline; see
:func:`~karui.evaluators.measurement.metric_range`."""

_ROUNDING = 1e-9
"""Share of the metric's scale by which a loss that is a point exactly may come out larger."""


@dataclass(frozen=True)
class Recommended:
    """Points worth a look, as rows of the values that they were chosen from.

    Args:
        best: The best compromise among those that lose at most one point; where there is none, the most accurate.
        smallest: The smallest of them.
        fastest: The fastest of them.
        most_accurate: The most accurate of them.
        among: All of them; only the nearest where none is that good.
        least_accuracy: What a file reaches at least that loses at most one point.
        is_near: Whether any does.
    """

    best: int
    smallest: int
    fastest: int
    most_accurate: int
    among: tuple[int, ...]
    least_accuracy: float
    is_near: bool

    def of(self, rows: Sequence[int]) -> Recommended:
        """Return the same as rows of another table, of which these values are some.

        Args:
            rows: Which one of it each of these is.
        """
        return replace(
            self,
            best=rows[self.best],
            smallest=rows[self.smallest],
            fastest=rows[self.fastest],
            most_accurate=rows[self.most_accurate],
            among=tuple(rows[row] for row in self.among),
        )

    @property
    def others(self) -> dict[str, int]:
        """What each point beside the best one is the best in; a point that is so in several, once."""
        told: dict[int, list[str]] = {}
        for role, row in (
            ("smallest", self.smallest),
            ("fastest", self.fastest),
            ("most accurate", self.most_accurate),
        ):
            told.setdefault(row, []).append(role)
        return {" and ".join(roles): row for row, roles in told.items() if row != self.best}


def recommend(
    values: NDArray[np.float64], objectives: Sequence[Objective], baseline_accuracy: float
) -> Recommended | None:
    """Return which points to recommend; None where there are none.

    Chosen is by validation accuracy, which is no estimate of what the chosen one is worth: that is what the test split
    is for.

    Args:
        values: Of each point: size, latency, validation accuracy, and further ones; shape (n_points, n_objectives).
        objectives: The columns'.
        baseline_accuracy: The baseline's, on validation.
    """
    if not len(values):
        return None
    least = least_accuracy(baseline_accuracy)
    accuracy = values[:, 2]
    near = np.flatnonzero(accuracy >= least - _ROUNDING * metric_range(baseline_accuracy))
    if not len(near):
        nearest = int(np.lexsort((values[:, 0], values[:, 1], -accuracy))[0])
        return Recommended(nearest, nearest, nearest, nearest, (nearest,), least, is_near=False)
    size, latency, loss = values[near, 0], values[near, 1], -accuracy[near]
    chosen = (
        knee_index(values[near], objectives),
        np.lexsort((loss, latency, size))[0],
        np.lexsort((loss, size, latency))[0],
        np.lexsort((size, latency, loss))[0],
    )
    best, smallest, fastest, most_accurate = (int(near[place]) for place in chosen)
    return Recommended(best, smallest, fastest, most_accurate, tuple(near.tolist()), least, is_near=True)


def least_accuracy(baseline_accuracy: float) -> float:
    """Return what a file reaches at least that loses at most one point against a baseline of that accuracy."""
    return baseline_accuracy - MOST_POINTS_LOST / 100.0 * metric_range(baseline_accuracy)
