"""Batches: what ``split[i]`` yields, for everyone who reads a data set."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from karui.errors import TaskError
from karui.evaluators.accuracy import AccuracyEvaluator
from karui.spaces.data.batches import (
    is_held_in_memory,
    iterate,
    join_targets,
    map_targets,
    slice_targets,
    spread_batch,
    spread_rows,
    targets_digest,
    targets_of,
)
from karui.spaces.prediction import predict
from karui.spaces.task import Task
from karui.spaces.training.distillation import Batches
from karui.spaces.training.teacher import Teacher

ROWS = 24
INPUTS, CLASSES = torch.arange(float(ROWS)).reshape(ROWS, 1), torch.arange(ROWS) % 3


class Scaled(TensorDataset):
    """Changes its samples where they are asked for."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, target = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return inputs * 10.0, target + 1


class Half(TensorDataset):
    """Has fewer samples than tensors have rows."""

    def __len__(self) -> int:
        return ROWS // 2


class Batched(TensorDataset):
    """Offers a way to read many samples at once, which says something else than reading each."""

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, ...]]:
        return [(torch.full((1,), -1.0), torch.tensor(-1)) for _ in rows]


class Reversed(Subset[tuple[Tensor, ...]]):
    """Counts from the end."""

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        sample: tuple[Tensor, ...] = super().__getitem__(len(self) - 1 - index)  # type: ignore[no-untyped-call]
        return sample

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, ...]]:
        return [self[row] for row in rows]


PLAIN = TensorDataset(INPUTS, CLASSES)
SPLITS: dict[str, Dataset[tuple[Tensor, ...]]] = {
    "tensors": PLAIN,
    "overridden __getitem__": Scaled(INPUTS, CLASSES),
    "overridden __len__": Half(INPUTS, CLASSES),
    "__getitems__": Batched(INPUTS, CLASSES),
    "subset": Subset(PLAIN, [5, 3, -1, 0, 7]),
    "subset by an array": Subset(PLAIN, np.array([5, 3, 0])),  # type: ignore[arg-type]
    "subset of a subclass": Subset(Scaled(INPUTS, CLASSES), [5, 3, 0, 7]),
    "subset of a subset": Subset(Subset(PLAIN, range(4, 12)), [2, 0, 1]),
    "subclass of a subset": Reversed(PLAIN, range(6)),
    "concatenation": ConcatDataset([Scaled(INPUTS, CLASSES), PLAIN]),
    "a list": [(INPUTS[row], int(CLASSES[row])) for row in range(7)],  # type: ignore[dict-item]
}


def one_by_one(split: Any) -> tuple[list[float], list[int]]:
    samples = [split[row] for row in range(len(split))]
    return [float(inputs[0]) for inputs, _ in samples], [int(target) for _, target in samples]


@pytest.mark.parametrize("name", SPLITS)
def test_everyone_reads_what_indexing_yields(name: str) -> None:
    split: Any = SPLITS[name]
    inputs, targets = one_by_one(split)
    task = Task(model=nn.Linear(1, 1), train=split, validation=split, test=split)

    batches = list(iterate(split, 5))
    assert torch.cat([batch for batch, _ in batches]).flatten().tolist() == inputs
    assert torch.cat([batch for _, batch in batches]).tolist() == targets

    given_inputs, given_targets = predict(nn.Identity(), split)
    assert given_inputs.flatten().tolist() == inputs
    assert given_targets.tolist() == targets

    evaluator = AccuracyEvaluator(split, task.metric, "accuracy", "test")
    assert evaluator._inputs.flatten().tolist() == inputs
    assert evaluator._targets.tolist() == targets

    assert task.calibration_batch(999).flatten().tolist() == inputs
    assert [part.flatten().tolist() for part in spread_batch(split, 999)] == [inputs, targets]

    taught = Teacher(nn.Identity())
    for batch, labels, answer in Batches(task, 4, taught, seed=1, device=torch.device("cpu")):
        assert answer is not None
        assert torch.equal(answer.outputs, batch)
        pairs = set(zip(inputs, targets, strict=True))
        assert set(zip(batch.flatten().tolist(), labels.tolist(), strict=True)) <= pairs


@pytest.mark.parametrize("name", SPLITS)
def test_only_rows_of_plain_tensors_count_as_held_in_memory(name: str) -> None:
    assert is_held_in_memory(SPLITS[name]) == (name in ("tensors", "subset", "subset by an array"))


@pytest.mark.parametrize("name", SPLITS)
def test_batches_are_no_views_of_the_data(name: str) -> None:
    split: Any = SPLITS[name]
    before = one_by_one(split)
    for inputs, targets in iterate(split, 4):
        inputs.zero_()
        targets.zero_()
    spread_batch(split, 4)[0].zero_()
    assert one_by_one(split) == before


