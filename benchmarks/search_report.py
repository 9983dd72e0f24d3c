"""The report of ``search.py``: a readable table with its goals, and a picture, from the two tables of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from measuring import conditions  # type: ignore[import-not-found]
from numpy.typing import NDArray

GOAL_SHARE = 0.1
KARUI, TPE, UNGATED, AXIS = "karui", "plain tpe", "karui, no gates", "only "
PANELS = (("karui", "plain "), (AXIS,))
"""What each panel shows beside karui: names that begin so. What is made without a search is a mark in the last."""


def write_report(results: Path, names: Sequence[str], task: str, minutes: float) -> None:
    """Write ``search.md`` and ``search.png`` beside the tables.

    Args:
        results: Where the tables are.
        names: Of all methods, in the order in which they are shown.
        task: The task, in words.
        minutes: Wall-clock time of each search.
    """
    curves, finals = (pd.read_csv(results / f"search_{name}.csv") for name in ("hypervolume", "final"))
    text = "\n".join(_report(curves, finals, [name for name in names if name in set(finals["method"])], task, minutes))
    (results / "search.md").write_text(text, encoding="utf-8")
    draw(curves, names, minutes, results / "search.png")


def first_at(curve: pd.DataFrame, value: float) -> float:
    """Return the seconds after which a run's hypervolume reaches a value; infinity where it does not.

    Args:
        curve: Columns ``seconds`` and ``hypervolume`` of one run, in the order of time.
        value: What is to be reached.
    """
    reached = curve["seconds"][curve["hypervolume"] >= value]
    return float(reached.iloc[0]) if len(reached) else np.inf


def shares_of_time(curves: pd.DataFrame, method: str, minutes: float) -> list[float]:
    """Return, per seed, when a method reached what plain TPE ended with, as a share of plain TPE's time."""
    shares = []
    for seed in sorted(set(curves["seed"])):
        run, plain = (curves[(curves["method"] == name) & (curves["seed"] == seed)] for name in (method, TPE))
        if len(run) and len(plain):
            shares.append(first_at(run, plain["hypervolume"].iloc[-1]) / (60 * minutes))
    return shares


def _report(
    curves: pd.DataFrame, finals: pd.DataFrame, names: Sequence[str], task: str, minutes: float
) -> Iterator[str]:
    yield "# The search on a real task"
    yield ""
    yield (
        f"{task}; {minutes:g} min for each search. Median over the seeds, and in brackets the least and the most. "
        "Hypervolume is that of log size, log latency and accuracy, against the baseline's size and latency and its "
        "accuracy less ten points; re-measured: the front's files of all methods of a seed measured again in one "
        "process, latency in alternation with the baseline, accuracy on the test split; searched: as each method "
        "measured it itself, on the validation split. The last column says when a method's searched hypervolume "
        f"reached the one that `{TPE}` ended with, as a share of the time that `{TPE}` had."
    )
    yield ""
    yield "| method | seeds | candidates | seconds | files | hypervolume, re-measured | searched | plain TPE reached |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in names:
        yield _row(curves, finals[finals["method"] == name], name, minutes)
    yield ""
    yield "![Hypervolume over time: medians thick, each seed thin](search.png)"
    yield ""
    yield from _what_they_are()
    yield ""
    yield "## Goals"
    yield ""
    yield from _goals(curves, finals, minutes)
    yield ""
    yield from _gates(finals)
    yield conditions(seeds=sorted(set(finals["seed"].tolist())))
    yield ""


def _row(curves: pd.DataFrame, finals: pd.DataFrame, name: str, minutes: float) -> str:
    own = curves[curves["method"] == name]
    searched = own.groupby("seed")["hypervolume"].last()
    shares = shares_of_time(curves, name, minutes)
    cells = [name, str(len(finals)), f"{finals['evaluated'].median():.0f}", f"{finals['seconds'].median():.0f}"]
    cells += [f"{finals['files'].median():.0f}", spread(finals["hypervolume"]), spread(searched)]
    return "| " + " | ".join([*cells, _share(shares)]) + " |"


def spread(values: Sequence[float] | pd.Series[float]) -> str:
    """Return the median, and the range where there are several."""
    numbers = np.sort(np.asarray(values, dtype=float))
    if not len(numbers):
        return ""
    told = f"{np.median(numbers):.3f}"
    return told if len(numbers) == 1 else f"{told} ({numbers[0]:.3f} to {numbers[-1]:.3f})"


def _share(shares: Sequence[float]) -> str:
    if not shares:
        return ""
    texts = [f"{share:.1%}" if np.isfinite(share) else "never" for share in (np.median(shares), *_ends(shares))]
    return texts[0] if len(shares) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _what_they_are() -> Iterator[str]:
    yield (
        "No cache: no trained network is used again, and no followers. Plain: Optuna's own sampler on the same space "
        "and bound, no cache, no gates, no followers, nothing tried first (NSGA-II with 8 in a generation); that means "
        "the same, and files that are the same byte for byte, are not measured twice there either. Only: one axis "
        "of the space, all the rest as in karui; a space that is tried out ends early. By hand: uniform int8, 25 % "
        "and 50 % of the channels removed with int8, a student of half the depth distilled with int8, each trained "
        "as long as in the search. Their time is that of making and measuring."
    )


