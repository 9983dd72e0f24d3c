"""Tables: the front against brute force, and every trial with its state, reason, parameters and measurements."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.evaluators.measurement import Measurement
from karui.evaluators.row_scores import RowScores, RowStore
from karui.search.objectives import OBJECTIVES
from karui.search.record import TrialRecord
from karui.spaces.candidate import Candidate
from karui.studies.certifying.pairing import Pairing
from karui.studies.results.metric_text import speed_text
from karui.studies.results.tables import edge_records, front_records, measurement_columns, trials_table, write_csv

from .conftest import make_record

FAILED = TrialRecord(7, "failed", "quantization", "too few, bits", {"bits.weights": 3}, Candidate(), None, False, 0.5)
WAITING = TrialRecord(8, "waiting", "", "", {}, None, None, False, 0.0)

STEPS = st.integers(1, 4).map(float)


@settings(deadline=None, max_examples=200)
@given(rows=st.lists(st.tuples(STEPS, STEPS, STEPS, st.booleans()), max_size=12))
def test_the_front_is_the_one_that_brute_force_finds(rows: list[tuple[float, float, float, bool]]) -> None:
    records = [make_record(number, *row[:3], feasible=row[3]) for number, row in enumerate(rows)]
    kept = [(number, row[:3]) for number, row in enumerate(rows) if row[3]]

    def is_beaten(number: int, point: tuple[float, ...]) -> bool:
        return any(
            other[0] <= point[0]
            and other[1] <= point[1]
            and other[2] >= point[2]
            and (other != point or earlier < number)
            for earlier, other in kept
        )

    expected = {number for number, point in kept if not is_beaten(number, point)}
    front = front_records([*records, FAILED, WAITING])
    assert {record.number for record in front} == expected
    sizes = [record.values(["size_bytes"]) for record in front]
    assert sizes == sorted(sizes)


def test_on_the_edge_is_who_may_belong_to_it_row_by_row(tmp_path: Path) -> None:
    """Two of 1,000 rows apart, or 15 all for the one: by intervals of 0.02 nobody can tell, by the rows one can."""
    store, right = RowStore(tmp_path), np.ones(1000)
    for digest, wrong in (("front", 20), ("about as good", 22), ("worse", 35)):
        store.keep("validation", digest, RowScores(np.where(np.arange(1000) < wrong, 0.0, right), "s"))
    records = [
        make_record(0, 10.0, 1.00, 0.980, digest="front"),
        make_record(1, 11.0, 1.00, 0.978, digest="about as good"),
        make_record(2, 12.0, 2.00, 0.965, digest="worse"),
        make_record(3, 13.0, 1.00, 0.979, digest="of another machine"),
    ]
    paired = Pairing(store).among(OBJECTIVES)
    assert {record.number for record in edge_records(records)} == {1, 2, 3}
    assert {record.number for record in edge_records(records, differences=paired)} == {1, 3}
    unknown = Pairing(RowStore(tmp_path / "none")).among(OBJECTIVES)
    assert {record.number for record in edge_records(records, differences=unknown)} == {1, 2, 3}


def test_on_the_edge_is_who_may_belong_to_the_front_each_file_once() -> None:
    # the spreads of a made-up record are 0.1 ms and 0.02
    records = [
        make_record(0, 10.0, 1.00, 0.90, digest="on the front"),
        make_record(1, 11.0, 1.00, 0.90, digest="larger"),
        make_record(2, 11.0, 1.05, 0.89, digest="larger and a little worse"),
        make_record(3, 11.0, 1.05, 0.89, digest="larger and a little worse"),
        make_record(4, 10.0, 1.00, 0.90, digest="on the front"),
        make_record(5, 12.0, 3.00, 0.50, digest="far away"),
        make_record(6, 10.5, 1.00, 0.90, digest="breaks a bound", feasible=False),
    ]
    assert [record.number for record in front_records(records)] == [0]
    assert [record.number for record in edge_records([*records, FAILED, WAITING])] == [1, 2]
    assert [record.number for record in edge_records(records, most=1)] == [1]
    assert edge_records([FAILED, WAITING]) == []


def test_every_trial_has_a_row_and_only_measured_ones_have_numbers() -> None:
    table = trials_table([make_record(0, 10.0, 1.0, 0.9), make_record(1, 20.0, 2.0, 0.8, feasible=False), FAILED])
    good, infeasible, failed = (table.iloc[index] for index in range(3))
    assert (good["trial"], good["state"], good["kind"], good["on_front"]) == (0, "evaluated", "baseline", True)
    assert good["bits.weights"] == 4
    assert (good["latency_ms"], good["latency_ms_spread"], good["latency_ms_count"]) == (1.0, 0.1, 20)
    assert (good["accuracy"], good["accuracy_spread"], good["accuracy_count"]) == (0.9, 0.02, 100)
    assert good["sha256"] == "00"
    assert (infeasible["feasible"], infeasible["on_front"]) == (False, False)
    assert (failed["state"], failed["stage"], failed["reason"]) == ("failed", "quantization", "too few, bits")
    assert failed["bits.weights"] == 3
    measured = ["size_bytes", "latency_ms", "latency_ms_spread", "accuracy", "accuracy_spread", "sha256", "feasible"]
    assert failed[measured].isna().all()


def test_an_exact_measurement_has_no_spread() -> None:
    columns = measurement_columns(
        {"size_bytes": Measurement("size_bytes", 5.0, "bytes"), "x": Measurement("x", 2.0, "1", 0.5, 3)}
    )
    assert columns == {"size_bytes": 5.0, "x": 2.0, "x_spread": 0.5, "x_count": 3}


def test_a_table_survives_being_written_and_read(tmp_path: Path) -> None:
    table = trials_table([make_record(0, 10.0, 1.0, 0.9), FAILED, WAITING])
    write_csv(table, tmp_path / "trials.csv")
    read = pd.read_csv(tmp_path / "trials.csv", dtype={"sha256": str})
    assert list(read.columns) == list(table.columns)
    assert read["reason"][1] == "too few, bits"
    assert read["latency_ms"][0] == 1.0
    assert read["latency_ms"].isna().tolist() == [False, True]
    assert read["trial"].tolist() == [0, FAILED.number], "a trial that only waits has not begun"


def test_without_trials_there_is_still_a_header() -> None:
    text = trials_table([]).to_csv(index=False)
    assert pd.read_csv(io.StringIO(text)).columns[:4].tolist() == ["trial", "state", "stage", "reason"]
    shared = set(trials_table([FAILED]).columns) - {"bits.weights"}
    assert set(trials_table([]).columns) == shared


def test_a_trial_that_was_not_measured_has_no_values() -> None:
    with pytest.raises(ValueError, match="trial 7 is failed and has no measurements"):
        FAILED.values(["size_bytes"])


def test_a_stopped_trial_and_one_that_was_let_through_say_which_gate_and_why() -> None:
    stopped = TrialRecord(0, "stopped", "front", "dominated by trial 2", {}, Candidate(), None, False, 0.5)
    through = replace(make_record(1, 10.0, 1.0, 0.9), stage="size", reason="let through as a test of this gate: large")
    table = trials_table([stopped, through])
    assert table["state"].to_list() == ["stopped", "evaluated"]
    assert table["stage"].to_list() == ["front", "size"]
    assert table["reason"].to_list() == [stopped.reason, through.reason]
    assert table["on_front"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.4, "2.50x faster"), (1.0, "1.00x faster"), (1.3, "1.30x slower"), (4.0, "4.00x slower")]
)
def test_a_file_that_takes_longer_is_slower_in_words(ratio: float, text: str) -> None:
    assert speed_text(ratio) == text
