"""How the points of a front stand to a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import KaruiError, NothingFits
from ...search.objectives import OBJECTIVES, Objective, parse_bound
from .recommend import Recommended, recommend

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

_OPTIONS = {"size_bytes": "--max-size", "latency_ms": "--max-latency", "accuracy": "--min-accuracy"}


@dataclass(frozen=True)
class Budget:
    """What the chosen file must keep to.

    Args:
        max_size: Such as ``60KB`` or ``0.1x``.
        max_latency: Such as ``0.4ms`` or ``0.3x``.
        min_accuracy: Such as ``0.97``, on validation.
    """

    max_size: str | float | None = None
    max_latency: str | float | None = None
    min_accuracy: str | float | None = None

    def objectives(self) -> tuple[Objective, ...]:
        """Return the objectives with these bounds.

        Raises:
            KaruiError: Where a bound cannot be read.
        """
        bounded = []
        for objective, text in zip(OBJECTIVES, (self.max_size, self.max_latency, self.min_accuracy), strict=True):
            try:
                bound = None if text is None else parse_bound(text, objective)
            except ValueError as error:
                raise KaruiError("a bound cannot be read", where=_OPTIONS[objective.name], got=str(error)) from error
            bounded.append(Objective(objective.name, objective.direction, objective.unit, bound))
        return tuple(bounded)


@dataclass(frozen=True)
class JudgedFront:
    """A front as a budget sees it.

    Args:
        table: The front, one row per point.
        columns: The columns by which points are judged: bytes, milliseconds, accuracy.
        values: Shape (n_points, 3).
        objectives: The three, with the budget's bounds.
        baseline: The baseline's values by the objectives' names.
        violations: By what share each point breaks each bound, shape (n_points, 3); 0 or less where it keeps it.
        further: What the study searched for beside the three; it has no bounds here.
    """

    table: pd.DataFrame
    columns: tuple[str, ...]
    values: Floats
    objectives: tuple[Objective, ...]
    baseline: dict[str, float]
    violations: Floats
    further: tuple[Objective, ...] = ()

    @property
    def searched(self) -> tuple[Objective, ...]:
        """Everything that the study searched for."""
        return (*self.objectives, *self.further)

    @property
    def searched_values(self) -> Floats:
        """Each point's value of each of these, shape (n_points, n_objectives)."""
        further = self.table[[objective.name for objective in self.further]].to_numpy(dtype=np.float64)
        return np.hstack([self.values, further])

    @property
    def fitting(self) -> NDArray[np.intp]:
        """Rows of the points that keep every bound."""
        return np.flatnonzero((self.violations <= 0).all(axis=1))

    @property
    def bounds_accuracy(self) -> bool:
        """Whether the budget itself says how accurate a point has to be."""
        return self.objectives[2].bound is not None

    def recommended(self) -> Recommended | None:
        """Return which of the points that keep the budget are worth a look, as rows of the table; None without any."""
        found = recommend(self.searched_values[self.fitting], self.searched, self.baseline["accuracy"])
        return None if found is None else found.of(self.fitting.tolist())


def judge_front(
    front: pd.DataFrame, budget: Budget, baseline: dict[str, float], further: Sequence[Objective] = ()
) -> JudgedFront:
    """Return a front with how far each point keeps a budget.

    Accuracy is that of validation, here as in the search: whoever chose by the test split would find its luck in the
    number that is reported.

    Args:
        front: As :func:`karui.load_front` returns it.
        budget: The bounds.
        baseline: The baseline's values by name, for bounds such as ``0.3x``.
        further: What the study searched for beside size, latency and accuracy.

    Raises:
        NothingFits: Where the front is empty.
        KaruiError: Where a bound cannot be read.
    """
    if not len(front):
        raise NothingFits("the front is empty", remedy="search longer, or loosen the bounds of the study")
    objectives = budget.objectives()
    columns = tuple(accuracy_column(front) if item.name == "accuracy" else item.name for item in objectives)
    values = front[list(columns)].to_numpy(dtype=np.float64)
    violations = np.array([_violations(row, objectives, baseline) for row in values])
    return JudgedFront(front, columns, values, objectives, baseline, violations, tuple(further))


def accuracy_column(front: pd.DataFrame) -> str:
    """Return the column by which points are judged: validation accuracy, but for a table that has no such column."""
    return "accuracy" if "accuracy" in front.columns else "test_accuracy"


def _violations(
    row: np.ndarray[Any, Any], objectives: tuple[Objective, ...], baseline: dict[str, float]
) -> list[float]:
    pairs = zip(objectives, row, strict=True)
    return [objective.violation(float(value), baseline[objective.name]) or 0.0 for objective, value in pairs]
