"""Plots from Python: the numbers behind them, whose axes are drawn into, and what they can be given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import karui
from karui.errors import OutputError
from karui.evaluators.measurement import Measurement
from karui.search.statistics.front import hypervolume
from karui.studies.plotting.figures import HypervolumeNumbers, hypervolume_numbers
from karui.studies.plotting.plots import Series
from karui.studies.results.result import StudyResult

from .made_results import make_results

BASELINE = {"size_bytes": 1000.0, "latency_ms": 10.0, "accuracy": 0.9}
POINTS = [(0.1, 0.4, 0.9), (0.3, 0.3, 0.95)]

TRIALS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 8), st.booleans(), st.booleans()), max_size=12
)


def trials_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"trial": number, "state": "evaluated" if done else "failed", "feasible": feasible if done else None}
            | {"size_bytes": 100.0 * size, "latency_ms": float(latency), "accuracy": 0.8 + accuracy / 40}
            for number, (size, latency, accuracy, feasible, done) in enumerate(rows)
        ]
    )


@pytest.fixture(autouse=True)
def _no_screen() -> Any:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def test_the_hypervolume_grows_by_boxes_known_by_hand() -> None:
    # A tenth of the size, a half of the latency, the baseline's accuracy: a box ten points high.
    rows = [(1, 5, 4, True, True), (1, 1, 8, False, True), (1, 1, 8, True, False), (2, 5, 4, True, True)]
    one = math.log(10) * math.log(2) * 0.1
    numbers = hypervolume_numbers(trials_of(rows), BASELINE)
    assert numbers.evaluated == (1, 2, 3), "what failed was not evaluated"
    assert numbers.hypervolumes == pytest.approx((one, one, one)), "neither infeasible nor dominated ones add to it"


@given(rows=TRIALS)
def test_the_hypervolume_is_that_of_all_feasible_ones_so_far(rows: list[tuple[Any, ...]]) -> None:
    numbers = hypervolume_numbers(trials_of(rows), BASELINE)
    done = [row for row in rows if row[4]]
    assert numbers.evaluated == tuple(range(1, len(done) + 1))
    for count, volume in zip(numbers.evaluated, numbers.hypervolumes, strict=True):
        points = [(100.0 * s, float(t), 0.8 + a / 40) for s, t, a, feasible, _ in done[:count] if feasible]
        assert volume == pytest.approx(hypervolume(points, list(BASELINE.values())))


def test_trials_are_taken_in_their_order() -> None:
    table = trials_of([(1, 5, 4, True, True), (5, 5, 4, True, True)])
    assert hypervolume_numbers(table.iloc[::-1], BASELINE) == hypervolume_numbers(table, BASELINE)
    assert hypervolume_numbers(pd.DataFrame(), BASELINE) == HypervolumeNumbers((), ())


def drawn_points(axes: Any) -> set[tuple[float, float]]:
    """Return every marker of the lines and scatters in the axes."""
    found = {(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata()}
    return found | {(float(x), float(y)) for scatter in axes.collections for x, y in np.asarray(scatter.get_offsets())}


@pytest.mark.parametrize(
    ("cost", "points", "baseline"),
    [("latency", [(0.8, 0.9), (0.6, 0.95)], (2.0, 0.96)), ("size", [(10.0, 0.9), (30.0, 0.95)], (100.0, 0.96))],
)
def test_a_front_is_drawn_into_given_axes_from_whatever_it_is_in(
    tmp_path: Path, cost: Any, points: list[tuple[float, float]], baseline: tuple[float, float]
) -> None:
    results = make_results(tmp_path / "results", POINTS)
    measured = {
        name: Measurement(name, value, "1")
        for name, value in {"size_bytes": 1e5, "latency_ms": 2.0, "accuracy": 0.98, "test_accuracy": 0.96}.items()
    }
    front, trials = karui.load_front(results), pd.read_csv(results / "trials.csv")
    for given_front in (results, str(results), front, StudyResult(results, front, trials, measured, "done")):
        axes = Figure().subplots()
        assert karui.plot_front(given_front, axes, cost=cost) is axes
        shown = {(round(x, 9), round(y, 9)) for x, y in drawn_points(axes)}
        assert {*points, baseline} <= shown
    assert plt.get_fignums() == [], "axes of one's own need no figure of pyplot"


def test_a_front_so_far_is_drawn_without_a_baseline(tmp_path: Path) -> None:
    front = karui.load_front(make_results(tmp_path / "results", POINTS))
    so_far = front.drop(columns=["size_x", "speed_x", "drop_points", "test_accuracy", "test_accuracy_spread"])
    axes = karui.plot_front(so_far, Figure().subplots())
    assert [text.get_text() for text in axes.legend().get_texts()] == ["front: baseline, compressed"]
    assert axes.get_ylabel() == "accuracy (validation)"
    empty = karui.plot_front(pd.DataFrame(columns=["point"]), Figure().subplots())
    assert drawn_points(empty) == set()


def test_without_axes_there_is_a_new_figure(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    first, second = karui.plot_front(results), karui.plot_hypervolume(results)
    assert first.figure is not second.figure
    assert len(plt.get_fignums()) == 2


def test_the_hypervolume_is_drawn_as_it_is_counted(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    axes = Figure().subplots()
    assert karui.plot_hypervolume(results, axes) is axes
    (line,) = axes.lines
    # 10 times smaller, 2.5 times faster, 0.9 on validation beside the baseline's 0.98; then a third of the size
    first = math.log(10) * math.log(2.5) * 0.02
    volume = hypervolume([(1e4, 0.8, 0.9), (3e4, 0.6, 0.95)], [1e5, 2.0, 0.98])
    assert np.asarray(line.get_xydata()).ravel().tolist() == pytest.approx([1, first, 2, volume])
    assert axes.get_ylim()[0] == 0


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cost: one of 'latency', 'size' expected, got 'energy'"):
        karui.plot_front(tmp_path, cost="energy")  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="no results of 'digits' yet"):
        karui.plot_hypervolume("digits", out=tmp_path / "empty")


def test_series_of_a_table_alone_know_the_baseline_by_its_ratios(tmp_path: Path) -> None:
    from karui.studies.plotting.figures import _front_numbers

    numbers = _front_numbers(karui.load_front(make_results(tmp_path / "results", POINTS)), None, None)
    assert numbers.trials == Series((), (), (), ())
    (size,), (latency,), (accuracy,) = (
        getattr(numbers.baseline, name) for name in ("sizes_kb", "latencies_ms", "accuracies")
    )
    assert (size, latency, accuracy) == pytest.approx((100.0, 2.0, 0.96))
