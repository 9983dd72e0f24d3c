"""A tiny task and study that run in seconds, made-up trials, and the command line inside this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from karui.errors import KaruiError
from karui.evaluators.measurement import Measurement
from karui.search.record import Outcome, TrialRecord
from karui.spaces.candidate import Candidate
from karui.studies.certifying import remeasuring
from karui.studies.cli import main
from karui.studies.workers.pool import Workers

from .postgres import new_database, postgres_server

CLASSES = 4

TASK = '''
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import karui


@dataclass
class Sizes:
    channels: int = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, images):
        return images + self.inner(images)


class Network(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, sizes.channels, 3, padding=1, bias=False), nn.BatchNorm2d(sizes.channels), nn.ReLU()),
            *(nn.Conv2d(sizes.channels, 16, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.blocks = nn.Sequential(Block(), Block())  # what a shallower student has one of
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Linear(64, 4)

    def forward(self, images):
        return self.classifier(torch.flatten(self.pool(self.blocks(self.features(images))), 1))


def split(count, seed):
    """One bright quarter of an 8 x 8 image, under noise that hides it now and then."""
    chance = torch.Generator().manual_seed(seed)
    classes = torch.randint(4, (count,), generator=chance)
    images = 0.9 * torch.randn((count, 1, 8, 8), generator=chance)
    for index, label in enumerate(classes.tolist()):
        row, column = divmod(label, 2)
        images[index, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5
    return TensorDataset(images, classes)


def task_with(**changed):
    torch.manual_seed(0)
    parts = {"model": Network(Sizes()), "train": split(256, 1), "validation": split(128, 2), "test": split(150, 3)}
    return karui.Task(**{**parts, "baseline_epochs": 2, **changed})


def make_task():
    return task_with()


def slow_task():
    def augment(images):
        import time

        time.sleep(0.05)
        return images

    return task_with(augment=augment)
'''

AXES = """
[bits]
weights = [3, 8, 32]
activations = [8, 32]

[sparsity]
removed_channels = [0.0, 0.5]
zeroed_weights = [0.0, 0.5]

[students]
families = ["shallower"]
widths = [0.5]
depths = [0.5, 1.0]

[cells]
nodes = 3
operations = ["skip", "conv1x1", "avgpool3x3"]
channels = [4]
cells_per_stage = [1]

[recovery]
epochs = 1
epochs_from_scratch = 1
batch_size = 32
learning_rate = 0.01
learning_rate_baseline = 0.01

[latency]
max_seconds = 0.05
"""


def write_study(
    folder: Path,
    *,
    name: str = "tiny",
    function: str = "make_task",
    head: str = "",
    axes: str = AXES,
    code: str = "",
    workers: int = 0,
    probed_layers: int = 0,
) -> Path:
    """Write a task file (with more code at its end) and a study file, and return the latter's path.

    Without worker processes, which take seconds to load torch, and without a preflight, which takes seconds of
    measuring, unless a test is about them.
    """
    (folder / f"{name}_task.py").write_text(TASK + code, encoding="utf-8")
    study = folder / f"{name}.toml"
    first = f'task = "{name}_task.py:{function}"\ntrials = 12\nsampler = "random"\nseed = 3\nfollowers = 0\n'
    first += f"workers = {workers}\n"
    last = f"\n[preflight]\nlayers = {probed_layers}\nmax_seconds = 0.02\n"
    study.write_text(first + head + axes + last, encoding="utf-8")
    return study


def make_record(
    number: int, size: float, latency: float, accuracy: float, *, feasible: bool = True, digest: str = "00"
) -> TrialRecord:
    """An evaluated trial with these three values."""
    measurements = {
        "size_bytes": Measurement("size_bytes", size, "bytes"),
        "latency_ratio": Measurement("latency_ratio", latency / 10, "1", 0.01, 20),
        "latency_ms": Measurement("latency_ms", latency, "ms", 0.1, 20),
        "accuracy": Measurement("accuracy", accuracy, "1", 0.02, 100),
    }
    outcome = Outcome(measurements, digest)
    return TrialRecord(number, "evaluated", "", "", {"bits.weights": 4}, Candidate(), outcome, feasible, 1.5)


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path: Path) -> Iterator[None]:
    """Let every test import files of its own by names that others use as well."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True, scope="session")
def _measure_again_here() -> Iterator[None]:
    """Let studies without worker processes measure their fronts again within this process, as where none can be had.

    A new one takes seconds to load torch; :func:`new_process` is for the tests that are about it.
    """

    def begin(size: int, factory: remeasuring.FreshProcess, **options: Any) -> Workers:
        if factory.workbench.spec.workers:
            return Workers(size, factory, **options)
        raise KaruiError("the tests are in a hurry")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remeasuring, "Workers", begin)
        yield


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fronts be measured again in new processes, as they are outside of these tests."""
    monkeypatch.setattr(remeasuring, "Workers", Workers)


Command = Callable[..., Finished]


@pytest.fixture
def karui_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command line here, in an empty folder, and gives exit code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["karui", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r"^\d+$") as ending:
            main()
        captured = capsys.readouterr()
        return Finished(int(ending.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    """Port of a PostgreSQL server on 127.0.0.1; skips where none is installed."""
    with postgres_server() as port:
        yield port


@pytest.fixture
def postgres_url(postgres_port: int) -> str:
    """URL of an empty database."""
    return new_database(postgres_port)
