"""The task: what it refuses, and that its batches are its data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.errors import TaskError
from karui.spaces.task import Task, iterate, top1_accuracy


class Unreadable(Dataset[tuple[Tensor, ...]]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        raise OSError("no such image")


class Indexed(Dataset[tuple[Tensor, ...]]):
    """The same pairs as a TensorDataset, but of another type."""

    def __init__(self, split: TensorDataset) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, target = self.split[index]
        return inputs, target


def numbered(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count)).reshape(count, 1), torch.arange(count))


@pytest.mark.parametrize("kind", [lambda split: split, Indexed])
@given(count=st.integers(1, 20), batch_size=st.integers(1, 7), shuffled=st.booleans())
@settings(deadline=None, max_examples=25)
def test_batches_hold_every_pair_once(kind: type, count: int, batch_size: int, shuffled: bool) -> None:
    generator = torch.Generator().manual_seed(1) if shuffled else None
    batches = list(iterate(kind(numbered(count)), batch_size, generator=generator))
    inputs = torch.cat([batch[0] for batch in batches]).flatten()
    targets = torch.cat([batch[1] for batch in batches])
    assert torch.equal(inputs.long(), targets)
    assert sorted(targets.tolist()) == list(range(count))
    assert [len(batch[1]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    if not shuffled:
        assert targets.tolist() == list(range(count))


@pytest.mark.parametrize("kind", [lambda split: split, Indexed])
def test_shuffling_follows_the_generator_alone(kind: type) -> None:
    def order(seed: int) -> list[int]:
        batches = iterate(kind(numbered(50)), 8, generator=torch.Generator().manual_seed(seed))
        return torch.cat([targets for _, targets in batches]).tolist()

    before = torch.random.get_rng_state()
    assert order(0) == order(0) != order(1)
    list(iterate(kind(numbered(50)), 8))
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_top1_accuracy_counts_hits(pairs: list[tuple[int, int]]) -> None:
    predicted, targets = (torch.tensor(column) for column in zip(*pairs, strict=True))
    outputs = nn.functional.one_hot(predicted, 4).float()
    assert top1_accuracy(outputs, targets) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_input_shape_is_that_of_one_sample(tiny_task: Task) -> None:
    assert tiny_task.input_shape == (1, 8, 8)


def test_calibration_comes_first_from_its_own_data_and_stops_at_the_end(tiny_task: Task) -> None:
    task = replace(tiny_task, train=numbered(5))
    assert task.calibration_batch(99).shape == (5, 1)
    reversed_data = TensorDataset(torch.tensor([[9.0], [8.0]]), torch.zeros(2))
    assert replace(task, calibration=reversed_data).calibration_batch(4).flatten().tolist() == [9.0, 8.0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": torch.relu}, "model is not a PyTorch module"),
        ({"train": TensorDataset(torch.zeros(0, 1), torch.zeros(0))}, "train data is empty"),
        ({"validation": iter([])}, "validation data cannot be indexed"),
        ({"test": [torch.zeros(1)]}, "test data does not yield pairs"),
        ({"test": [(1.0, 2)]}, "test data does not yield pairs"),
        ({"validation": Unreadable()}, r"validation data raises an error(?s:.*)\[0\](?s:.*)OSError: no such image"),
        ({"calibration": {"a": 1}}, "calibration data cannot be indexed"),
        ({"loss": None}, "loss cannot be called"),
        ({"metric": 0.5}, "metric cannot be called"),
        ({"baseline_epochs": -1}, "number of epochs for the baseline has no meaning"),
        ({"baseline_epochs": 1.5}, "number of epochs for the baseline has no meaning"),
    ],
)
def test_task_without_meaning_is_refused(tiny_task: Task, changed: dict[str, object], reason: str) -> None:
    with pytest.raises(TaskError, match=reason):
        replace(tiny_task, **changed)  # type: ignore[arg-type]
