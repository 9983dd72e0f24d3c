"""A study goes on where its model is exported otherwise than when it began, and is refused where that is another."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import karui
from karui.errors import KaruiError
from karui.spaces.artifact import file_digest
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.format import ONNX
from karui.studies.storage.store import open_study
from karui.studies.study_file.spec import StudySpec
from karui.studies.watching.watcher import Watcher


def otherwise(network: nn.Module, example: Tensor, path: Path) -> None:
    """Export as another version might: the same numbers in another file."""
    export_onnx(network, example, path)
    model = onnx.load(path)
    model.doc_string = "of another version"
    onnx.save(model, path)


class Notes(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def task_of(seed: int) -> karui.Task:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    torch.manual_seed(0)
    split = TensorDataset(torch.randn(24, 4), torch.arange(24) % 3)
    return karui.Task(model=network, train=split, validation=split, test=split)


@pytest.mark.slow
def test_a_study_goes_on_with_the_file_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StudySpec(
        name="s", trials=1, workers=0, bits={"weights": [4, 8], "activations": [32]},
        latency={"max_seconds": 0.02}, preflight={"layers": 0}, cache={"folder": str(tmp_path / "cache")},
    )  # fmt: skip
    out, kept = tmp_path / "out", tmp_path / "out" / "baseline.onnx"
    karui.run_study(spec, task=task_of(0), out=out)
    digest = file_digest(kept)
    monkeypatch.setattr(ONNX, "export", otherwise)
    watcher = Notes()
    more = karui.run_study(spec, task=task_of(0), out=out, trials=2, watcher=watcher)
    assert (more.trials["state"] == "evaluated").sum() == 2
    assert file_digest(kept) == digest
    assert any("exported otherwise now" in told for told in watcher.told)
    with pytest.raises(KaruiError, match=r"not the one that this study began with\n(?s:.*)which answers otherwise"):
        karui.run_study(spec, task=task_of(1), out=out, trials=3)
    assert sorted(path.name for path in out.glob("*.onnx")) == ["baseline.onnx"]
    kept.unlink()
    version = rf"or karui \S+ exports it otherwise than karui {karui.__version__} did"
    with pytest.raises(KaruiError, match=rf"{version}(?s:.*)or the baseline.onnx of then, go on with karui"):
        karui.run_study(spec, task=task_of(0), out=out, trials=3)
    assert open_study(f"sqlite:///{out / 'study.db'}", "s", create=False).user_attrs["baseline_digest"] == digest
