"""The hypervolume of a front that grows point by point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .front import hypervolume, pareto_mask
from .objectives import OBJECTIVES, Objective, as_losses


class FrontGrowth:
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
