"""The speed of training in bfloat16, of networks that take as long as they are told to."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.evaluators.training_speed import PAIRS, TrainingSpeed, training_speed
from karui.spaces.task import Task


class Slow(nn.Module):
    """Takes so many seconds a run, or a sample, and others in bfloat16."""

    def __init__(self, plain: float, half: float, *, each: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.plain, self.other, self.each = plain, half, each
        self.sizes: list[int] = []

    def __deepcopy__(self, memo: dict[int, object]) -> Slow:
        copied = Slow(self.plain, self.other, each=self.each)
        copied.linear, copied.sizes = copy.deepcopy(self.linear, memo), self.sizes
        return copied

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        seconds = self.other if torch.is_autocast_enabled("cpu") else self.plain
        time.sleep(seconds * (len(inputs) if self.each else 1))
        outputs: Tensor = self.linear(inputs)
        return outputs


def task_of(model: nn.Module) -> Task:
    split = TensorDataset(torch.rand(64, 4), torch.arange(64) % 2)
    return Task(model=model, train=split, validation=split, test=split)


@pytest.mark.parametrize(("plain", "half"), [(0.02, 0.05), (0.05, 0.02)])
def test_the_ratio_is_that_of_the_times(plain: float, half: float) -> None:
    found = training_speed(task_of(Slow(plain, half)), 16, "cpu")
    assert found.time_ratio == pytest.approx(half / plain, rel=0.3)
    assert found.is_slower == (half > plain)
    assert found.is_faster == (half < plain)


def test_a_slow_model_is_tried_on_fewer_samples() -> None:
    model = Slow(0.005, 0.005, each=True)
    task = task_of(model)
    model.sizes.clear()  # the task runs its model once
    training_speed(task, 64, "cpu", max_seconds=1.0)
    assert model.sizes[:2] == [2, 2]
    (tried,) = {*model.sizes[2:]}
    assert len(model.sizes) == 2 + 2 * (PAIRS + 1)
    assert 2 <= tried <= 1.0 / 0.005 / (2 * (PAIRS + 1)) + 1


def test_the_model_and_the_callers_random_numbers_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    task = task_of(model)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    found = training_speed(task, 16, "cpu")
    assert found.time_ratio > 0
    assert found.time_spread >= 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize(
    ("ratio", "spread", "faster", "slower"),
    [(0.9, 0.05, True, False), (0.9, 0.2, False, False), (0.98, 0.0, False, False), (1.2, 0.1, False, True)],
)
def test_what_counts_is_beyond_noise(ratio: float, spread: float, faster: bool, slower: bool) -> None:
    found = TrainingSpeed(ratio, spread)
    assert (found.is_faster, found.is_slower) == (faster, slower)
