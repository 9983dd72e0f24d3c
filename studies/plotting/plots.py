"""Plots of the front: the numbers first, then the drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ...search.objectives import OBJECTIVES, Objective
from ...spaces.architectures import Baseline
from ...spaces.axes.axis import NetworkAxis, all_axes
from ..choosing.judge import accuracy_column
from ..choosing.recommend import recommend
from ..storage.folder import explain_os_errors, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe & Ito's palette, told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = "os^Dvp"


@dataclass(frozen=True)
class KindStyle:
    """How points of one kind of architecture are drawn.

    Args:
        colour: Of marker and error bar.
        marker: Matplotlib's letter of it.
        label: What the kind is called in the legend.
    """

    colour: str
    marker: str
    label: str


def kind_styles() -> dict[str, KindStyle]:
    """Return how each kind of architecture is drawn: the baseline first, then those of the axes in their order."""
    labels = {Baseline.kind: "baseline, compressed"}
    labels |= {axis.kind: axis.label or axis.kind for axis in all_axes().values() if issubclass(axis, NetworkAxis)}
    styles = zip(labels.items(), cycle(zip(_COLOURS, _MARKERS, strict=True)), strict=False)
    return {kind: KindStyle(colour, marker, label) for (kind, label), (colour, marker) in styles}


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Args:
        sizes_kb: File sizes in units of 1,000 bytes.
        latencies_ms: Latencies in milliseconds.
        accuracies: Accuracies.
        accuracy_spreads: Half widths of their 95 % intervals.
    """

    sizes_kb: tuple[float, ...]
    latencies_ms: tuple[float, ...]
    accuracies: tuple[float, ...]
    accuracy_spreads: tuple[float, ...]


@dataclass(frozen=True)
class FrontNumbers:
    """What the plot of a front shows.

    Args:
        trials: All feasible evaluated trials, by validation accuracy.
        front: The points of the front by kind of architecture; test accuracy where it was measured.
        steps: The front over latencies and over sizes: costs and accuracies of the points that are the best by
            validation at or under each cost. On test they may go down: nothing is chosen by that.
        baseline: The baseline as a series of one; of none where nothing is known of it.
        recommended: The point that is recommended as a series of one; of none where the baseline is not known.
        on_test: Whether the front's accuracies are those of the test split.
        metric_name: What the metric is called.
    """

    trials: Series
    front: dict[str, Series]
    steps: dict[str, tuple[list[float], list[float]]]
    baseline: Series
    recommended: Series
    on_test: bool
    metric_name: str


def staircase(
    costs: Sequence[float], accuracies: Sequence[float], reported: Sequence[float] | None = None
) -> tuple[list[float], list[float]]:
    """Return the corners of "best accuracy at no more than this cost", cheapest first.

    Args:
        costs: Of each point.
        accuracies: By which the best are chosen.
        reported: What is returned of these in place of the accuracies by which they were chosen.
    """
    corners: tuple[list[float], list[float]] = ([], [])
    best = float("-inf")
    triples = zip(costs, accuracies, accuracies if reported is None else reported, strict=True)
    for cost, accuracy, shown in sorted(triples, key=lambda each: (each[0], -each[1])):
        if accuracy > best:
            best = accuracy
            corners[0].append(cost)
            corners[1].append(shown)
    return corners


def front_numbers(
    front: pd.DataFrame,
    trials: pd.DataFrame,
    baseline: dict[str, float] | None,
    metric_name: str = "accuracy",
    objectives: Sequence[Objective] = OBJECTIVES,
) -> FrontNumbers:
    """Collect what the plot of a front shows.

    Args:
        front: As :func:`karui.load_front` returns it.
        trials: As in ``trials.csv``.
        baseline: The baseline's ``size_bytes``, ``latency_ms``, ``accuracy`` and, where known, ``test_accuracy``; None
            where nothing is known of it.
        metric_name: What the metric is called.
        objectives: Those of the study.
    """
    on_test = "test_accuracy" in front.columns
    column = "test_accuracy" if on_test else "accuracy"
    evaluated = trials[trials["feasible"].astype("boolean").fillna(False).astype(bool)] if len(trials) else trials
    kinds = [kind for kind in kind_styles() if len(front) and (front["kind"] == kind).any()]
    by_kind = {kind: _series(front[front["kind"] == kind], column) for kind in kinds}
    return FrontNumbers(
        trials=_series(evaluated, "accuracy") if len(evaluated) else Series((), (), (), ()),
        front=by_kind,
        steps=_steps(front, column),
        baseline=_baseline_series(baseline, column),
        recommended=_recommended(front, column, baseline, objectives),
        on_test=on_test,
        metric_name=metric_name,
    )


def _steps(front: pd.DataFrame, reported: str) -> dict[str, tuple[list[float], list[float]]]:
    if not len(front):
        return {cost: ([], []) for cost in ("sizes_kb", "latencies_ms")}
    chosen_by, shown = front[accuracy_column(front)].tolist(), front[reported].tolist()
    costs = {"sizes_kb": (front["size_bytes"] / 1e3).tolist(), "latencies_ms": front["latency_ms"].tolist()}
    return {cost: staircase(values, chosen_by, shown) for cost, values in costs.items()}


