"""Recovery training: what is kept, what is left alone, and the losses by their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.errors import CandidateFailure
from karui.spaces.task import Task
from karui.spaces.training.distillation import Batches, distillation_loss
from karui.spaces.training.recovery import TrainingSettings, metric_of, pick_device, predict, train
from karui.spaces.training.teacher import MOST_BYTES, Teacher
from karui.spaces.training.training_steps import WARM_UP, one_cycle
from karui.spaces.training.zeroing import zero_fraction

QUICK = TrainingSettings(epochs=3, batch_size=32, learning_rate=5e-3, device="cpu")
AVERAGED = replace(QUICK, ema_decay=0.99)

State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    return copy.deepcopy(network.state_dict())


def equal(first: State, second: State) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def twice(metrics: list[object]) -> list[object]:
    """The same metric for the network as it is and with its normalization estimated anew, which is then not taken."""
    return [metric for metric in metrics for _ in range(2)]


def scripted(task: Task, values: Sequence[object]) -> Task:
    """A task whose metric returns these values, one a call.

    Asked for are the network as it came and after each epoch, both with its normalization estimated anew as well, and
    after each epoch the average where the settings ask for it; with zeroing not the network as it came.
    """
    remaining = iter(values)
    return replace(task, metric=lambda _outputs, _targets: next(remaining))  # type: ignore[arg-type, return-value]


def test_training_learns_and_reports_what_it_kept(tiny_network: nn.Module, tiny_task: Task) -> None:
    start = metric_of(tiny_network, tiny_task, tiny_task.validation)
    seen: dict[int, float] = {}
    report = train(tiny_network, tiny_task, QUICK, on_epoch=seen.__setitem__)
    assert start < 0.6
    assert report.best_metric is not None
    assert report.best_metric > 0.9
    assert list(seen) == [1, 2, 3]
    assert report.best_metric == max(seen.values()) == seen[report.best_epoch]
    assert metric_of(tiny_network, tiny_task, tiny_task.validation) == report.best_metric
    assert not any(module.training for module in tiny_network.modules())


def test_equal_settings_give_equal_weights_and_leave_the_callers_random_numbers(
    tiny_network: nn.Module, tiny_task: Task
) -> None:
    noisy = replace(tiny_task, augment=lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    twins = [nn.Sequential(copy.deepcopy(tiny_network), nn.Dropout(0.2)) for _ in range(3)]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(twins[0], noisy, QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    train(twins[1], noisy, QUICK)
    train(twins[2], noisy, replace(QUICK, seed=1))
    assert equal(twins[0].state_dict(), twins[1].state_dict())
    assert not equal(twins[0].state_dict(), twins[2].state_dict())


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([0.1, 0.5, 0.9, 0.3], 2),
        ([0.9, 0.5, 0.8, 0.3], 0),
        # of equal ones the later, which has trained longer
        ([0.5, 0.5, 0.4, 0.5], 3),
    ],
)
def test_best_weights_are_kept_and_those_of_the_start_count(
    tiny_network: nn.Module, tiny_task: Task, metrics: list[object], best: int
) -> None:
    states = {0: state_of(tiny_network)}
    report = train(
        tiny_network,
        scripted(tiny_task, twice(metrics)),
        QUICK,
        on_epoch=lambda epoch, _metric: states.update({epoch: state_of(tiny_network)}),
    )
    assert (report.best_epoch, report.best_metric, report.epochs) == (best, metrics[best], 3)
    assert equal(tiny_network.state_dict(), states[best])


@pytest.mark.parametrize(
    ("metrics", "best", "averaged"),
    [
        ([0.2, 0.3, 0.9, 0.4, 0.5, 0.6], 2, False),
        ([0.2, 0.3, 0.4, 0.9, 0.5, 0.6], 2, True),
        # of equal ones the average, and the later
        ([0.7, 0.2, 0.7, 0.7, 0.5, 0.6], 2, True),
        ([0.05, 0.01, 0.02, 0.03, 0.04, 0.08], 0, False),
    ],
)
def test_average_is_offered_after_each_epoch(
    tiny_network: nn.Module, tiny_task: Task, metrics: list[float], best: int, averaged: bool
) -> None:
    """The metrics are those of the weights and of their average, in turn; the start's is 0.1."""
    asked: list[float] = [0.1, 0.1]
    for own, of_average in zip(metrics[::2], metrics[1::2], strict=True):
        asked += [own, own, of_average]
    states = {0: state_of(tiny_network)}
    told: list[float] = []

    def follow(epoch: int, metric: float) -> None:
        states[epoch] = state_of(tiny_network)
        told.append(metric)

    report = train(tiny_network, scripted(tiny_task, asked), AVERAGED, on_epoch=follow)
    assert (report.best_epoch, report.best_metric) == (best, max(asked))
    assert equal(tiny_network.state_dict(), states[best]) is not averaged
    assert told == [max(metrics[at : at + 2]) for at in (0, 2, 4)]