def _goals(curves: pd.DataFrame, finals: pd.DataFrame, minutes: float) -> Iterator[str]:
    yield f"- {_goal_of_time(curves, minutes)}"
    yield f"- {_goal_of_axes(finals)}"


def _goal_of_time(curves: pd.DataFrame, minutes: float) -> str:
    goal = f"`{TPE}`'s final hypervolume in at most a tenth of its time"
    shares = shares_of_time(curves, KARUI, minutes)
    if not shares:
        return f"{goal}: not measured."
    verdict = "reached" if np.median(shares) <= GOAL_SHARE else "**missed**"
    plain = [
        first_at(run, run["hypervolume"].iloc[-1]) / (60 * minutes)
        for _, run in curves[curves["method"] == TPE].groupby("seed")
    ]
    return f"{goal}: {verdict}, {_share(shares)}. It was there itself after {_share(plain)}."


def _goal_of_axes(finals: pd.DataFrame) -> str:
    goal = "ahead of every single axis"
    table = finals.pivot(index="seed", columns="method", values="hypervolume")
    axes = [name for name in table.columns if name.startswith(AXIS)]
    if KARUI not in table or not axes:
        return f"{goal}: not measured."
    medians = {name: float(table[name].median()) for name in (KARUI, *axes)}
    best = max(axes, key=lambda name: medians[name])
    ahead = int((table[KARUI] > table[axes].max(axis=1)).sum())
    verdict = "reached" if medians[KARUI] > medians[best] else "**missed**"
    return (
        f"{goal}: {verdict}, {medians[KARUI]:.3f} to {medians[best]:.3f} of `{best}`; ahead of every one of them in "
        f"{ahead} of {table[KARUI].count()} seeds. So {medians[best] / medians[KARUI]:.0%} of `{KARUI}`'s hypervolume "
        "is there with that axis alone: the shorter the searches, the less the others have to show."
    )


def _gates(finals: pd.DataFrame) -> Iterator[str]:
    gated = finals[(finals["method"] == KARUI) & finals["gates_stopped"].notna()]
    if gated.empty:
        return
    stopped, tested, missed = (int(gated[f"gates_{name}"].sum()) for name in ("stopped", "tested", "missed"))
    yield "## Gates"
    yield ""
    yield (
        f"In `{KARUI}`, all seeds together, gates stopped {stopped} candidates; of {tested} that they would have "
        f"stopped but let through as a test, {missed} reached the front."
    )
    ungated = finals[(finals["method"] == UNGATED) & finals["ungated_front_stopped"].notna()]
    ungated = ungated[ungated["seed"].isin(gated["seed"])]
    if len(ungated):
        yield (
            f"Of the {int(ungated['files'].sum())} points on the fronts of `{UNGATED}`, gates stopped "
            f"{int(ungated['ungated_front_stopped'].sum())} when `{KARUI}` came to them."
        )
    yield ""


def draw(curves: pd.DataFrame, names: Sequence[str], minutes: float, path: Path) -> None:
    """Draw hypervolume over time: the median over the seeds, and thin lines for each of them."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    at = np.linspace(0, minutes, 400)
    found = [name for name in names if name in set(curves["method"])]
    shown: set[str] = set()
    for axes, beginnings in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        for name in found:
            if name == KARUI or name.startswith(beginnings):
                _draw_curve(axes, curves[curves["method"] == name], name, at)
                shown.add(name)
        axes.set_xlabel("minutes")
    for name, marker in zip([name for name in found if name not in shown], "oDs^v", strict=False):
        last = curves[curves["method"] == name].groupby("seed").last()
        axes.plot(last["seconds"] / 60, last["hypervolume"], marker, label=name, color="black", markersize=5)
    for axes in figure.axes:
        axes.legend(loc="center right", fontsize=8)
    figure.axes[0].set_ylabel("hypervolume, as the search measured it")
    figure.savefig(path, dpi=130)


def _draw_curve(axes: Any, curves: pd.DataFrame, name: str, at: NDArray[np.float64]) -> None:
    values = np.array([values_at(run, at) for _, run in curves.groupby("seed")])
    (line,) = axes.plot(at, np.median(values, axis=0), label=name, lw=2.5 if name == KARUI else 1.3)
    axes.plot(at, values.T, color=line.get_color(), lw=0.7, alpha=0.5)


def values_at(run: pd.DataFrame, minutes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a run's hypervolume at these times: that of the last candidate before, 0 before the first."""
    index = np.searchsorted(run["seconds"].to_numpy() / 60, minutes, side="right")
    return np.concatenate([[0.0], run["hypervolume"].to_numpy()])[index]
