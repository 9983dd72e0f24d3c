"""One small but real study with early exits: its files, their latency over inputs, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest

import karui
from karui.studies.run import StudyResult
from karui.studies.study_file.task_loading import load_task

from .conftest import Command, write_study

AXES = """
[bits]
weights = [4, 32]
activations = [8]

[exits]
depths = [0.0, 0.5]
thresholds = [0.5, 0.9]

[latency]
max_seconds = 0.05
"""
VALIDATION, TEST = 128, 150
"""Samples of the task's splits."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), name="early", axes=AXES)


@pytest.fixture(scope="module")
def result(study: Path) -> StudyResult:
    return karui.run_study(study, out=study.parent / "results")


def split_of(study: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    split: Any = getattr(load_task("early_task.py:make_task", study.parent, {}), name)
    return split.tensors[0].numpy(), split.tensors[1].numpy()


def accuracy_of(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Run the file over the split, one image at a time, with nothing but onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: images[row : row + 1]})[0].argmax() for row in range(len(images))]
    return float((np.array(answers) == labels).mean())


def test_every_choice_of_bits_and_exits_is_evaluated(result: StudyResult) -> None:
    assert result.ending == "every candidate of the space has been tried"
    evaluated = result.trials[result.trials["state"] == "evaluated"]
    found = {tuple(row) for row in evaluated[["bits.weights", "exit.depth", "exit.threshold"]].fillna(0.0).to_numpy()}
    exits = ((0.0, 0.0), (0.5, 0.5), (0.5, 0.9))
    assert found == {(bits, *way) for bits in (4, 32) for way in exits}
    assert set(result.trials["state"]) <= {"evaluated", "duplicate"}


def test_files_have_an_exit_where_the_candidate_has_one(result: StudyResult, study: Path) -> None:
    images, labels = split_of(study, "validation")
    evaluated = result.trials[result.trials["state"] == "evaluated"]
    assert len(evaluated) == 6
    for _, row in evaluated.iterrows():
        path = result.folder / "build" / "files" / f"{row['key']}.onnx"
        early = row["exit.depth"] > 0
        assert any(node.op_type == "If" for node in onnx.load(path).graph.node) == early
        assert (", exit 0.5 > " in row["candidate"]) == early
        assert (row["seconds_exit"] > 0) == early, "the time of the stage is missing where there is none"
        assert row["accuracy"] == pytest.approx(accuracy_of(path, images, labels))


def test_every_latency_is_measured_over_the_same_inputs(result: StudyResult) -> None:
    evaluated = result.trials[result.trials["state"] == "evaluated"]
    for name in ("latency_ratio", "latency_ms", "latency_p95_ratio"):
        assert (evaluated[f"{name}_count"] == VALIDATION).all()
        # Some are timed a second or third time, where that decides who belongs to the front.
        assert (result.front[f"{name}_count"] % TEST == 0).all()
        assert (evaluated[name] > 0).all()
    baseline = result.baseline["latency_ms"]
    assert (baseline.conditions["split"], baseline.conditions["inputs"]) == ("validation", VALIDATION)
    assert result.front["latency_ms"].to_list() == pytest.approx(
        (result.front["latency_ratio"] * baseline.value).to_list()
    )


def test_the_front_is_measured_again_on_test_inputs(result: StudyResult, study: Path) -> None:
    images, labels = split_of(study, "test")
    for _, row in result.front.iterrows():
        path = result.folder / row["file"]
        assert row["test_accuracy"] == pytest.approx(accuracy_of(path, images, labels))
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        tail = described["measurements"]["latency_p95_ratio"]
        assert tail["value"] == pytest.approx(row["latency_p95_ratio"])
        assert (tail["conditions"]["split"], tail["conditions"]["inputs"]) == ("test", TEST)
        assert tail["conditions"]["passes"] >= 4


def test_an_exported_file_with_an_exit_says_how_it_is_used(
    result: StudyResult, tmp_path: Path, karui_command: Command
) -> None:
    early = result.front[result.front["exit.depth"] > 0]
    chosen = early.iloc[0] if len(early) else result.front.iloc[0]
    bundle = tmp_path / "bundle"
    picked = karui_command(
        "pick", result.folder, "--max-size", str(chosen["size_bytes"]), "--prefer", "accuracy", "--export", bundle
    )
    assert (picked.code, picked.err) == (0, "")
    assert "95th percentile over inputs" in picked.out
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    described = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    assert f"means over {TEST} inputs of the test split" in card
    assert f"model's | {described['measurements']['latency_p95_ratio']['value']:.2f} |" in card
    assert ("one at a time" in card) == ("exit_depth" in described["candidate"])
    ran = subprocess.run([sys.executable, "run.py"], check=True, cwd=bundle, capture_output=True, text=True)
    assert "outputs are as expected" in ran.stdout


def test_the_same_study_goes_on_and_finds_nothing_new(result: StudyResult, study: Path) -> None:
    again = karui.run_study(study, out=result.folder)
    pd.testing.assert_series_equal(
        again.trials[again.trials["state"] == "evaluated"]["sha256"],
        result.trials[result.trials["state"] == "evaluated"]["sha256"],
    )