def test_training_goes_the_same_way_with_and_without_average(tiny_network: nn.Module, tiny_task: Task) -> None:
    states: list[State] = []

    def note(network: nn.Module, _epoch: int, _metric: float) -> None:
        states.append(state_of(network))

    for chosen in (QUICK, AVERAGED):
        network = nn.Sequential(copy.deepcopy(tiny_network), nn.Dropout(0.2))
        train(network, tiny_task, chosen, on_epoch=partial(note, network))
    assert all(equal(one, other) for one, other in zip(states[:3], states[3:], strict=True))


@pytest.mark.parametrize(("estimated", "taken"), [(0.9, True), (0.5, False), (0.1, False)])
def test_start_with_normalization_estimated_anew_is_taken_where_it_is_better(
    tiny_network: nn.Module, tiny_task: Task, estimated: float, taken: bool
) -> None:
    start = state_of(tiny_network)
    task = scripted(tiny_task, [0.5, estimated, 0.0, 0.0])
    report = train(tiny_network, task, replace(QUICK, epochs=1))
    assert (report.best_epoch, report.best_metric) == (0, max(0.5, estimated))
    kept = tiny_network.state_dict()
    changed = {name.rsplit(".", 1)[1] for name in start if not torch.equal(start[name], kept[name])}
    assert changed == ({"running_mean", "running_var", "num_batches_tracked"} if taken else set())
    if taken:
        batch_means = tiny_network.get_submodule("stem.0")(tiny_task.train.tensors[0]).mean(dim=(0, 2, 3))  # type: ignore[attr-defined]
        torch.testing.assert_close(kept["stem.1.running_mean"], batch_means, rtol=0.05, atol=0.01)


def test_average_keeps_the_zeros(tiny_network: nn.Module, tiny_task: Task) -> None:
    """Only the average of the last epoch counts, which has seen the weights that were zeroed when they were not."""
    task = scripted(tiny_task, [0.1] * 8 + [0.9])
    zeros: list[State] = []

    def note(_epoch: int, _metric: float) -> None:
        zeros.append({name: tensor == 0 for name, tensor in state_of(tiny_network).items()})

    train(tiny_network, task, AVERAGED, zeroed_weights=0.6, on_epoch=note)
    assert zero_fraction(tiny_network) == pytest.approx(0.6, abs=1e-3)
    for name, tensor in tiny_network.state_dict().items():
        if name.endswith("weight"):
            assert torch.equal(tensor == 0, zeros[-1][name])


def test_with_zeroing_only_epochs_of_the_final_fraction_count(tiny_network: nn.Module, tiny_task: Task) -> None:
    """Five epochs: 0.6 of the training is over after the third."""
    fractions: list[float] = []
    report = train(
        tiny_network,
        scripted(tiny_task, twice([0.9, 0.8, 0.1, 0.3, 0.2])),
        replace(QUICK, epochs=5),
        zeroed_weights=0.7,
        on_epoch=lambda _epoch, _metric: fractions.append(zero_fraction(tiny_network)),
    )
    assert report.best_epoch == 4
    assert fractions == sorted(fractions)
    assert fractions[0] == pytest.approx(0.7 * (1 - (2 / 3) ** 3), abs=1e-3)
    assert fractions[1] == pytest.approx(0.7 * (1 - (1 / 3) ** 3), abs=1e-3)
    assert fractions[2:] == [pytest.approx(0.7, abs=1e-4)] * 3
    assert zero_fraction(tiny_network) == pytest.approx(0.7, abs=1e-4)


