"""Class indices in every form that data sets give them: one accuracy and one loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from karui.errors import TaskError
from karui.spaces.data.class_targets import cross_entropy, top1_accuracy

FORMS = {
    "a row": lambda classes, count: classes,
    "a column": lambda classes, count: classes[:, None],
    "a column of floats": lambda classes, count: classes[:, None].float(),
    "floats": lambda classes, count: classes.double(),
    "bytes": lambda classes, count: classes.to(torch.uint8),
    "int32": lambda classes, count: classes.int(),
    "one-hot": lambda classes, count: F.one_hot(classes, count),
    "one-hot floats": lambda classes, count: F.one_hot(classes, count).float(),
}


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 99), count=st.integers(2, 12), rows=st.integers(1, 30))
@settings(deadline=None, max_examples=15)
def test_all_forms_give_the_same(form: str, seed: int, count: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, classes = torch.randn(rows, count, generator=generator), torch.randint(count, (rows,), generator=generator)
    targets = FORMS[form](classes, count)  # type: ignore[no-untyped-call]
    hits = sum(
        int(max(range(count), key=lambda index: float(outputs[row, index])) == classes[row]) for row in range(rows)
    )
    assert top1_accuracy(outputs, targets) == pytest.approx(hits / rows)
    expected = -sum(float(outputs[row].double().log_softmax(0)[classes[row]]) for row in range(rows)) / rows
    assert float(cross_entropy(outputs, targets)) == pytest.approx(expected, abs=1e-5)


def test_maps_of_classes_are_compared_place_by_place() -> None:
    outputs = torch.eye(3)[torch.tensor([[[0, 1], [2, 2]]])].permute(0, 3, 1, 2)
    targets = torch.tensor([[[0, 1], [2, 0]]])
    assert top1_accuracy(outputs, targets) == top1_accuracy(outputs, targets[:, None]) == 0.75


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(4, 1), torch.zeros(4).long()),
        (torch.zeros(4), torch.zeros(4).long()),
        (torch.zeros(4, 3), torch.zeros(4, 2).long()),
        (torch.zeros(4, 3), torch.zeros(3).long()),
        (torch.zeros(4, 3), {"label": torch.zeros(4).long()}),
        (torch.zeros(4, 3), ["a", "b", "c", "d"]),
        (torch.zeros(4, 3), torch.full((4,), 0.5)),
    ],
)
def test_what_is_no_class_is_refused(outputs: Tensor, targets: object) -> None:
    with pytest.raises(TaskError):
        top1_accuracy(outputs, targets)
    with pytest.raises(TaskError):
        cross_entropy(outputs, targets)
