"""Measuring again: which latencies are repeated and how often, in which process, and what a lost process costs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import karui
from karui.errors import CandidateFailure
from karui.evaluators.measurement import Measurement
from karui.search.executor import InProcess
from karui.search.outcome import Outcome, UnexpectedError
from karui.search.record import TrialRecord
from karui.spaces.artifact import Artifact
from karui.spaces.candidate import Candidate
from karui.studies.certifying.fresh import MOST_AGAIN, undecided
from karui.studies.certifying.remeasuring import ROUNDS, MeasuredAgain, measure_with
from karui.studies.results.tables import TEST_ACCURACY
from karui.studies.study_file.task_loading import load_task
from karui.studies.watching.log import read_log

from .conftest import make_record, write_study

FEW = """
[bits]
weights = [4, 32]
activations = [32]

[latency]
max_seconds = 0.05
"""

FILE = Artifact(Path("unused.onnx"), "00")


class World:
    """Files whose latencies scatter, all of them slower than the search saw them."""

    def __init__(self, latencies: dict[int, float], spread: float = 0.1) -> None:
        self.latencies = latencies
        self.spread = spread
        self.asked: list[int] = []
        self.chance = np.random.default_rng(0)
        self.wanted: list[tuple[TrialRecord, Artifact]] = [
            (replace(make_record(number, 10.0 + number, 1.0, 0.9), candidate=Candidate(weight_bits=2 + number)), FILE)
            for number in latencies
        ]

    def __call__(self, candidate: Candidate, gates: Any = None, /) -> Outcome:
        number = int(candidate.weight_bits) - 2
        self.asked.append(number)
        latency = float(self.chance.normal(self.latencies[number], self.spread / 1.96))
        found = [Measurement("latency_ms", latency, "ms", self.spread, 20)]
        if self.asked.count(number) == 1:
            found.append(Measurement(TEST_ACCURACY, 0.8, "1", 0.01, 150))
        return Outcome({item.name: item for item in found}, "00")

    def measure(self) -> MeasuredAgain:
        return measure_with(InProcess(self), self.wanted, lambda *_, **__: None)


def test_only_latencies_that_decide_are_measured_again() -> None:
    # of 1 it is open whether it is faster than 0, which is smaller; 2 is far away, 3 far ahead
    world = World({0: 5.0, 1: 5.0, 2: 7.0, 3: 2.0})
    again = world.measure()
    assert world.asked[:4] == [0, 1, 2, 3]
    assert set(world.asked[4:]) <= {1}
    assert 1 <= world.asked.count(1) - 1 <= ROUNDS
    found = {fresh.record.number: fresh.measurements for fresh in again.found}
    assert found[1]["latency_ms"].conditions["repeats"] == world.asked.count(1)
    assert found[1]["latency_ms"].count == 20 * world.asked.count(1)
    assert "repeats" not in found[0]["latency_ms"].conditions
    assert found[0]["accuracy"].value == 0.9, "what the search found is still known"
    assert found[0]["latency_ms"].value != 1.0, "but its latency is the new one alone"


def test_where_latency_is_certain_nothing_is_measured_twice() -> None:
    world = World({0: 5.0, 1: 5.0, 2: 4.0}, spread=0.0)
    world.measure()
    assert world.asked == [0, 1, 2]


def test_there_is_a_bound_on_how_many_are_measured_again_the_most_open_first() -> None:
    many = World(dict.fromkeys(range(30), 5.0))
    again = many.measure()
    assert len(many.asked) <= 30 + ROUNDS * MOST_AGAIN
    few = undecided(again.found, most=3)
    assert few == undecided(again.found, most=30)[:3]


@pytest.mark.parametrize(
    "problem", [CandidateFailure("accuracy", "answers with NaN"), UnexpectedError("load", "answers with NaN", "Trace")]
)
def test_what_cannot_be_measured_is_lost_alone(problem: CandidateFailure | UnexpectedError) -> None:
    world = World({0: 5.0, 1: 4.0, 2: 3.0})
    happened: list[dict[str, Any]] = []

    class Unlucky(InProcess):
        def run(self, number: int, *asked: Any) -> Any:
            result = super().run(number, *asked)
            return problem if number == 1 else result

    again = measure_with(Unlucky(world), world.wanted, lambda event, **details: happened.append(details))
    assert [fresh.record.number for fresh in again.found] == [0, 2]
    assert again.lost == {1: "answers with NaN"}
    unexpected = [{"trial": 1, "traceback": "Trace"}] if isinstance(problem, UnexpectedError) else []
    assert happened == unexpected


def test_what_went_wrong_once_for_no_reason_of_the_files_is_tried_again() -> None:
    world = World({0: 5.0, 1: 4.0, 2: 3.0}, spread=0.0)
    faults = iter([UnexpectedError("accuracy", "CUDA out of memory", "", "memory")] * 2)

    class Unlucky(InProcess):
        def run(self, number: int, *asked: Any) -> Any:
            fault = next(faults, None) if number == 1 else None
            return fault or super().run(number, *asked)

    again = measure_with(Unlucky(world), world.wanted, lambda *_, **__: None)
    assert [fresh.record.number for fresh in again.found] == [0, 1, 2]
    assert not again.lost


@pytest.mark.parametrize(
    ("seconds", "files", "rounds"), [(1e9, 4, 2), (4.5, 4, 0), (5.5, 4, 1), (2.5, 2, 0), (-5.0, 1, 0)]
)
def test_measuring_again_is_cut_down_to_the_time_that_is_left(seconds: float, files: int, rounds: int) -> None:
    world = World({0: 5.0, 1: 5.0, 2: 7.0, 3: 2.0}, spread=0.1)

    def left() -> float:
        return seconds - len(world.asked)  # a second each

    again = measure_with(InProcess(world), world.wanted, lambda *_, **__: None, left=left)
    assert [fresh.record.number for fresh in again.found] == list(range(files))
    assert again.late == tuple(range(files, 4))
    assert len(world.asked) - files <= rounds
    assert len(world.asked) <= max(1, seconds)


# --- real studies -----------------------------------------------------------------------------------------------------

WATCHED = """