def test_zeroed_network_still_learns(tiny_network: nn.Module, tiny_task: Task) -> None:
    report = train(tiny_network, tiny_task, replace(QUICK, epochs=4), zeroed_weights=0.8)
    assert report.best_metric is not None
    assert report.best_metric > 0.9
    assert zero_fraction(tiny_network) == pytest.approx(0.8, abs=1e-3)


def test_no_epochs_change_nothing_but_the_zeros_asked_for(tiny_network: nn.Module, tiny_task: Task) -> None:
    before = state_of(tiny_network)
    report = train(tiny_network, scripted(tiny_task, []), replace(QUICK, epochs=0))
    assert (report.epochs, report.best_epoch, report.best_metric) == (0, 0, None)
    assert equal(tiny_network.state_dict(), before)
    assert not tiny_network.training
    train(tiny_network, scripted(tiny_task, []), replace(QUICK, epochs=0), zeroed_weights=0.5)
    assert zero_fraction(tiny_network) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_fails_as_a_candidate(tiny_network: nn.Module, tiny_task: Task, value: float) -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(outputs, targets) + (value if calls > 6 else 0.0)

    # 192 samples make six steps an epoch
    with pytest.raises(CandidateFailure, match=f"recovery: the loss became {value} in epoch 2 of 3"):
        train(tiny_network, replace(tiny_task, loss=loss), QUICK)
    assert not tiny_network.training


@pytest.mark.parametrize("value", [math.nan, None, "0.9", torch.tensor([0.1, 0.2]), torch.tensor(math.nan)])
def test_metric_that_is_no_number_fails_as_a_candidate(tiny_network: nn.Module, tiny_task: Task, value: object) -> None:
    with pytest.raises(CandidateFailure, match="recovery: the metric 'accuracy' is not a number: it returned"):
        train(tiny_network, scripted(tiny_task, [0.5, value]), QUICK)


def test_metric_may_be_a_tensor_of_one_number(tiny_network: nn.Module, tiny_task: Task) -> None:
    value = metric_of(tiny_network, scripted(tiny_task, [torch.tensor(0.25)]), tiny_task.test)
    assert value == 0.25
    assert type(value) is float


def test_callers_stop_ends_the_training(tiny_network: nn.Module, tiny_task: Task) -> None:
    def stop(epoch: int, _metric: float) -> None:
        if epoch == 2:
            raise KeyError("stopped by the search")

    before = torch.random.get_rng_state()
    with pytest.raises(KeyError, match="stopped by the search"):
        train(tiny_network, tiny_task, replace(QUICK, epochs=50), on_epoch=stop)
    assert not tiny_network.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_student_learns_from_its_teacher_alone(tiny_network: nn.Module, tiny_task: Task) -> None:
    """Without any share of the task's own loss, whose targets are all wrong, the student agrees with the teacher."""
    teacher = copy.deepcopy(tiny_network)
    train(teacher, tiny_task, QUICK)
    teacher.train()
    before = state_of(teacher)
    inputs, targets = tiny_task.train.tensors  # type: ignore[attr-defined]
    wrong = replace(tiny_task, train=TensorDataset(inputs, (targets + 1) % 3))
    train(tiny_network, wrong, replace(QUICK, distillation_weight=1.0), teacher=teacher)
    assert equal(teacher.state_dict(), before)
    assert all(module.training for module in teacher.modules())
    taught = predict(teacher, tiny_task.test)[0].argmax(dim=1)
    assert float((predict(tiny_network, tiny_task.test)[0].argmax(dim=1) == taught).float().mean()) > 0.9


