"""One small but real study of cells that take their weights from one supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
import pytest

import karui
from karui.search.record import read_records
from karui.spaces.axes.cells.choice import CellNetwork
from karui.studies.run import StudyResult
from karui.studies.study_file.task_loading import load_task

from .conftest import write_study

AXES = """
[gates]
stop_at = []

[cells]
nodes = 3
operations = ["none", "skip", "conv1x1"]
channels = [4]
cells_per_stage = [1]
weights = "supernet"

[recovery]
epochs = 2
epochs_from_scratch = 30
epochs_supernet = 2
batch_size = 32
learning_rate_baseline = 0.01

[latency]
max_seconds = 0.05
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), name="cells", axes=AXES)


@pytest.fixture(scope="module")
def result(study: Path) -> StudyResult:
    return karui.run_study(study, out=study.parent / "results", trials=8)


def test_every_cell_comes_from_one_supernet_and_recovers_as_from_trained_weights(result: StudyResult) -> None:
    stored = optuna.load_study(study_name="cells", storage=f"sqlite:///{result.folder / 'study.db'}")
    outcomes = [
        record.outcome
        for record in read_records(stored)
        if record.outcome and record.candidate and isinstance(record.candidate.architecture, CellNetwork)
    ]
    assert len(outcomes) >= 3
    for outcome in outcomes:
        assert [(curve.kind, curve.epochs, len(curve.metrics)) for curve in outcome.curves] == [("warm", 2, 2)]
    entries = result.folder.parent / "karui-cache" / "entries"
    assert len(list(entries.glob("supernet-*/supernet.safetensors"))) == 1
    assert "failed" not in set(result.trials["state"])


def test_accuracy_is_that_of_the_file(result: StudyResult, study: Path) -> None:
    split: Any = load_task("cells_task.py:make_task", study.parent, {}).validation
    images, labels = split.tensors
    for _, row in result.trials[result.trials["state"] == "evaluated"].iterrows():
        path = result.folder / "build" / "files" / f"{row['key']}.onnx"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        answers = [session.run(None, {name: image[None].numpy()})[0].argmax() for image in images]
        assert float(np.mean(np.array(answers) == labels.numpy())) == pytest.approx(row["accuracy"])