def _recommended(
    front: pd.DataFrame, reported: str, baseline: dict[str, float] | None, objectives: Sequence[Objective]
) -> Series:
    names = [accuracy_column(front) if item.name == "accuracy" else item.name for item in objectives]
    if baseline is None or not len(front) or not math.isfinite(baseline.get("accuracy", math.nan)):
        return Series((), (), (), ())
    found = recommend(front[names].to_numpy(dtype=np.float64), objectives, baseline["accuracy"])
    return Series((), (), (), ()) if found is None else _series(front.iloc[[found.best]], reported)


def _baseline_series(baseline: dict[str, float] | None, column: str) -> Series:
    if baseline is None:
        return Series((), (), (), ())
    accuracy = baseline[column] if column in baseline else baseline["accuracy"]
    return Series((baseline["size_bytes"] / 1e3,), (baseline["latency_ms"],), (accuracy,), (0.0,))


def _series(table: pd.DataFrame, accuracy: str) -> Series:
    spread = f"{accuracy}_spread"
    return Series(
        sizes_kb=tuple(table["size_bytes"] / 1e3),
        latencies_ms=tuple(table["latency_ms"]),
        accuracies=tuple(table[accuracy]),
        accuracy_spreads=tuple(table[spread].fillna(0.0)) if spread in table.columns else (0.0,) * len(table),
    )


def draw_front(axes: Axes, numbers: FrontNumbers, cost: str) -> None:
    """Draw accuracy over ``latencies_ms`` or ``sizes_kb`` into the given axes."""
    trials = numbers.trials
    if trials.accuracies:
        axes.scatter(
            getattr(trials, cost), trials.accuracies, s=14, color="0.75", linewidths=0, label="all trials (validation)"
        )
    chosen = "best by validation at each cost" if numbers.on_test else None
    axes.step(*numbers.steps[cost], where="post", color="0.35", linewidth=1.2, zorder=2, label=chosen)
    styles = kind_styles()
    for kind, series in numbers.front.items():
        style = styles[kind]
        axes.errorbar(
            getattr(series, cost),
            series.accuracies,
            yerr=series.accuracy_spreads,
            fmt=style.marker,
            color=style.colour,
            markersize=6,
            elinewidth=0.8,
            ecolor=(*to_rgb(style.colour), 0.45),
            zorder=3,
            label=f"front: {style.label}",
        )
    axes.scatter(
        getattr(numbers.baseline, cost),
        numbers.baseline.accuracies,
        marker="*",
        s=220,
        color="#CC79A7",
        edgecolors="black",
        linewidths=0.8,
        zorder=4,
        label="your model (float32)" if numbers.baseline.accuracies else None,
    )
    if numbers.recommended.accuracies:
        axes.scatter(
            getattr(numbers.recommended, cost),
            numbers.recommended.accuracies,
            marker="o",
            s=170,
            facecolors="none",
            edgecolors="black",
            linewidths=1.4,
            zorder=4,
            label="recommended",
        )
    axes.set_xscale("log")
    label_ticks(axes.xaxis)
    axes.set_xlabel("latency, ms (log)" if cost == "latencies_ms" else "file size, KB (log)")
    split = "test" if numbers.on_test else "validation"
    axes.set_ylabel(f"{as_it_is(numbers.metric_name)} ({split})")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)


def as_it_is(text: str) -> str:
    """Return a text that matplotlib shows as it is, and does not take for a formula."""
    return text.replace("$", r"\$")


def label_ticks(axis: Axis) -> None:
    """Label enough ticks that a logarithmic axis can be read, also where it spans less than a decade."""
    low, high = axis.get_data_interval()
    if low > 0 and high < 8 * low:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def two_axes() -> tuple[Figure, Axes, Axes]:
    """Return a figure with two axes side by side, for accuracy over latency and over size."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    return figure, left, right


def picture_of(figure: Figure, title: str, legend_columns: int) -> bytes:
    """Return such a figure as PNG, once both axes are drawn into, with a title and one legend for both.

    Args:
        figure: As :func:`two_axes` made it.
        title: As matplotlib reads it; see :func:`as_it_is`.
        legend_columns: Entries of the legend beside each other.
    """
    left, right = figure.axes
    right.set_ylabel("")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False)
    figure.suptitle(title)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def save_front(path: Path, numbers: FrontNumbers, title: str) -> None:
    """Write the two plots of a front, accuracy over latency and over size, as one PNG.

    Raises:
        OutputError: Where the file cannot be written.
    """
    figure, left, right = two_axes()
    draw_front(left, numbers, "latencies_ms")
    draw_front(right, numbers, "sizes_kb")
    picture = picture_of(figure, as_it_is(title), legend_columns=5)
    with explain_os_errors(path):
        write_atomically(path, picture)