def test_gradients_and_devices_stay_behind() -> None:
    graded = INPUTS.clone().requires_grad_(True)
    for split in (TensorDataset(graded, INPUTS), [(graded[row] * 2, {"y": graded[row]}) for row in range(4)]):
        inputs, targets = next(iterate(split, 4))  # type: ignore[arg-type]
        assert not inputs.requires_grad
        assert not (targets["y"] if isinstance(targets, dict) else targets).requires_grad
        inputs.numpy()


Boxes = namedtuple("Boxes", ["corners", "label"])

STRUCTURES: dict[str, Callable[[int], Any]] = {
    "numbers": lambda row: row,
    "floats": lambda row: row / 2,
    "truth values": lambda row: row % 2 == 0,
    "arrays": lambda row: np.array([row, row + 1]),
    "a dict": lambda row: {"label": torch.tensor(row), "weight": row / 2},
    "a tuple": lambda row: (torch.tensor([row, 1]), row),
    "a named tuple": lambda row: Boxes(torch.full((2, 4), float(row)), row),
    "texts": lambda row: f"row {row}",
    "a nesting": lambda row: {"name": f"row {row}", "parts": [row, (torch.tensor(row), f"{row}")]},
}


def row_of(targets: Any, row: int) -> Any:
    """Return what a batch of targets says of one row, plain: the brute-force twin of collating."""
    if isinstance(targets, Tensor):
        return targets[row].tolist()
    if isinstance(targets, (list, tuple)) and isinstance(targets[0], str):
        return targets[row]
    if isinstance(targets, dict):
        return {key: row_of(part, row) for key, part in targets.items()}
    return [row_of(part, row) for part in targets]


def plain(target: Any) -> Any:
    if isinstance(target, (Tensor, np.ndarray)):
        return target.tolist()
    if isinstance(target, dict):
        return {key: plain(part) for key, part in target.items()}
    return [plain(part) for part in target] if isinstance(target, (list, tuple)) else target


@pytest.mark.parametrize("name", STRUCTURES)
@given(rows=st.integers(1, 9), batch_size=st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_targets_of_any_structure_come_row_by_row(name: str, rows: int, batch_size: int) -> None:
    make = STRUCTURES[name]
    split: Any = [(torch.full((2,), float(row)), make(row)) for row in range(rows)]
    joined = join_targets([targets for _, targets in iterate(split, batch_size)])
    assert [row_of(joined, row) for row in range(rows)] == [plain(make(row)) for row in range(rows)]
    chosen = np.array([rows - 1, 0, 0])
    assert [row_of(targets_of(joined, chosen), row) for row in range(3)] == [plain(make(row)) for row in chosen]
    assert row_of(slice_targets(joined, slice(rows - 1, rows)), 0) == plain(make(rows - 1))
    copied = map_targets(torch.clone, joined)
    assert [row_of(copied, row) for row in range(rows)] == [row_of(joined, row) for row in range(rows)]
    assert targets_digest(copied, "a") == targets_digest(joined, "a") != targets_digest(joined, "b")


@pytest.mark.parametrize(
    "ragged",
    [
        lambda row: torch.zeros(row + 1, 4),
        lambda row: {"boxes": torch.zeros(row + 1, 4)},
        lambda row: [0] * (row + 1),
        lambda row: None,
        lambda row: object(),
        lambda row: {f"key {row}": 1},
    ],
)
def test_targets_that_make_no_batches_are_refused_by_the_data_s_name(ragged: Callable[[int], Any]) -> None:
    split: Any = [(torch.zeros(2), ragged(row)) for row in range(3)]
    with pytest.raises(TaskError, match="targets of the task's data cannot be put together"):
        list(iterate(split, 3))
    with pytest.raises(TaskError, match=r"Task\(validation=\.\.\.\)"):
        Task(model=nn.Linear(2, 1), train=PLAIN, validation=split, test=PLAIN)


def test_inputs_of_several_shapes_are_refused() -> None:
    split: Any = [(torch.zeros(row + 1), 0) for row in range(3)]
    with pytest.raises(TaskError, match="inputs of the task's data cannot be put together"):
        list(iterate(split, 3))


@given(available=st.integers(1, 300), samples=st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_spread_rows_stand_for_every_part(available: int, samples: int) -> None:
    rows = spread_rows(available, samples).tolist()
    count = min(available, samples)
    assert len(set(rows)) == len(rows) == count
    assert rows == sorted(rows)
    for part, row in enumerate(rows):
        assert part * available // count <= row < (part + 1) * available // count
    assert rows == spread_rows(available, samples).tolist()


@pytest.mark.parametrize("order", ["sorted", "in turns"])
def test_calibration_sees_all_classes_whatever_the_order(order: str) -> None:
    classes = torch.arange(1000) // 100 if order == "sorted" else torch.arange(1000) % 10
    split = TensorDataset(classes.float().unsqueeze(1), classes)
    task = Task(model=nn.Linear(1, 10), train=split, validation=split, test=split)
    seen = task.calibration_batch(100).flatten().long()
    counts = torch.bincount(seen, minlength=10)
    assert int(counts.min()) >= 3
