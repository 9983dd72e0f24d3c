"""The network that a candidate starts from: what of it is the baseline's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from karui.spaces.axes.students.choice import Student
from karui.spaces.axes.students.families import build_family
from karui.spaces.axes.supernet.shared_axes import SharingAxes
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import NetworkFactory
from karui.spaces.building.stage_cache import StageCache
from karui.spaces.candidate import Candidate
from karui.spaces.task import Task

FAMILY, WIDTH = "resnet18", 0.125


def family(name: str, width: float, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_family(name, width=width, input_shape=(1, 8, 8), outputs=3)


@pytest.fixture
def baseline() -> nn.Module:
    network = family(FAMILY, WIDTH, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)  # what is new begins with ones and zeros here and there
    return network


def start(task: Task, folder: Path, student: Student) -> nn.Module:
    """Return what the student starts from, with random numbers other than the baseline's."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network_factory = NetworkFactory(
            task, BuildSettings(), StageCache(folder), sharing=SharingAxes(), supernet_key=str, seed=0
        )
        return network_factory.start(Candidate(student))


def equal(first: nn.Module, second: nn.Module) -> list[bool]:
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    return [torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()]


def test_a_student_of_the_baselines_family_and_width_starts_as_the_baseline(
    tiny_task: Task, tmp_path: Path, baseline: nn.Module
) -> None:
    assert all(equal(start(replace(tiny_task, model=baseline), tmp_path, Student(FAMILY, WIDTH)), baseline))


def test_a_narrower_one_starts_with_rows_of_the_baselines_tensors(
    tiny_task: Task, tmp_path: Path, baseline: nn.Module
) -> None:
    student = start(replace(tiny_task, model=baseline), tmp_path, Student(FAMILY, WIDTH / 2))
    stem, whole = student.get_parameter("conv1.weight"), baseline.get_parameter("conv1.weight")
    assert len(stem) < len(whole)
    assert all(any(torch.equal(kernel, other) for other in whole) for kernel in stem)
    assert torch.equal(student.get_parameter("fc.bias"), baseline.get_parameter("fc.bias"))


@pytest.mark.parametrize("model", ["another family", "another network"])
def test_a_student_of_another_family_starts_anew(
    tiny_task: Task, tmp_path: Path, baseline: nn.Module, model: str
) -> None:
    other = family("squeezenet", WIDTH, seed=0) if model == "another family" else tiny_task.model
    student = start(replace(tiny_task, model=other), tmp_path, Student(FAMILY, WIDTH))
    assert all(equal(student, family(FAMILY, WIDTH, seed=1)))
