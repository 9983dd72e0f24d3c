"""A study whose front is trained anew at its end: in trials.csv, on the front, in the log and in what is shown."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from rich.console import Console

import karui
from karui.search.promotion import MOST_WITHIN_NOISE
from karui.search.record import TrialRecord, read_records
from karui.spaces.artifact import file_digest
from karui.studies.watching.log import read_log
from karui.studies.watching.progress import ProgressView

from .conftest import write_study

AXES = """
[sparsity]
removed_channels = [0.0, 0.5]
zeroed_weights = [0.0]
[bits]
weights = [8, 32]
activations = [32]
[recovery]
epochs = 1
final_factor = 2
batch_size = 32
channel_multiple = 1
[latency]
max_seconds = 0.05
"""
TRIALS = 4


class Finished:
    """The study searched once, and once more with the same budget."""

    def __init__(self, folder: Path) -> None:
        study = write_study(folder, axes=AXES)
        self.folder = folder / "results"
        view = ProgressView(Console(file=io.StringIO(), width=300, _environ={}))
        self.result = karui.run_study(study, out=self.folder, trials=TRIALS, watcher=view)
        self.front, self.trials = self.result.front, self.result.trials
        assert isinstance(view._console.file, io.StringIO)
        self.said = view._console.file.getvalue()
        self.again = karui.run_study(study, out=self.folder, trials=TRIALS)

    @property
    def records(self) -> list[TrialRecord]:
        study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{self.folder / 'study.db'}")
        return [record for record in read_records(study) if record.outcome]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("promoted"))


def front_of(table: pd.DataFrame) -> set[int]:
    """The trials that no other one dominates, and whose twin of twice the epochs is not as good."""
    rows = [row for row in table.to_dict("records") if row["state"] == "evaluated" and row["feasible"]]
    accuracies = {row["candidate"]: row["accuracy"] for row in rows}
    points = {
        int(row["trial"]): (row["size_bytes"], row["latency_ms"], -row["accuracy"])
        for row in rows
        if accuracies.get(f"{row['candidate']}, 2x epochs", -1.0) < row["accuracy"]
    }
    beaten = {
        trial
        for trial, point in points.items()
        for other in points.values()
        if other != point and all(a <= b for a, b in zip(other, point, strict=True))
    }
    return set(points) - beaten


def test_the_trained_ones_of_the_front_are_there_a_second_time(finished: Finished) -> None:
    table = finished.trials[finished.trials["state"] == "evaluated"]
    longer = table["candidate"].str.endswith(", 2x epochs")
    short = table[~longer]
    assert len(short) == TRIALS, "promotion comes on top of the budget"
    promoted = short[short["trial"].isin(front_of(short)) & (short["sparsity.removed_channels"] > 0)]
    assert len(promoted) > 0
    twins = set(promoted["candidate"] + ", 2x epochs")
    assert twins <= set(table[longer]["candidate"])
    assert table[longer]["key"].nunique() == len(table[longer])
    within_noise = set(table[longer]["candidate"]) - twins
    assert within_noise <= set(short["candidate"] + ", 2x epochs")
    assert len(within_noise) <= MOST_WITHIN_NOISE
    assert (f"({len(within_noise)} within noise)" in finished.result.ending) == bool(within_noise)


def test_they_are_trained_for_twice_the_epochs_and_each_network_once(finished: Finished) -> None:
    trained = [record for record in finished.records if record.outcome and record.outcome.curves]
    lengths = [
        (record.is_promoted, curve.epochs, len(curve.metrics))
        for record in trained
        if record.outcome
        for curve in record.outcome.curves
    ]
    assert set(lengths) == {(False, 1, 1), (True, 2, 2)}
    networks = [(record.parameters["sparsity.removed_channels"], record.is_promoted) for record in trained]
    assert len(networks) == len(set(networks))


def test_the_front_is_that_of_all_and_its_files_say_how_they_were_trained(finished: Finished) -> None:
    assert set(finished.trials["trial"][finished.trials["on_front"]]) == front_of(finished.trials)
    assert front_of(finished.trials) <= set(finished.front["trial"])
    for row in finished.front.to_dict("records"):
        file = finished.folder / "front" / f"{row['point']}-{row['key']}"
        described = json.loads(file.with_suffix(".json").read_text())
        factor: Any = described["candidate"].get("epochs_factor", 1)
        assert factor == (2 if row["candidate"].endswith(", 2x epochs") else 1)
        assert file_digest(file.with_suffix(".onnx")) == finished.trials.set_index("trial").loc[row["trial"], "sha256"]


def test_the_log_and_the_screen_tell_of_it(finished: Finished) -> None:
    (begun,) = [event for event in read_log(finished.folder / "log.jsonl") if event["event"] == "promotion begun"]
    count = int(finished.trials["candidate"].str.endswith(", 2x epochs").sum())
    assert (begun["candidates"], begun["epochs_factor"]) == (count, 2)
    candidates = "1 candidate" if count == 1 else f"{count} candidates"
    ending = re.sub(r" \(\d within noise\)", "", finished.result.ending)
    assert f"{candidates} of the front trained anew for 2 times the epochs" in ending
    assert f"promoting the front: {candidates}, trained anew for 2 times the epochs" in finished.said
    assert f"[promoted {count}/{count}] trial" in finished.said
    assert f"[{TRIALS}/{TRIALS}] trial" in finished.said
    assert f"[{TRIALS + 1}/{TRIALS}] trial" not in finished.said


def test_the_same_command_again_has_nothing_to_do(finished: Finished) -> None:
    assert finished.again.ending == "all trials are done"
    pd.testing.assert_frame_equal(finished.again.trials, finished.trials)
