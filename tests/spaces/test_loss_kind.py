"""Distillation: only a loss that takes outputs for logits of classes lets them be compared as such."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure
from karui.spaces.loss_kind import outputs_are_logits
from karui.spaces.task import Task
from karui.spaces.training.distillation import distillation_loss
from karui.spaces.training.recovery import TrainingSettings, train
from karui.spaces.training.training_steps import task_loss
from karui.studies.measuring.guard import guarded

WIDTH = 6


class Margin(nn.Module):
    """The loss of a face network: embeddings, with the classifier in the loss (ArcFace without its margin)."""

    def __init__(self, width: int, classes: int, *, normalized: bool) -> None:
        super().__init__()
        self.classifier = nn.Parameter(torch.randn(classes, width, generator=torch.Generator().manual_seed(1)))
        self.normalized = normalized

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.normalized:
            outputs = F.normalize(outputs, dim=1)
        return F.cross_entropy(8.0 * F.linear(outputs, F.normalize(self.classifier, dim=1)), targets)


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    distances = torch.cdist(outputs, outputs)
    same = targets[:, None] == targets[None, :]
    return torch.where(same, distances, F.relu(1.0 - distances)).mean()


def proxy_in_the_first_dimensions(outputs: Tensor, targets: Tensor) -> Tensor:
    """Centres the embedding, so that a shift is lost, but has a classifier of its own."""
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    weights = torch.randn(3, outputs.shape[1], generator=torch.Generator().manual_seed(2))
    return F.cross_entropy(centred @ weights.T, targets % 3)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    right = outputs.log_softmax(1).gather(1, targets[:, None])
    return (-((1 - right.exp()) ** 2) * right).mean()


def counting(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets.view(-1))


INDICES = torch.arange(12) % 3
LOGITS: dict[str, tuple[Callable[..., Any], Any]] = {
    "torch's function": (F.cross_entropy, INDICES),
    "torch's module": (nn.CrossEntropyLoss(label_smoothing=0.1), INDICES),
    "a partial": (partial(F.cross_entropy, label_smoothing=0.1), INDICES),
    "a lambda": (lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=0.2), INDICES),
    "weights of classes": (partial(F.cross_entropy, weight=torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])), INDICES),
    "focal": (focal, INDICES),
    "a column": (counting, INDICES[:, None]),
    "of a dict": (lambda outputs, targets: F.cross_entropy(outputs, targets["label"]), {"label": INDICES}),
    "log softmax": (lambda outputs, targets: F.nll_loss(outputs.log_softmax(1), targets), INDICES),
    "a hinge of several classes": (F.multi_margin_loss, INDICES),
    "ignored rows": (lambda outputs, targets: F.cross_entropy(outputs, targets), torch.tensor([0, -100] * 6)),
}
OTHERS: dict[str, tuple[Callable[..., Any], Any]] = {
    "a margin of unit rows": (Margin(WIDTH, 3, normalized=True), INDICES),
    "a margin of any rows": (Margin(WIDTH, 3, normalized=False), INDICES),
    "as many dimensions as classes": (Margin(WIDTH, WIDTH, normalized=False), INDICES),
    "pairs": (contrastive, INDICES),
    "a centred embedding": (proxy_in_the_first_dimensions, INDICES),
    "squares": (lambda outputs, targets: F.mse_loss(outputs, F.one_hot(targets, WIDTH).float()), INDICES),
    "one score a class": (
        lambda outputs, targets: F.binary_cross_entropy_with_logits(outputs, F.one_hot(targets, WIDTH).float()),
        INDICES,
    ),
    "values": (F.mse_loss, torch.rand(12, WIDTH)),
    "negative log likelihood of what the network gives": (F.nll_loss, INDICES),
    "a loss that raises": (lambda outputs, targets: outputs.nonsense, INDICES),
    "a constant": (lambda outputs, targets: 0.0 * outputs.sum(), INDICES),
}


def task_of(loss: Any, model: nn.Module | None = None, targets: Tensor = INDICES) -> Task:
    split = TensorDataset(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), targets)
    return Task(model=model or nn.Linear(4, WIDTH), train=split, validation=split, test=split, loss=loss)


@pytest.mark.parametrize("name", LOGITS)
def test_losses_that_take_logits_are_known(name: str) -> None:
    loss, targets = LOGITS[name]
    assert outputs_are_logits(task_of(loss), torch.Size((12, WIDTH)), targets)


@pytest.mark.parametrize("name", OTHERS)
def test_embeddings_and_values_are_never_taken_for_logits(name: str) -> None:
    loss, targets = OTHERS[name]
    assert not outputs_are_logits(task_of(loss), torch.Size((12, WIDTH)), targets)


def test_a_guarded_loss_is_still_known() -> None:
    task = guarded(task_of(F.cross_entropy))
    # targets of shares, by which a loss that has to be tried would not be told
    assert outputs_are_logits(task, torch.Size((12, WIDTH)), torch.rand(12, WIDTH))


def test_one_output_is_no_row_of_logits() -> None:
    assert not outputs_are_logits(task_of(F.cross_entropy), torch.Size((12, 1)), INDICES)
    assert not outputs_are_logits(task_of(F.cross_entropy), torch.Size((12,)), INDICES)


def test_finding_out_leaves_the_loss_and_the_generators_as_they_were() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return F.cross_entropy(F.dropout(outputs, 0.1), targets)

    loss = Counting()
    task = task_of(loss)
    before = torch.get_rng_state()
    outputs_are_logits(task, torch.Size((12, WIDTH)), INDICES)
    assert torch.equal(torch.get_rng_state(), before)
    assert loss.calls == 0


@given(seed=st.integers(0, 1000), width=st.integers(2, 40), scale=st.floats(0.01, 100.0))
@settings(deadline=None, max_examples=40)
def test_the_distance_of_embeddings_sees_shifts_and_is_twice_one_minus_the_cosine(
    seed: int, width: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    taught = F.normalize(torch.randn(9, width, generator=generator).double(), dim=1)
    other = F.normalize(torch.randn(9, width, generator=generator).double(), dim=1)
    targets = torch.randint(0, 3, (9,), generator=generator)
    expected = 2.0 * (1.0 - F.cosine_similarity(other, taught).mean())
    assert float(distillation_loss(other, targets, taught, 4.0)) == pytest.approx(float(expected), abs=1e-9)
    assert float(distillation_loss(scale * other, targets, scale * taught, 4.0)) == pytest.approx(float(expected))
    assert float(distillation_loss(taught + 1.0, targets, taught, 4.0)) == pytest.approx(width)
    assert float(distillation_loss(taught, targets, taught, 4.0)) == 0.0


def test_the_divergence_of_maps_is_the_mean_over_places() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, taught = (torch.randn(2, 5, 3, 4, generator=generator).double() for _ in range(2))
    by_place = [
        distillation_loss(outputs[:, :, row, column], INDICES[:2], taught[:, :, row, column], 3.0, are_logits=True)
        for row in range(3)
        for column in range(4)
    ]
    whole = distillation_loss(outputs, torch.zeros(2, 3, 4).long(), taught, 3.0, are_logits=True)
    assert float(whole) == pytest.approx(float(torch.stack(by_place).mean()))


def test_training_an_embedding_brings_it_to_the_teacher_s() -> None:
    """A student of another start, by distillation alone: the divergence would leave the common shift where it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = nn.Linear(4, WIDTH), nn.Linear(4, WIDTH)
    with torch.no_grad():
        teacher.bias.add_(3.0)
    task = task_of(Margin(WIDTH, 3, normalized=False), student)
    inputs = torch.randn(50, 4)
    settings_ = TrainingSettings(epochs=150, learning_rate=0.1, weight_decay=0.0, distillation_weight=1.0, device="cpu")
    # the last weights, whatever the metric says of an embedding
    task = Task(
        model=student, train=task.train, validation=task.validation, test=task.test, loss=task.loss,
        metric=lambda outputs, targets: 0.0,
    )  # fmt: skip
    train(student, task, settings_, teacher=teacher)
    with torch.no_grad():
        assert float(F.mse_loss(student(inputs), teacher(inputs))) < 0.05


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda outputs, targets: 1.5, "gives a float"),
        (lambda outputs, targets: outputs, r"gives a tensor of shape \(12, 6\)"),
        (lambda outputs, targets: None, "gives a NoneType"),
        (lambda outputs, targets: (outputs.sum(), 1), "gives a tuple"),
    ],
)
def test_a_loss_that_is_no_single_number_is_told(loss: Any, told: str) -> None:
    with pytest.raises(CandidateFailure, match=told):
        task_loss(task_of(loss), torch.zeros(12, WIDTH), INDICES)


def test_a_loss_of_shape_one_is_a_number_and_changes_nobody_s_outputs() -> None:
    def greedy(outputs: Tensor, targets: Tensor) -> Tensor:
        targets.zero_()
        return outputs.clamp_(min=0.0).sum().reshape(1)

    outputs, targets = -torch.ones(12, WIDTH, requires_grad=True), INDICES.clone()
    loss = task_loss(task_of(greedy), outputs, targets)
    assert loss.shape == ()
    assert torch.equal(outputs, -torch.ones(12, WIDTH))
    assert torch.equal(targets, INDICES)
