"""Plots for scripts and notebooks: the front, and the hypervolume over a search, drawn into axes of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from ...search.objectives import OBJECTIVES, Objective
from ...search.statistics.front import HypervolumeHistory
from ..results.further import further_of, title_of
from ..results.read import find_results, read_baseline_measurements, read_front, read_objectives, read_trials
from ..results.result import StudyResult
from ..results.tables import names_of
from .plots import FrontNumbers, draw_front, front_numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Cost = Literal["latency", "size"]
_COSTS = {"latency": "latencies_ms", "size": "sizes_kb"}


@dataclass(frozen=True)
class HypervolumeNumbers:
    """What the plot of the hypervolume over a search shows.

    Args:
        evaluated: 1, 2, ... up to how many candidates were evaluated, in the order of their trials.
        hypervolumes: That of all feasible ones up to there, by validation accuracy; it never falls.
    """

    evaluated: tuple[int, ...]
    hypervolumes: tuple[float, ...]


def hypervolume_numbers(
    trials: pd.DataFrame, baseline: dict[str, float], objectives: Sequence[Objective] = OBJECTIVES
) -> HypervolumeNumbers:
    """Return how the hypervolume grew from one evaluated candidate to the next.

    Args:
        trials: As in ``trials.csv``.
        baseline: The baseline's values by name; see :func:`karui.search.statistics.front.hypervolume`.
        objectives: Those of the study.
    """
    names = names_of(objectives)
    growth = HypervolumeHistory([baseline[name] for name in names], objectives)
    rows = trials[trials["state"] == "evaluated"].sort_values("trial") if len(trials) else trials
    for _, row in rows.iterrows():
        growth.add(int(row["trial"]), [float(row[name]) for name in names], bool(row["feasible"]))
    return HypervolumeNumbers(tuple(range(1, len(growth.volumes) + 1)), tuple(growth.volumes))


def plot_front(
    front: str | Path | StudyResult | pd.DataFrame,
    ax: Axes | None = None,
    *,
    cost: Cost = "latency",
    out: str | Path | None = None,
    storage: str | None = None,
) -> Axes:
    """Draw a front, accuracy over latency or over size, and return the axes.

    Args:
        front: A study file, the name of a bundled study, a results folder, what :func:`karui.run_study` returned, or a
            front as :func:`karui.load_front` returns it; of that alone no other trials are known.
        ax: Where to draw; axes of a new figure of pyplot where None.
        cost: ``latency`` or ``size``.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.

    Raises:
        ValueError: Where ``cost`` is neither.
        KaruiError: Where there is nothing to read.
    """
    if cost not in _COSTS:
        raise ValueError(f"cost: one of {', '.join(map(repr, _COSTS))} expected, got {cost!r}")
    numbers = _front_numbers(front, out, storage)
    axes = _axes(ax)
    draw_front(axes, numbers, _COSTS[cost])
    return axes


def plot_hypervolume(
    study: str | Path | StudyResult,
    ax: Axes | None = None,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
) -> Axes:
    """Draw how much the front dominated after each evaluated candidate, and return the axes.

    Args:
        study: A study file, the name of a bundled study, a results folder, or what :func:`karui.run_study` returned.
        ax: Where to draw; axes of a new figure of pyplot where None.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.

    Raises:
        KaruiError: Where there is nothing to read.
    """
    _, trials, baseline = _read(study, out, storage)
    found = study.objectives if isinstance(study, StudyResult) else read_objectives(find_results(study, out, storage))
    numbers = hypervolume_numbers(trials, {name: item.value for name, item in baseline.items()}, found)
    axes = _axes(ax)
    axes.step(numbers.evaluated, numbers.hypervolumes, where="post", color="#0072B2", linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("candidates evaluated")
    further = "".join(f", log {title_of(objective)}" for objective in further_of(found))
    axes.set_ylabel(f"hypervolume (log size, log latency, validation{further})")
    axes.set_ylim(bottom=0.0)
    axes.grid(True, linewidth=0.3, alpha=0.6)
    return axes


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    axes: Axes = plt.subplots(layout="constrained")[1]
    return axes


def _read(study: str | Path | StudyResult, out: str | Path | None, storage: str | None) -> tuple[Any, Any, Any]:
    """Return front, trials and the baseline's measurements."""
    if isinstance(study, StudyResult):
        return study.front, study.trials, study.baseline
    results = find_results(study, out, storage)
    return read_front(results), read_trials(results), read_baseline_measurements(results)


def _front_numbers(
    front: str | Path | StudyResult | pd.DataFrame, out: str | Path | None, storage: str | None
) -> FrontNumbers:
    if isinstance(front, (str, Path, StudyResult)):
        table, trials, baseline = _read(front, out, storage)
        values = {name: item.value for name, item in baseline.items()}
        metric = str(baseline["accuracy"].conditions.get("metric", "accuracy"))
        objectives = (
            front.objectives if isinstance(front, StudyResult) else read_objectives(find_results(front, out, storage))
        )
        return front_numbers(table, trials, values, metric, objectives)
    import pandas as pd

    return front_numbers(front, pd.DataFrame(), _baseline_behind(front))


def _baseline_behind(front: pd.DataFrame) -> dict[str, float] | None:
    """Return the baseline's values that a re-measured front tells by its ratios; None where it tells none."""
    if not len(front) or not {"size_x", "latency_ratio", "test_accuracy", "drop_points"} <= set(front.columns):
        return None
    # Each row gives the same but for rounding. Fronts of earlier versions know test accuracy only, in points.
    lost = front["test_accuracy_lost"] if "test_accuracy_lost" in front.columns else front["drop_points"] / 100
    known = {"accuracy", "accuracy_lost"} <= set(front.columns)
    return {
        "size_bytes": float(np.median(front["size_bytes"] * front["size_x"])),
        "latency_ms": float(np.median(front["latency_ms"] / front["latency_ratio"])),
        "accuracy": float(np.median(front["accuracy"] + front["accuracy_lost"])) if known else float("nan"),
        "test_accuracy": float(np.median(front["test_accuracy"] + lost)),
    }
