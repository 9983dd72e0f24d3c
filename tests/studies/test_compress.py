"""A model made light in one call, and what can be done with the result."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import karui
from karui.studies.bundle.verify import verify_bundle

FEW = 2


def _split(count: int, seed: int) -> TensorDataset:
    """Points of the plane, and whether they lie right of the origin."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(points, (points[:, 0] > 0).long())


def _right_of_origin() -> nn.Module:
    """A network that needs no training: the class is by the sign of the first coordinate."""
    first, last = nn.Linear(2, 64), nn.Linear(64, 2)
    with torch.no_grad():
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.zero_()
        first.weight[:32, 0], first.weight[32:, 0] = 1.0, -1.0
        last.weight[1, :32], last.weight[0, 32:] = 1.0, 1.0
    return nn.Sequential(first, nn.ReLU(), last).eval()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> karui.StudyResult:
    return karui.compress(
        _right_of_origin(),
        *(_split(count, seed) for seed, count in enumerate((64, 64, 50))),
        trials=FEW,
        axes=[karui.BitsAxis(weights=(8, 16), activations=(32,))],
        out=tmp_path_factory.mktemp("compressed") / "out",
    )


def test_the_front_holds_right_files(result: karui.StudyResult) -> None:
    assert len(result.front) >= 1
    assert result.trials["state"].eq("evaluated").sum() == FEW
    assert result.baseline["accuracy"].value == 1.0
    assert result.front["test_accuracy"].max() == 1.0


def test_a_result_is_picked_from_read_and_drawn(result: karui.StudyResult, tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(karui.load_front(result), karui.load_front(result.folder))
    row = karui.pick(result, prefer="size", export=tmp_path / "deploy")
    assert row["size_bytes"] == result.front["size_bytes"].min()
    assert (tmp_path / "deploy" / "model.onnx").stat().st_size == row["size_bytes"]
    with pytest.raises(karui.NothingFits):
        karui.pick(result, max_size=1)


@dataclass
class Answer:
    """What a network of two inputs gives."""

    logits: Tensor
    loss: Tensor | None = None


class LargerOfTwo(nn.Module):
    """Says which of two numbers is the larger one, without training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 32, bias=False), nn.Linear(1, 32, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.constant_(self.second.weight, -1.0)
        self.last = nn.Linear(32, 2, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 32))

    def forward(self, one: Tensor, other: Tensor) -> Answer:
        return Answer(self.last(self.first(one) + self.second(other)))


class Numbers(Dataset[dict[str, Tensor]]):
    """Dicts that hold the targets among the inputs: which of the two numbers is larger."""

    def __init__(self, count: int, seed: int) -> None:
        self.pairs = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        one, other = self.pairs[index, :1], self.pairs[index, 1:]
        return {"other": other, "one": one, "larger": (other > one).long()[0]}


def _share_right(outputs: Answer, larger: Tensor) -> float:
    return float((outputs.logits.argmax(1) == larger).float().mean())


@pytest.mark.filterwarnings("ignore:Task")
def test_a_model_of_two_inputs_goes_all_the_way_to_a_device(tmp_path: Path) -> None:
    result = karui.compress(
        LargerOfTwo().eval(),
        *(Numbers(count, seed) for seed, count in enumerate((64, 64, 50))),  # type: ignore[arg-type]
        targets="larger",
        loss=lambda outputs, larger: nn.functional.cross_entropy(outputs.logits, larger),
        metric=_share_right,
        distillation="none",
        trials=1,
        axes=[karui.BitsAxis(weights=(8,), activations=(32,))],
        out=tmp_path / "out",
    )
    assert result.front["mark"].tolist() == ["holds"]
    assert result.front["test_accuracy"].tolist() == [1.0]
    karui.pick(result, export=tmp_path / "deploy")
    session = onnxruntime.InferenceSession(tmp_path / "deploy" / "model.onnx")
    assert {each.name for each in session.get_inputs()} == {"one", "other"}
    one, other = (np.array(each, np.float32) for each in ([[3.0], [-1.0]], [[2.0], [5.0]]))
    (logits,) = session.run(["logits"], {"one": one, "other": other})
    np.testing.assert_allclose(logits, 32 * (one - other) * np.array([[1.0, -1.0]]), rtol=0.02)
    ran = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path / "deploy", check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    checks = {check.name: check.verdict for check in verify_bundle(tmp_path / "deploy").checks}
    assert all(verdict == "kept" for name, verdict in checks.items() if name != "latency"), checks


def test_the_same_call_goes_on(result: karui.StudyResult) -> None:
    again = karui.compress(
        _right_of_origin(),
        *(_split(count, seed) for seed, count in enumerate((64, 64, 50))),
        trials=FEW,
        axes=[karui.BitsAxis(weights=(8, 16), activations=(32,))],
        out=result.folder,
    )
    assert again.trials["trial"].tolist() == result.trials["trial"].tolist()


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"axes": [8]}, "axes"),
        ({"axes": [karui.BitsAxis(), karui.BitsAxis()]}, "axes"),
        ({"max_size": "light"}, "max_size"),
        ({"trials": 0}, "trials"),
        ({"metric": "accuracy"}, "metric"),
        ({"model": object()}, "model"),
    ],
)
def test_what_has_no_meaning_is_told_before_anything_is_made(
    options: dict[str, Any], where: str, tmp_path: Path
) -> None:
    splits = {name: _split(8, 0) for name in ("train", "validation", "test")}
    with pytest.raises(karui.KaruiError) as told:
        karui.compress(**{"model": _right_of_origin(), **splits, "out": tmp_path / "out", **options})
    assert where in str(told.value.where)
    assert not (tmp_path / "out").exists()


def test_a_watcher_overrides_what_it_wants_to_know(tmp_path: Path) -> None:
    class Count(karui.Watcher):
        ended_trials = 0

        def ended(self, record: Any) -> None:
            self.ended_trials += 1

    watcher = Count()
    data = [_split(16, seed) for seed in range(3)]
    task = karui.Task(_right_of_origin(), train=data[0], validation=data[1], test=data[2])
    axis = karui.BitsAxis(weights=(16,), activations=(32,))
    spec = karui.StudySpec(name="counted", trials=1, bits=axis, preflight={"layers": 0}, latency={"max_seconds": 0.05})
    karui.run_study(spec, task=task, out=tmp_path / "out", watcher=watcher)
    assert watcher.ended_trials >= 1