@pytest.mark.parametrize("augment", [None, lambda inputs: inputs + 0.1 * torch.randn_like(inputs)])
def test_teachers_outputs_are_the_same_kept_or_computed(
    tiny_network: nn.Module, tiny_task: Task, augment: Callable[[Tensor], Tensor] | None
) -> None:
    task = replace(tiny_task, augment=augment)
    students = [copy.deepcopy(tiny_network) for _ in range(3)]
    teacher = Teacher(tiny_network)
    train(students[0], task, QUICK, teacher=teacher)
    train(students[1], task, QUICK, teacher=teacher)
    assert equal(students[0].state_dict(), students[1].state_dict())
    train(students[2], task, QUICK, teacher=Teacher(tiny_network, most_bytes=0))
    for first, second in zip(students[0].parameters(), students[2].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_distillation_is_the_softened_divergence(student: list[float], teacher: list[float]) -> None:
    def softened(logits: list[float]) -> list[float]:
        powers = [math.exp(logit / 4.0) for logit in logits]
        return [power / sum(powers) for power in powers]

    pairs = zip(softened(teacher), softened(student), strict=True)
    expected = 16.0 * sum(of_teacher * math.log(of_teacher / of_student) for of_teacher, of_student in pairs)
    outputs, taught = torch.tensor([student]).double(), torch.tensor([teacher]).double()
    value = distillation_loss(outputs, torch.tensor([1]), taught, temperature=4.0, are_logits=True)
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "targets"),
    [
        ((2, 1), torch.tensor([0, 1])),
        ((2, 3), torch.rand(2, 3)),
        ((2, 3), torch.rand(2)),
        ((2, 3, 2), torch.ones(2, 2)),
    ],
)
def test_other_outputs_than_class_scores_are_compared_by_their_squares(shape: tuple[int, ...], targets: Tensor) -> None:
    outputs, taught = torch.zeros(shape), torch.full(shape, 3.0)
    assert distillation_loss(outputs, targets, taught, temperature=4.0).item() == 9.0


def test_regression_is_trained_as_well() -> None:
    inputs = torch.linspace(-1, 1, 64).unsqueeze(1)
    split = TensorDataset(inputs, 2 * inputs)
    network = nn.Linear(1, 1)
    task = Task(
        model=network,
        train=split,
        validation=split,
        test=split,
        loss=nn.functional.mse_loss,
        metric=lambda outputs, targets: -float((outputs - targets).square().mean()),
    )
    train(network, task, TrainingSettings(epochs=40, learning_rate=0.2, batch_size=16, device="cpu"))
    assert network.weight.item() == pytest.approx(2.0, abs=0.05)
    teacher = nn.Linear(1, 1)
    nn.init.constant_(teacher.weight, -3.0)
    settings = TrainingSettings(epochs=40, learning_rate=0.2, batch_size=16, distillation_weight=1.0, device="cpu")
    follower = replace(task, metric=lambda outputs, targets: -float((outputs + 1.5 * targets).square().mean()))
    train(network, follower, settings, teacher=teacher)
    assert network.weight.item() == pytest.approx(-3.0, abs=0.3)


