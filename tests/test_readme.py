"""The Python of the READMEs runs as it stands, with a small model, and with fewer trials."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

ROOT = Path(__file__).parents[1]

STUDY = """
task = "mymodel_task.py:make_task"
workers = 0
followers = 0

[bits]
weights = [8, 16]
activations = [32]

[preflight]
layers = 0

[latency]
max_seconds = 0.05
"""


def split(count: int, seed: int) -> TensorDataset:
    """Points of the plane, and whether they lie right of the origin."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(points, (points[:, 0] > 0).long())


def blocks_of(page: str) -> list[str]:
    """Return the blocks of Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def without_comments(code: str) -> list[str]:
    return [stripped for line in code.splitlines() if (stripped := line.partition("#")[0].rstrip())]


def test_both_readmes_have_the_same_python() -> None:
    english, japanese = (list(map(without_comments, blocks_of(page))) for page in ("README.md", "README.ja.md"))
    assert english
    assert english == japanese


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    layers = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)]
    network = nn.Sequential(*layers).eval()
    names = {"model": network, "my_trained_network": lambda: network}
    names |= {f"{name}_set": split(64, seed) for seed, name in enumerate(("train", "validation", "test"))}
    torch.save(network, "network.pt")
    torch.save({name: names[f"{name}_set"].tensors for name in ("train", "validation", "test")}, "data.pt")  # type: ignore[attr-defined]
    (tmp_path / "mymodel.toml").write_text(STUDY, encoding="utf-8")
    first, *_ = blocks = blocks_of("README.md")
    (tmp_path / "mymodel_task.py").write_text(LOADED + first, encoding="utf-8")
    for block in blocks:
        code = re.sub(r"\btrials=\d+", "trials=4", block).replace("n_trials=50", "n_trials=2")
        exec(compile(code, "README.md", "exec"), names)
        if "load_front" in block:
            assert list(names["front"]["point"]) == list(names["result"].front["point"])  # type: ignore[index,attr-defined]
        if "study.optimize" in block:
            assert len(names["study"].trials) == 2  # type: ignore[attr-defined]
    plt.close("all")
    assert (tmp_path / "deploy" / "model.onnx").is_file()
    trials = names["study"].trials  # type: ignore[attr-defined]
    assert [trial.number for trial in trials] == list(names["result"].trials["trial"])  # type: ignore[attr-defined]


LOADED = """
import torch
from torch.utils.data import TensorDataset

splits = {name: TensorDataset(*tensors) for name, tensors in torch.load("data.pt").items()}
train_set, validation_set, test_set = splits["train"], splits["validation"], splits["test"]


def my_trained_network():
    return torch.load("network.pt", weights_only=False)


"""
"""What the task file has beside the README's function."""
