"""Metrics that are objects, fed batch by batch, against what they compute of a whole split at once."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import karui
from karui.errors import TaskError
from karui.spaces.metric_object import ROWS, MetricObject, as_metric
from karui.spaces.prediction import metric_of
from karui.spaces.task_digest import task_digest

ROWS_IN_ALL = 2 * ROWS + 17


class Recall:
    """The mean over classes of the share of each that is found: no mean over rows."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.reset()

    def reset(self) -> None:
        self.right, self.count = torch.zeros(3), torch.zeros(3)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.seen.append(len(outputs))
        for label in range(3):
            among = targets == label
            self.count[label] += among.sum()
            self.right[label] += (outputs.argmax(1)[among] == label).sum()

    def compute(self) -> Tensor:
        return (self.right / self.count).mean()


class Error:
    """The mean absolute error, of which less is better."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.rows = 0.0, 0

    def update(self, outputs: Any, targets: Tensor) -> None:
        self.total += float((outputs.value - targets).abs().sum())
        self.rows += len(targets)

    def compute(self) -> float:
        return self.total / self.rows


class Value(NamedTuple):
    value: Tensor
    nothing: None = None


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Value:
        return Value(self.layer(inputs)[:, 0])


def _inputs() -> Tensor:
    return torch.randn(ROWS_IN_ALL, 4, generator=torch.Generator().manual_seed(0))


def test_a_metric_of_classes_is_that_of_the_whole_split() -> None:
    torch.manual_seed(0)
    labels = torch.arange(ROWS_IN_ALL) % 3
    split, recall = TensorDataset(_inputs(), labels), Recall()
    network = nn.Linear(4, 3)
    task = karui.Task(network, split, split, split, metric=recall)  # type: ignore[arg-type]
    assert task.metric_name == "Recall"
    with torch.no_grad():
        answers = network(_inputs()).argmax(1)
    expected = sum(float((answers[labels == label] == label).float().mean()) for label in range(3)) / 3
    recall.seen.clear()
    assert metric_of(network, task, split) == pytest.approx(expected, abs=1e-6)
    assert recall.seen == [ROWS, ROWS, 17], "batch by batch"
    assert metric_of(network, task, split) == pytest.approx(expected, abs=1e-6), "nothing is left of the first time"


@pytest.mark.filterwarnings("ignore:Task")
def test_less_is_better_is_turned_round_and_outputs_come_in_their_structure() -> None:
    torch.manual_seed(0)
    targets = torch.randn(ROWS_IN_ALL, generator=torch.Generator().manual_seed(1))
    split, network = TensorDataset(_inputs(), targets), Single()
    task = karui.Task(
        network,
        split,
        split,
        split,
        loss=lambda outputs, goal: (outputs.value - goal).square().mean(),
        metric=Error(),  # type: ignore[arg-type]
    )
    assert task.metric_name == "negative Error"
    with torch.no_grad():
        expected = -float((network(_inputs()).value - targets).abs().mean())
    assert metric_of(task.model, task, split) == pytest.approx(expected, abs=1e-5)


def test_what_a_metric_has_seen_elsewhere_makes_no_other_task() -> None:
    split, network = TensorDataset(_inputs(), torch.arange(ROWS_IN_ALL) % 3), nn.Linear(4, 3)
    fresh, used = Recall(), Recall()
    used.update(torch.randn(5, 3), torch.zeros(5))
    used.seen.clear()
    first, second = (karui.Task(copy.deepcopy(network), split, split, split, metric=each) for each in (fresh, used))  # type: ignore[arg-type]
    assert task_digest(first) == task_digest(second)


def test_an_object_that_lacks_a_method_is_told() -> None:
    class Half:
        def update(self, outputs: Tensor, targets: Tensor) -> None: ...

        def reset(self) -> None: ...

        def __call__(self, outputs: Tensor, targets: Tensor) -> float:
            return 0.0

    with pytest.raises(TaskError, match="Half without compute"):
        as_metric(Half())


def test_a_function_stays_what_it_is() -> None:
    assert as_metric(max) is max
    assert isinstance(as_metric(Recall()), MetricObject)
