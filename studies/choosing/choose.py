"""Choosing one point of the front under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import KaruiError, NothingFits
from ...search.objectives import Objective
from ...search.statistics.front import knee_index
from ..bundle.bundle_export import export_bundle
from ..results.further import further_of
from ..results.read import Results, find_results, read_baseline_measurements, read_front, read_objectives
from .judge import Budget as Budget
from .judge import JudgedFront, judge_front
from .judge import accuracy_column as accuracy_column

if TYPE_CHECKING:
    import pandas as pd

    from ...evaluators.measurement import Measurement
    from ..results.result import StudyResult


Preference = Literal["recommended", "size", "latency", "accuracy", "knee"]


def pick_point(
    front: pd.DataFrame,
    budget: Budget,
    prefer: Preference,
    baseline: dict[str, float],
    point: str | None = None,
    further: Sequence[Objective] = (),
) -> pd.Series[Any]:
    """Return the row of the front that keeps the budget and is preferred, or is named.

    Args:
        front: As :func:`karui.load_front` returns it.
        budget: The bounds.
        prefer: ``recommended`` (the best compromise among those that lose at most one point of validation accuracy,
            where there are any, else the most accurate; with a bound on accuracy, among all that keep it);
            ``size``, ``latency`` or ``accuracy`` (best in that one, ties by the others); or ``knee`` (the best
            compromise in all that was searched for, however inaccurate, see
            :func:`karui.search.statistics.front.knee_index`).
        baseline: The baseline's values by name, see :func:`judge_front`.
        point: Name of the point, such as ``p07``, instead of a preference; it has to keep the budget as well.
        further: What the study searched for beside size, latency and accuracy.

    Raises:
        NothingFits: Where no point keeps the budget; it says which bound fails by how much, and the nearest points.
        KaruiError: Where no point has that name.
    """
    if point is not None:
        front = _named(front, point)
    judged = judge_front(front, budget, baseline, further)
    if not len(judged.fitting):
        raise _nothing_fits(judged, point)
    return front.iloc[int(judged.fitting[_preferred(judged, prefer)])]


@dataclass(frozen=True)
class Choice:
    """A point of a front, and what it was chosen from.

    Args:
        row: The point.
        front: The whole front.
        budget: The bounds.
        prefer: What was preferred; None where the point was named.
        baseline: The baseline's measurements by name.
        results: Where all of that lies.
        further: What the study searched for beside size, latency and accuracy.
    """

    row: pd.Series[Any]
    front: pd.DataFrame
    budget: Budget
    prefer: Preference | None
    baseline: dict[str, Measurement]
    results: Results
    further: tuple[Objective, ...] = ()


def choose(
    study: str | Path | StudyResult,
    out: str | Path | None = None,
    storage: str | None = None,
    budget: Budget | None = None,
    prefer: Preference = "recommended",
    point: str | None = None,
) -> Choice:
    """Choose one point of a study's front; see :func:`pick`."""
    results = find_results(study, out, storage)
    front, baseline = read_front(results), read_baseline_measurements(results)
    further = further_of(read_objectives(results))
    budget = Budget() if budget is None else budget
    row = pick_point(front, budget, prefer, {name: item.value for name, item in baseline.items()}, point, further)
    return Choice(row, front, budget, prefer if point is None else None, baseline, results, further)


def export_choice(choice: Choice, destination: Path, artifacts: str | Path | None = None) -> None:
    """Write the bundle of a point; see :func:`~karui.studies.bundle.bundle_export.export_bundle`."""
    files = None
    if artifacts is not None:
        from ..storage.shared_files import open_shared_files

        files = open_shared_files(str(artifacts), Path())
    export_bundle(choice.row, choice.results.folder, destination, files)


def pick(
    study: str | Path | StudyResult,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
    artifacts: str | Path | None = None,
    max_size: str | float | None = None,
    max_latency: str | float | None = None,
    min_accuracy: str | float | None = None,
    prefer: Preference = "recommended",
    point: str | None = None,
    export: str | Path | None = None,
) -> pd.Series[Any]:
    """Choose one point of a study's front under a budget, export it where asked to, and return its row.

    Args:
        study: Path of a study file, name of a bundled study, a results folder, or what a search returned.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.
        artifacts: Where the files of all machines are kept, if the file to export is not in the results folder.
        max_size: Largest file, such as ``60KB``, ``48000`` or ``0.1x`` of the baseline's.
        max_latency: Longest latency, such as ``0.4ms`` or ``0.3x``.
        min_accuracy: Lowest accuracy, on validation, by which the search compared as well.
        prefer: What counts among the points that fit; see :func:`pick_point`.
        point: Name of a point, such as ``p07``, instead of a preference.
        export: Folder to write the bundle to; see :func:`~karui.studies.bundle.bundle_export.export_bundle`.

    Raises:
        NothingFits: Where no point keeps the budget.
        KaruiError: Where there is no front, no such point, or it cannot be exported.
    """
    budget = Budget(max_size, max_latency, min_accuracy)
    choice = choose(study, out, storage, budget, prefer, point)
    if export is not None:
        export_choice(choice, Path(export), artifacts)
    return choice.row


def _preferred(judged: JudgedFront, prefer: Preference) -> int:
    recommended = judged.recommended()
    if prefer == "recommended" and not judged.bounds_accuracy and recommended is not None:
        return int(np.flatnonzero(judged.fitting == recommended.best)[0])
    if prefer in ("recommended", "knee"):
        return knee_index(judged.searched_values[judged.fitting], judged.searched)
    losses = judged.values[judged.fitting] * np.array([1.0, 1.0, -1.0])
    first = ("size", "latency", "accuracy").index(prefer)
    others = [column for column in (2, 1, 0) if column != first]
    return int(np.lexsort([losses[:, column] for column in [*reversed(others), first]])[0])


def _named(front: pd.DataFrame, point: str) -> pd.DataFrame:
    names = front["point"].tolist() if len(front) else []
    if point not in names:
        raise KaruiError(
            "the front has no such point",
            where="--point",
            expected=f"one of {', '.join(names)}" if names else "a point of a front, which is empty",
            got=point,
            remedy="`karui front` lists them; a front that was measured again may have named them anew",
        )
    return front[front["point"] == point]


def _nothing_fits(judged: JudgedFront, point: str | None) -> NothingFits:
    objectives, baseline = judged.objectives, judged.baseline
    order = np.argsort(np.maximum(judged.violations, 0).sum(axis=1), kind="stable")[:3]
    near = []
    for index in order:
        row_of_three = zip(objectives, judged.violations[index], judged.values[index], strict=True)
        broken = [
            f"{objective.bound_text(baseline[objective.name])} broken by {share:.1%} ({value:.6g})"
            for objective, share, value in row_of_three
            if share > 0
        ]
        row = judged.table.iloc[int(index)]
        near.append(f"{row['point']} ({row['candidate']}): {'; '.join(broken)}")
    return NothingFits(
        "no point of the front keeps this budget" if point is None else f"{point} does not keep this budget",
        expected=", ".join(filter(None, (item.bound_text(baseline[item.name]) for item in objectives))),
        got="nearest: " + "\n            ".join(near),
        remedy="loosen the bound that is broken, or search longer",
    )
