"""A model made light in one call, and what can be done with the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import karui

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
