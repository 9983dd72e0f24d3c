"""Choosing one point of the front under a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import KaruiError, NothingFits
from ..search.front import knee_index
from ..search.objectives import OBJECTIVES, Objective, parse_bound
from .bundle.export import export_bundle
from .read import find_results, read_baseline_values, read_front
from .shared_files import open_shared_files

if TYPE_CHECKING:
    import pandas as pd

Preference = Literal["size", "latency", "accuracy", "knee"]

_OPTIONS = {"size_bytes": "--max-size", "latency_ms": "--max-latency", "accuracy": "--min-accuracy"}


@dataclass(frozen=True)
class Budget:
    """What the chosen file must keep to.

    Args:
        max_size: Such as ``60KB`` or ``0.1x``.
        max_latency: Such as ``0.4ms`` or ``0.3x``.
        min_accuracy: Such as ``0.97``.
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


def pick_point(front: pd.DataFrame, budget: Budget, prefer: Preference, baseline: dict[str, float]) -> pd.Series[Any]:
    """Return the row of the front that keeps the budget and is preferred.

    Accuracy is that of the test split where the front has it, which the search never saw.

    Args:
        front: As :func:`karui.load_front` returns it.
        budget: The bounds.
        prefer: ``size``, ``latency`` or ``accuracy`` (best in that one, ties by the others), or ``knee`` (the best
            compromise, see :func:`karui.search.front.knee_index`).
        baseline: The baseline's values by name, for bounds such as ``0.3x``; test accuracy is compared with its own.

    Raises:
        NothingFits: Where no point keeps the budget; it says which bound fails by how much, and the nearest points.
    """
    if not len(front):
        raise NothingFits("the front is empty", remedy="search longer, or loosen the bounds of the study")
    objectives = budget.objectives()
    columns = [accuracy_column(front) if item.name == "accuracy" else item.name for item in objectives]
    baseline = {**baseline, "accuracy": baseline.get(accuracy_column(front), baseline["accuracy"])}
    values = front[columns].to_numpy(dtype=np.float64)
    violations = np.array([_violations(row, objectives, baseline) for row in values])
    fitting = np.flatnonzero((violations <= 0).all(axis=1))
    if not len(fitting):
        raise _nothing_fits(front, values, violations, objectives, baseline)
    return front.iloc[int(fitting[_preferred(values[fitting], prefer, objectives)])]


def pick(
    study: str | Path,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
    artifacts: str | Path | None = None,
    max_size: str | float | None = None,
    max_latency: str | float | None = None,
    min_accuracy: str | float | None = None,
    prefer: Preference = "knee",
    export: str | Path | None = None,
) -> pd.Series[Any]:
    """Choose one point of a study's front under a budget, export it where asked to, and return its row.

    Args:
        study: Path of a study file, name of a bundled study, or a results folder.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.
        artifacts: Where the files of all machines are kept, if the file to export is not in the results folder.
        max_size: Largest file, such as ``60KB``, ``48000`` or ``0.1x`` of the baseline's.
        max_latency: Longest latency, such as ``0.4ms`` or ``0.3x``.
        min_accuracy: Lowest accuracy, on the test split where the front was measured on it.
        prefer: What counts among the points that fit; see :func:`pick_point`.
        export: Folder to write ``model.onnx``, ``config.json`` and ``README.md`` to.

    Raises:
        NothingFits: Where no point keeps the budget.
        KaruiError: Where there is no front, or it cannot be exported.
    """
    results = find_results(study, out, storage)
    budget = Budget(max_size, max_latency, min_accuracy)
    row = pick_point(read_front(results), budget, prefer, read_baseline_values(results))
    if export is not None:
        files = None if artifacts is None else open_shared_files(str(artifacts), Path())
        export_bundle(row, results.folder, Path(export), files)
    return row


def accuracy_column(front: pd.DataFrame) -> str:
    """Return the column by which points are judged: test accuracy where it was measured."""
    return "test_accuracy" if "test_accuracy" in front.columns else "accuracy"


def _violations(
    row: np.ndarray[Any, Any], objectives: tuple[Objective, ...], baseline: dict[str, float]
) -> list[float]:
    pairs = zip(objectives, row, strict=True)
    return [objective.violation(float(value), baseline[objective.name]) or 0.0 for objective, value in pairs]


def _preferred(values: np.ndarray[Any, Any], prefer: Preference, objectives: tuple[Objective, ...]) -> int:
    if prefer == "knee":
        return knee_index(values.tolist(), objectives)
    losses = values * np.array([1.0, 1.0, -1.0])
    first = ("size", "latency", "accuracy").index(prefer)
    others = [column for column in (2, 1, 0) if column != first]
    return int(np.lexsort([losses[:, column] for column in [*reversed(others), first]])[0])


def _nothing_fits(
    front: pd.DataFrame,
    values: np.ndarray[Any, Any],
    violations: np.ndarray[Any, Any],
    objectives: tuple[Objective, ...],
    baseline: dict[str, float],
) -> NothingFits:
    order = np.argsort(np.maximum(violations, 0).sum(axis=1), kind="stable")[:3]
    near = []
    for index in order:
        broken = [
            f"{objective.bound_text(baseline[objective.name])} broken by {share:.1%} ({values[index, column]:.6g})"
            for column, (objective, share) in enumerate(zip(objectives, violations[index], strict=True))
            if share > 0
        ]
        near.append(f"{front.iloc[int(index)]['point']} ({front.iloc[int(index)]['candidate']}): {'; '.join(broken)}")
    return NothingFits(
        "no point of the front keeps this budget",
        expected=", ".join(filter(None, (item.bound_text(baseline[item.name]) for item in objectives))),
        got="nearest: " + "\n            ".join(near),
        remedy="loosen the bound that is broken, or search longer",
    )
