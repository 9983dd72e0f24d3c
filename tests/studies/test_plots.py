"""Plots: the numbers they show, and a picture that can be opened."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import OutputError
from karui.spaces.architectures import Architecture
from karui.studies.plotting.plots import Series, front_numbers, save_front, staircase
from karui.studies.results.tables import trials_table

from .conftest import make_record

BASELINE = {"size_bytes": 40_000.0, "latency_ms": 2.0, "accuracy": 0.95, "test_accuracy": 0.93}

FRONT = pd.DataFrame(
    {
        "point": ["p01", "p02", "p03"],
        "kind": ["cell", "baseline", "cell"],
        "size_bytes": [5_000, 10_000, 20_000],
        "latency_ms": [0.5, 1.0, 0.25],
        "accuracy": [0.8, 0.9, 0.85],
        "accuracy_spread": [0.03, 0.02, np.nan],
        "test_accuracy": [0.7, 0.91, 0.86],
        "test_accuracy_spread": [0.04, np.nan, 0.01],
    }
)

POINTS = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=10)


@settings(deadline=None)
@given(points=POINTS)
def test_a_staircase_is_the_best_at_no_more_than_each_cost(points: list[tuple[float, float]]) -> None:
    costs, accuracies = zip(*points, strict=True)
    corners = dict(zip(*staircase(costs, accuracies), strict=True))
    for limit in np.arange(0.5, 10.0, 0.5):
        affordable = [accuracy for cost, accuracy in points if cost <= limit]
        reached = [accuracy for cost, accuracy in corners.items() if cost <= limit]
        assert max(affordable, default=None) == max(reached, default=None)
    assert list(corners) == sorted(corners)
    assert list(corners.values()) == sorted(set(corners.values())), "each corner is better than the one before"


def test_an_empty_staircase_has_no_corners() -> None:
    assert staircase((), ()) == ([], [])


def test_the_numbers_are_those_of_the_tables() -> None:
    records = [make_record(0, 5_000.0, 0.5, 0.8), make_record(1, 9_000.0, 9.0, 0.1, feasible=False)]
    numbers = front_numbers(FRONT, trials_table(records), BASELINE, "top-1")
    assert numbers.front["cell"] == Series((5.0, 20.0), (0.5, 0.25), (0.7, 0.86), (0.04, 0.01))
    assert numbers.front["baseline"] == Series((10.0,), (1.0,), (0.91,), (0.0,))
    assert set(numbers.front) == {"baseline", "cell"}
    assert numbers.trials == Series((5.0,), (0.5,), (0.8,), (0.02,))
    assert numbers.baseline == Series((40.0,), (2.0,), (0.93,), (0.0,))
    assert (numbers.on_test, numbers.metric_name) == (True, "top-1")


def test_the_line_joins_what_validation_chooses_and_the_ring_is_what_is_recommended() -> None:
    numbers = front_numbers(FRONT, trials_table([]), BASELINE)
    # by size 0.8, 0.9 and 0.85 on validation: the third is no step; by latency 0.85, then 0.9
    assert numbers.steps == {"sizes_kb": ([5.0, 10.0], [0.7, 0.91]), "latencies_ms": ([0.25, 1.0], [0.86, 0.91])}
    # none loses a point at most of 0.95, and the nearest has 0.9
    assert numbers.recommended == Series((10.0,), (1.0,), (0.91,), (0.0,))
    smaller = front_numbers(FRONT, trials_table([]), {**BASELINE, "accuracy": 0.8})
    assert smaller.recommended == Series((5.0,), (0.5,), (0.7,), (0.04,))
    assert front_numbers(FRONT, trials_table([]), None).recommended == Series((), (), (), ())


@pytest.mark.parametrize("unit", [100.0, 1e4, -1.0, 1e-6])
def test_pictures_of_any_metric_can_be_opened(tmp_path: Path, unit: float) -> None:
    names = ["accuracy", "accuracy_spread", "test_accuracy", "test_accuracy_spread"]
    front = FRONT.assign(
        **{name: abs(unit) * FRONT[name] if "spread" in name else unit * FRONT[name] for name in names}
    )
    baseline = {**BASELINE, "accuracy": unit * 0.95, "test_accuracy": unit * 0.93}
    save_front(tmp_path / "front.png", front_numbers(front, trials_table([]), baseline, "-MSE"), "tiny")
    assert matplotlib.image.imread(tmp_path / "front.png").shape[0] == round(5.2 * 130)


def test_every_kind_of_architecture_is_drawn() -> None:
    kinds = [each.kind for each in get_args(Architecture)]
    front = pd.DataFrame({"kind": kinds, "size_bytes": 1e3, "latency_ms": 0.1, "accuracy": 0.9})
    baseline = {"size_bytes": 1e4, "latency_ms": 1.0, "accuracy": 0.95}
    assert list(front_numbers(front, front.iloc[:0], baseline).front) == kinds


def test_before_the_test_split_is_touched_validation_is_shown() -> None:
    front = FRONT.drop(columns=["test_accuracy", "test_accuracy_spread"])
    numbers = front_numbers(front, trials_table([]), BASELINE)
    assert not numbers.on_test
    assert numbers.front["cell"].accuracies == (0.8, 0.85)
    assert numbers.front["cell"].accuracy_spreads == (0.03, 0.0)
    assert numbers.baseline.accuracies == (0.95,)
    assert numbers.trials == Series((), (), (), ())


def test_trials_read_from_csv_give_the_same_numbers(tmp_path: Path) -> None:
    records = [make_record(0, 5_000.0, 0.5, 0.8), make_record(1, 9_000.0, 9.0, 0.1, feasible=False)]
    table = trials_table(records)
    table.to_csv(tmp_path / "trials.csv", index=False)
    assert front_numbers(FRONT, pd.read_csv(tmp_path / "trials.csv"), BASELINE) == front_numbers(FRONT, table, BASELINE)


@pytest.mark.parametrize("points", [1, 3])
def test_the_picture_can_be_opened_and_no_global_figure_is_left(tmp_path: Path, points: int) -> None:
    before = plt.get_fignums()
    numbers = front_numbers(FRONT.head(points), trials_table([make_record(0, 5_000.0, 0.5, 0.8)]), BASELINE)
    save_front(tmp_path / "front.png", numbers, "tiny: files on the front")
    image = matplotlib.image.imread(tmp_path / "front.png")
    height, width, channels = image.shape
    assert (width, height) == (12 * 130, round(5.2 * 130))
    assert channels in (3, 4)
    assert len(np.unique(image.reshape(-1, channels), axis=0)) > 10, "something is drawn"
    assert plt.get_fignums() == before
    assert [path.name for path in tmp_path.iterdir()] == ["front.png"]


def test_a_picture_that_cannot_be_written_is_told() -> None:
    numbers = front_numbers(FRONT, trials_table([]), BASELINE)
    with pytest.raises(OutputError, match=r"cannot be written(?s:.*)/proc"):
        save_front(Path("/proc/karui/front.png"), numbers, "")
