"""Marks and figures of a front that was measured again, on hand-made fronts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from karui.evaluators.measurement import Measurement
from karui.spaces.artifact import Artifact
from karui.studies.certifying.fresh import Fresh
from karui.studies.certifying.marks import accuracy_fall, is_worse_than_seen, marks_of, summarize
from karui.studies.results.certification import Certification, read_certification, write_certification
from karui.studies.results.tables import TEST_ACCURACY
from karui.studies.storage.folder import RunFolder

from .conftest import make_record


def accuracy(name: str, value: float, spread: float = 0.01) -> Measurement:
    return Measurement(name, value, "1", spread, 150)


BASELINE = {"accuracy": accuracy("accuracy", 0.95), TEST_ACCURACY: accuracy(TEST_ACCURACY, 0.93)}
"""The test split is harder by two points."""


def fresh(
    number: int,
    size: float,
    latency: float,
    test_accuracy: float,
    *,
    spreads: tuple[float, float] = (0.1, 0.02),
    seen: tuple[float, float] | None = None,
) -> Fresh:
    """A file measured again; as the search saw it (its latency and accuracy) unless it is said how that was."""
    before = seen or (latency, test_accuracy + 0.02)
    record = make_record(number, size, *before)
    assert record.outcome is not None
    again = {
        "latency_ms": Measurement("latency_ms", latency, "ms", spreads[0], 20),
        TEST_ACCURACY: accuracy(TEST_ACCURACY, test_accuracy, spreads[1]),
    }
    return Fresh(record, Artifact(Path("unused.onnx"), "00"), {**record.outcome.measurements, **again})


def test_dominated_within_the_noise_is_told_from_dominated_beyond_it() -> None:
    found = [
        fresh(0, 10.0, 1.00, 0.90),
        fresh(1, 11.0, 1.10, 0.89),  # worse in everything, by less than 0.14 ms and 0.028
        fresh(2, 11.0, 1.30, 0.89),  # slower beyond the noise, less accurate within it
        fresh(3, 11.0, 1.30, 0.80),  # worse beyond the noise in everything
        fresh(4, 12.0, 1.20, 0.97),  # larger and slower, and better
    ]
    assert marks_of(found, BASELINE) == ["holds", "within noise", "within noise", "fell off", "holds"]


def test_of_two_alike_one_holds_and_the_other_is_within_noise() -> None:
    assert marks_of([fresh(0, 10.0, 1.0, 0.9), fresh(1, 10.0, 1.0, 0.9)], BASELINE) == ["holds", "within noise"]


def test_nobody_is_left_to_dominate_one_alone() -> None:
    assert marks_of([fresh(0, 10.0, 1.0, 0.9)], BASELINE) == ["holds"]
    assert marks_of([], BASELINE) == []


def test_a_harder_split_is_no_fault_of_a_point() -> None:
    assert accuracy_fall(fresh(0, 10.0, 1.0, 0.90, seen=(1.0, 0.92)), BASELINE) == pytest.approx(0.0)
    assert accuracy_fall(fresh(0, 10.0, 1.0, 0.90, seen=(1.0, 0.95)), BASELINE) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("seen", "is_worse"),
    [
        ((10.0, 0.92), False),
        # 0.01, 0.01, 0.02 and 0.02 make 0.0316; with two comparisons it takes 2.24 / 1.96 times as much
        ((10.0, 0.92 + 0.0360), False),
        ((10.0, 0.92 + 0.0363), True),
        ((10.0, 0.80), False),
        # 0.1, 0.1 and 5 % of 9.4 make 0.4909, times 1.1436 is 0.5614
        ((9.4, 0.92), True),
        ((9.5, 0.92), False),
        ((20.0, 0.92), False),
    ],
)
def test_a_point_that_was_better_in_the_search_by_more_than_the_noise_is_worse(
    seen: tuple[float, float], is_worse: bool
) -> None:
    point = fresh(0, 10.0, 10.0, 0.90, seen=seen)
    assert is_worse_than_seen(point, BASELINE, comparisons=2) == is_worse
    assert marks_of([point], BASELINE) == ["fell off" if is_worse else "holds"]


def test_among_many_points_it_takes_more_to_be_called_worse() -> None:
    point = fresh(0, 10.0, 10.0, 0.90, seen=(9.3, 0.92))
    assert is_worse_than_seen(point, BASELINE, comparisons=2)
    assert not is_worse_than_seen(point, BASELINE, comparisons=100)


# --- figures ----------------------------------------------------------------------------------------------------------


def certification() -> Certification:
    points = [
        fresh(0, 10.0, 1.0, 0.80, seen=(1.0, 0.84)),
        fresh(1, 20.0, 2.2, 0.88, seen=(2.0, 0.90)),
        fresh(2, 30.0, 3.3, 0.86, seen=(3.0, 0.93)),
    ]
    lost = ["trial 7 fell off when it was measured again: answers with NaN"]
    return summarize(
        points,
        ["holds", "holds", "fell off"],
        BASELINE,
        time="2026-01-01T00:00:00.000+00:00",
        conditions={"threads": 1},
        edge=(2, 1),
        lost=lost,
    )


def test_figures_are_those_of_the_points() -> None:
    found = certification()
    assert found.marks == {"holds": 2, "within noise": 0, "fell off": 1}
    assert found.accuracy_tau == pytest.approx(1 / 3), "of three pairs two are ranked alike"
    assert found.latency_tau == 1.0
    assert found.accuracy_fall_points == pytest.approx(2.0), "of 2, 0 and 5"
    assert found.latency_rise_percent == pytest.approx(10.0), "of 0, 10 and 10"
    assert (found.points, found.edge_measured, found.edge_admitted, found.test_samples) == (3, 2, 1, 150)


def test_it_is_told_in_two_lines() -> None:
    found = certification()
    assert found.describe().splitlines() == [
        "measured again in a new process: 2 hold, 1 fell off",
        "rank correlation of the search's values with these (Kendall's tau): accuracy 0.33, latency 1.00",
    ]
    here = replace(found, same_process="the task is an object", accuracy_tau=None)
    assert "in the search's own process" in here.describe()
    assert "accuracy cannot be ranked, latency 1.00" in here.describe()
    assert replace(found, points=1).describe() == "measured again in a new process: 2 hold, 1 fell off"


def test_without_points_there_are_no_figures() -> None:
    found = summarize([], [], BASELINE, time="now")
    assert (found.accuracy_tau, found.latency_tau) == (None, None)
    assert (found.accuracy_fall_points, found.latency_rise_percent) == (None, None)
    assert found.describe() == "measured again in a new process: nothing"


def test_it_survives_being_written_and_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_certification(folder) is None
    write_certification(folder, certification())
    assert read_certification(folder) == certification()
    assert json.loads((tmp_path / "certification.json").read_text())["accuracy_tau"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"lost": [], "future": 1}'])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, content: str) -> None:
    (tmp_path / "certification.json").write_text(content)
    assert read_certification(RunFolder(tmp_path)) is None
