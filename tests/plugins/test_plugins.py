"""A package that is not karui's adds an axis, a kind of target and something to measure, through a whole search."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

HERE = Path(__file__).parent
TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
import karui


def make_task():
    torch.manual_seed(0)
    images = torch.randn(120, 1, 8, 8)
    samples = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return karui.Task(nn.Sequential(*layers, nn.Linear(16, 2)), samples, samples, samples)
"""
STUDY = """
task = "added_task.py:make_task"
trials = 6
workers = {workers}
further_objectives = ["operators"]
[bits]
weights = [8, 32]
activations = [32]
[activations]
functions = ["relu", "hardswish", "silu"]
[[target]]
name = "counter"
kind = "counting"
options = {{ bytes_per_ms = 500.0 }}
[bounds]
max_operators = {most}
[recovery]
epochs = 1
[preflight]
layers = 0
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is what pip would leave of it, told by its own pyproject.toml."""
    folder = tmp_path_factory.mktemp("installed")
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    described = folder / "karui_extras-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    (described / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / "karui_extras").symlink_to(HERE / "karui_extras", target_is_directory=True)
    return folder


def karui(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_python(installed, folder, "from karui.studies.cli import main; main()", *words)


def run_python(installed: Path, folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(installed), str(HERE.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_study(folder: Path, workers: int = 0, most: int = 1_000) -> None:
    (folder / "added_task.py").write_text(TASK, encoding="utf-8")
    (folder / "added.toml").write_text(STUDY.format(workers=workers, most=most), encoding="utf-8")


def test_a_whole_search_with_report_and_pick(installed: Path, tmp_path: Path) -> None:
    """Candidates are made and measured in a worker process, which has to see by itself what is installed."""
    write_study(tmp_path, workers=1)
    ran = karui(installed, tmp_path, "search", "added.toml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = tmp_path / "runs" / "added"
    trials = [row for row in rows_of(results / "trials.csv") if row["state"] == "evaluated"]
    assert {row["activation.function"] for row in trials} >= {"hardswish", "silu"}
    for row in trials:
        assert (row["activation.function"] in row["candidate"]) == (row["activation.function"] != "relu")
        # bytes by the target's own law: none of karui's targets has been timed
        assert float(row["latency_ms"]) == pytest.approx(float(row["size_bytes"]) / 500, rel=1e-6)
    front = rows_of(results / "front.csv")
    assert all(float(row["operator_count"]) > 0 for row in front)

    found = karui(installed, tmp_path, "report", "runs/added")
    assert found.returncode == 0, found.stdout + found.stderr
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "other activation functions" in page
    assert "Operators" in page

    picked = karui(installed, tmp_path, "pick", "runs/added", "--max-size", "1MB")
    assert picked.returncode == 0, picked.stdout + picked.stderr
    for row in front:
        operators = {node.op_type for node in onnx.load(results / row["file"]).graph.node}
        swapped = "hardswish" in row["candidate"] or "silu" in row["candidate"]
        assert ("Relu" in operators) != swapped
    assert any(row["candidate"] in picked.stdout for row in front)


def test_its_keys_are_checked(installed: Path, tmp_path: Path) -> None:
    write_study(tmp_path)
    code = """
import sys
from karui.errors import StudyFileError
from karui.studies.study_file.spec_reading import load_spec
text = open("added.toml").read()
for old, new in (('"silu"', '"swish"'), ("max_operators = 1000", "max_operators = '1KB'"), ("bytes_per", "pages_per")):
    open("added.toml", "w").write(text.replace(old, new))
    try:
        for target in load_spec("added.toml").target:
            target.open(1, "", "onnxruntime", None, print)
    except StudyFileError as error:
        print(error)
"""
    told = run_python(installed, tmp_path, code).stdout
    for place in ("activations.functions[2]", "bounds.max_operators", "target.options"):
        assert place in told
    assert "bytes_per_ms" in told


def test_without_the_package_its_section_is_unknown(tmp_path: Path) -> None:
    write_study(tmp_path)
    refused = karui(tmp_path, tmp_path, "search", "added.toml")
    assert refused.returncode == 2
    assert "unknown key" in refused.stderr


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    described = tmp_path / "broken-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[karui.axes]\nbroken = no_such_module:Axis\n")
    write_study(tmp_path)
    refused = karui(tmp_path, tmp_path, "search", "added.toml")
    assert refused.returncode == 2, refused.stderr
    assert "package broken" in refused.stderr


RUNTIME_STUDY = """
task = "added_task.py:make_task"
trials = 2
workers = 0
[bits]
weights = [4, 32]
activations = [32]
[latency]
runtime = "{runtime}"
max_seconds = 0.02
[recovery]
epochs = 1
[preflight]
layers = 0
"""


def test_a_runtime_answers_and_is_timed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "added_task.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "added.toml").write_text(RUNTIME_STUDY.format(runtime="reference"), encoding="utf-8")
    ran = karui(installed, tmp_path, "search", "added.toml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = tmp_path / "runs" / "added"
    names: dict[str, Any] = {}
    exec(TASK, names)
    task = names["make_task"]()
    inputs, targets = task.test.tensors
    with torch.no_grad():
        right = (task.model(inputs).argmax(1) == targets).double().mean().item()
    tried = [row for row in rows_of(results / "trials.csv") if row["state"] == "evaluated"]
    (plain,) = [row for row in tried if row["candidate"] == "baseline, float32"]
    assert float(plain["accuracy"]) == pytest.approx(right)
    for row in rows_of(results / "front.csv"):
        assert '"runtime": "reference"' in (results / row["file"]).with_suffix(".json").read_text(encoding="utf-8")


def test_a_runtime_that_cannot_read_the_files_is_refused(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "added_task.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "added.toml").write_text(RUNTIME_STUDY.format(runtime="paper"), encoding="utf-8")
    refused = karui(installed, tmp_path, "search", "added.toml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "runtime in [latency]" in refused.stderr
    assert "one that reads onnx: onnxruntime, openvino, reference" in refused.stderr
    assert "paper, which reads paper" in refused.stderr
    assert not list((tmp_path / "runs").rglob("*.onnx")), "nothing was made"
