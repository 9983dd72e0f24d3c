"""The baseline's file that a study began with stays its baseline for as long as it computes what the model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.artifact import EXPORTED_ANEW, file_digest
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.format import ONNX
from karui.spaces.formats.onnx.onnx_file import run_in_batches
from karui.spaces.task import Task


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    split = TensorDataset(torch.randn(16, 4), torch.arange(16) % 3)
    return Task(model=network, train=split, validation=split, test=split)


def otherwise(network: nn.Module, example: Tensor, path: Path) -> None:
    """Export as another version might: the same numbers by one operator more."""
    export_onnx(network, example, path)
    model = onnx.load(path)
    (output,) = model.graph.output
    model.graph.node.append(onnx.helper.make_node("Identity", [output.name], ["told"]))
    output.name = "told"
    onnx.save(model, path)


def test_an_earlier_export_stays_where_it_computes_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = prepare_baseline(task, BuildSettings(), tmp_path)
    monkeypatch.setattr(ONNX, "export", otherwise)
    told: list[str] = []
    found = prepare_baseline(task, BuildSettings(), tmp_path, began_with=begun.digest, note=told.append)
    assert found == begun
    assert file_digest(begun.path) == begun.digest
    assert len(told) == 1
    assert "exported otherwise now than when this study began, and computes the same" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.onnx"]
    assert prepare_baseline(task, BuildSettings(), tmp_path).digest != begun.digest, "a new study takes the new export"


@pytest.mark.parametrize("change", [1e-2, 1e-4])
def test_another_model_is_another_file_and_the_study_keeps_its_own(task: Task, tmp_path: Path, change: float) -> None:
    begun = prepare_baseline(task, BuildSettings(), tmp_path)
    with torch.no_grad():
        task.model[2].bias[1] += change  # type: ignore[index]
    told: list[str] = []
    found = prepare_baseline(task, BuildSettings(), tmp_path, began_with=begun.digest, note=told.append)
    assert found.digest != begun.digest
    assert found.path.name == EXPORTED_ANEW
    assert file_digest(begun.path) == begun.digest, "it may be gone on with once the model is restored"
    assert not told


def test_where_that_file_is_gone_the_new_one_takes_its_place(task: Task, tmp_path: Path) -> None:
    found = prepare_baseline(task, BuildSettings(), tmp_path, began_with="0" * 64)
    assert found.path == tmp_path / "baseline.onnx"


def test_answers_that_are_no_number_in_both_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return nn.functional.normalize(inputs, dim=1, eps=0.0)

    split = TensorDataset(torch.randn(16, 4), torch.arange(16) % 4)
    task = Task(model=Scaled(), train=split, validation=split, test=split)
    begun = prepare_baseline(task, BuildSettings(), tmp_path)
    assert np.isnan(run_in_batches(onnx.load(begun.path), np.zeros((1, 4), np.float32), 1)).all()
    monkeypatch.setattr(ONNX, "export", otherwise)
    assert prepare_baseline(task, BuildSettings(), tmp_path, began_with=begun.digest) == begun