@given(st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_epoch_holds_every_sample_but_a_lonely_last_one(samples: int, batch_size: int) -> None:
    numbers = torch.arange(float(samples)).unsqueeze(1)
    split = TensorDataset(numbers, torch.arange(samples))
    task = Task(model=nn.Linear(1, 2), train=split, validation=split, test=split)
    batches = Batches(task, batch_size, None, seed=0, device=torch.device("cpu"))
    sizes = [len(inputs) for inputs, _, _ in batches]
    lonely = samples % batch_size == 1 and samples > 1 and batch_size > 1
    assert len(sizes) == len(batches)
    assert sum(sizes) == samples - lonely
    assert max(sizes) <= batch_size
    if batch_size > 1 and samples > 1:
        assert min(sizes) > 1


@pytest.mark.parametrize("most_bytes", [MOST_BYTES, 0])
def test_batches_keep_inputs_targets_and_teacher_together(most_bytes: int) -> None:
    numbers = torch.arange(20.0).unsqueeze(1)
    split = TensorDataset(numbers, 100 + torch.arange(20))
    teacher = nn.Linear(1, 2)
    task = Task(model=teacher, train=split, validation=split, test=split)
    batches = Batches(task, 6, Teacher(teacher, most_bytes=most_bytes), seed=3, device=torch.device("cpu"))
    orders = []
    for _ in range(2):
        order = []
        for inputs, targets, taught in batches:
            assert torch.equal(targets, 100 + inputs.flatten().long())
            assert taught is not None
            torch.testing.assert_close(taught.outputs, teacher(inputs))
            order += inputs.flatten().tolist()
        orders.append(order)
    assert sorted(orders[0]) == sorted(orders[1]) == numbers.flatten().tolist()
    assert orders[0] != orders[1]


class Pairwise(Dataset[tuple[Tensor, int]]):
    """A data set that is no TensorDataset and whose targets are plain numbers."""

    def __init__(self, split: TensorDataset) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, target = self.split[index]
        return inputs, int(target)


def test_any_indexed_data_set_will_do(tiny_network: nn.Module, tiny_task: Task) -> None:
    train_split: Dataset[tuple[Tensor, ...]] = Pairwise(tiny_task.train)  # type: ignore[arg-type, assignment]
    task = replace(tiny_task, train=train_split)
    before = torch.random.get_rng_state()
    report = train(tiny_network, task, QUICK, teacher=tiny_network)
    assert report.best_metric is not None
    assert report.best_metric > 0.5
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_parameters_stay_unless_all_are_frozen(tiny_network: nn.Module, tiny_task: Task) -> None:
    all_frozen = copy.deepcopy(tiny_network).requires_grad_(False)
    tiny_network.get_submodule("stem").requires_grad_(False)
    start = state_of(tiny_network)
    for network in (tiny_network, all_frozen):
        with torch.no_grad():
            train(network, scripted(tiny_task, twice([0.1, 0.2, 0.3, 0.4])), QUICK)
        assert not torch.equal(network.state_dict()["head.weight"], start["head.weight"])
    assert torch.equal(tiny_network.state_dict()["stem.0.weight"], start["stem.0.weight"])
    assert not torch.equal(all_frozen.state_dict()["stem.0.weight"], start["stem.0.weight"])
    assert not any(parameter.requires_grad for parameter in all_frozen.parameters())


def test_augmentation_touches_training_batches_only(tiny_network: nn.Module, tiny_task: Task) -> None:
    shapes: list[int] = []

    def erase(inputs: Tensor) -> Tensor:
        shapes.append(len(inputs))
        return torch.zeros_like(inputs)

    before, targets = predict(tiny_network, tiny_task.validation)
    train(tiny_network, replace(tiny_task, augment=erase), replace(QUICK, epochs=1))
    assert shapes == [32] * 6
    assert torch.equal(targets, predict(tiny_network, tiny_task.validation)[1])
    assert before.std(dim=0).max() > 0


def test_predictions_come_in_order_in_evaluation_mode_and_flags_stay() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.9))
    nn.init.constant_(network[0].weight, 2.0)  # type: ignore[arg-type]
    nn.init.constant_(network[0].bias, 1.0)  # type: ignore[arg-type]
    network[0].eval()
    numbers = torch.arange(600.0).unsqueeze(1)
    outputs, targets = predict(network, TensorDataset(numbers, torch.arange(600)))
    torch.testing.assert_close(outputs, 2 * numbers + 1)
    assert torch.equal(targets, torch.arange(600))
    assert not outputs.requires_grad
    assert [module.training for module in network.modules()] == [True, False, True]


def test_learning_rate_goes_up_and_down_once() -> None:
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(WARM_UP / 2) == pytest.approx((1 + 1 / 25) / 2)
    assert one_cycle(WARM_UP) == pytest.approx(1.0)
    assert one_cycle((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert one_cycle(1.0) == pytest.approx(0.0, abs=1e-12)
    shares = [one_cycle(step / 100) for step in range(101)]
    assert shares[:31] == sorted(shares[:31])
    assert shares[30:] == sorted(shares[30:], reverse=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("temperature", 0.0),
        ("distillation_weight", 1.1),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("hint_weight", -0.1),
        ("hint_weight", math.inf),
    ],
)
def test_settings_without_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"TrainingSettings\.{name}: expected .*, got {value}"):
        TrainingSettings(**{"epochs": 1, name: value})  # type: ignore[arg-type]


def test_named_device_is_taken() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.skipif(pick_device(None).type == "cpu", reason="needs an accelerator")
@pytest.mark.parametrize("zeroed", [0.0, 0.5])
def test_training_on_an_accelerator_comes_back_to_the_cpu(
    tiny_network: nn.Module, tiny_task: Task, zeroed: float
) -> None:
    report = train(tiny_network, tiny_task, replace(QUICK, device=None), teacher=tiny_network, zeroed_weights=zeroed)
    assert report.best_metric is not None
    assert {tensor.device.type for tensor in tiny_network.state_dict().values()} == {"cpu"}
    assert zero_fraction(tiny_network) == pytest.approx(zeroed, abs=1e-3)