def watched():
    import os

    def metric(outputs, targets):
        if len(targets) == 150:  # the test split
            with open(DIARY, "a") as diary:
                diary.write(f"{os.getpid()}\\n")
        return float((outputs.argmax(1) == targets).float().mean())

    return task_with(metric=metric)


def dying():
    import os

    task = watched()

    def metric(outputs, targets):
        value = task.metric(outputs, targets)
        if len(targets) == 150 and str(os.getpid()) != PARENT and not os.path.exists(DIARY + ".died"):
            open(DIARY + ".died", "w").close()
            os.kill(os.getpid(), 9)
        return value

    return task_with(metric=metric)
"""


def study_that_tells(folder: Path, function: str) -> Path:
    code = WATCHED.replace("DIARY", repr(str(folder / "diary"))).replace("PARENT", repr(str(os.getpid())))
    return write_study(folder, axes=FEW, function=function, code=code)


def processes(folder: Path) -> set[int]:
    return {int(line) for line in (folder / "diary").read_text().split()}


def test_a_front_is_measured_again_in_a_new_process(tmp_path: Path, new_process: None) -> None:
    result = karui.run_study(study_that_tells(tmp_path, "watched"), out=tmp_path / "results", workers=0)
    seen = processes(tmp_path)
    assert os.getpid() in seen, "which measures the baseline"
    assert len(seen) == 2
    assert result.certification is not None
    assert result.certification.same_process == ""
    assert len(result.front) >= 1
    assert (result.front["test_accuracy_count"] == 150).all()


@pytest.mark.slow
def test_a_process_that_dies_costs_the_file_that_it_measured(tmp_path: Path, new_process: None) -> None:
    folder = tmp_path / "results"
    result = karui.run_study(study_that_tells(tmp_path, "dying"), out=folder, workers=0)
    on_front = set(result.trials["trial"][result.trials["on_front"]])
    assert len(processes(tmp_path)) == 3
    (lost,) = result.certification.lost if result.certification else ()
    assert "fell off when it was measured again: its worker process was killed by SIGKILL" in lost
    assert lost in result.ending
    assert len(on_front - set(result.front["trial"])) == 1
    assert pd.read_csv(folder / "front.csv")["trial"].to_list() == result.front["trial"].to_list()
    assert read_log(folder / "log.jsonl")[-1]["event"] == "search ended"


def test_a_task_that_is_an_object_is_measured_again_where_it_is(tmp_path: Path, new_process: None) -> None:
    study = study_that_tells(tmp_path, "watched")
    task = load_task("tiny_task.py:watched", tmp_path, {})
    result = karui.run_study(study, task=task, out=tmp_path / "results")
    assert processes(tmp_path) == {os.getpid()}
    kept = json.loads((tmp_path / "results" / "certification.json").read_text())
    assert "the task is an object" in kept["same_process"]
    assert result.certification is not None
    assert kept["marks"] == dict(result.certification.marks)


def test_where_no_process_can_be_had_the_search_measures_by_itself(tmp_path: Path) -> None:
    karui.run_study(study_that_tells(tmp_path, "watched"), out=tmp_path / "results", workers=0)
    assert processes(tmp_path) == {os.getpid()}
    kept = json.loads((tmp_path / "results" / "certification.json").read_text())
    assert kept["same_process"].startswith("a new process could not be had: ")
