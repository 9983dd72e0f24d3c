"""A teacher says the same as its network does, and says it once."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.spaces.task import Task
from karui.spaces.training.distillation import Batches
from karui.spaces.training.recovery import train
from karui.spaces.training.teacher import Teacher
from karui.spaces.training.training_settings import TrainingSettings

CPU = torch.device("cpu")


class Counting(nn.Linear):
    """A layer that counts the samples it sees, copies of it included."""

    seen: list[int]

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        return super().forward(inputs)


@pytest.fixture
def counting() -> Counting:
    layer = Counting(2, 3)
    Counting.seen = []
    return layer


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 80))
@settings(deadline=None, max_examples=40)
def test_outputs_are_those_of_the_network_whatever_is_remembered(asked: list[int], most_bytes: int) -> None:
    network = nn.Linear(2, 3)
    teacher = Teacher(network, most_bytes=most_bytes)
    batches = [torch.tensor([[float(number), 1.0], [0.0, number / 7]]) for number in range(4)]
    for number in asked:
        torch.testing.assert_close(teacher.outputs(batches[number], CPU), network(batches[number]).detach())


def test_same_batch_is_computed_once_and_a_changed_one_anew(counting: Counting) -> None:
    teacher = Teacher(counting)
    inputs = torch.rand(5, 2)
    first = teacher.outputs(inputs, CPU)
    assert teacher.outputs(inputs.clone(), CPU) is first
    inputs[4, 1] = torch.nextafter(inputs[4, 1], torch.tensor(2.0))
    teacher.outputs(inputs, CPU)
    assert Counting.seen == [5, 5]


def test_what_does_not_fit_is_computed_every_time(counting: Counting) -> None:
    teacher = Teacher(counting, most_bytes=6 * 3 * 4)
    kept, other = torch.rand(4, 2), torch.rand(4, 2)
    for inputs in (kept, other, kept, other):
        teacher.outputs(inputs, CPU)
    assert Counting.seen == [4, 4, 4]


def test_layout_of_the_batch_does_not_matter(counting: Counting) -> None:
    inputs = torch.rand(2, 4)
    teacher = Teacher(counting)
    transposed = inputs.T
    torch.testing.assert_close(teacher.outputs(transposed, CPU), teacher.outputs(transposed.contiguous(), CPU))
    assert Counting.seen == [4]


def test_whole_split_is_computed_once_and_forgotten_for_another(counting: Counting) -> None:
    one, other = (TensorDataset(torch.rand(7, 2), torch.arange(7)) for _ in range(2))
    # room for one of them
    teacher = Teacher(counting, most_bytes=7 * 3 * 4)
    for split in (one, one, other, one):
        outputs = teacher.outputs_of_all(split, CPU)
        assert outputs is not None
        torch.testing.assert_close(outputs, nn.functional.linear(split.tensors[0], counting.weight, counting.bias))
    assert sum(Counting.seen) == 3 * (1 + 7)
    assert Teacher(counting, most_bytes=7 * 3 * 4 - 1).outputs_of_all(one, CPU) is None


class Looking(nn.Sequential):
    """A network of images that counts its runs, copies of it included."""

    runs = 0

    def forward(self, inputs: Tensor) -> Tensor:
        Looking.runs += 1
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


@pytest.fixture
def looking() -> Looking:
    network = Looking(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten(), nn.Linear(64, 3))
    Looking.runs = 0
    return network


def test_maps_are_those_of_the_last_features_of_each_resolution(looking: Looking) -> None:
    inputs = torch.rand(5, 1, 8, 8)
    taught = Teacher(looking).taught(inputs, CPU, with_maps=True)
    assert taught.maps is not None
    assert {place: tuple(each.shape) for place, each in taught.maps.items()} == {(8, 8): (5, 64), (4, 4): (5, 16)}
    for place, layers in {(8, 8): 2, (4, 4): 3}.items():
        squares = looking[:layers](inputs).detach().square().sum(dim=1).flatten(1)
        expected = squares / squares.square().sum(dim=1, keepdim=True).sqrt()
        torch.testing.assert_close(taught.maps[place].float(), expected, rtol=2**-11, atol=2**-24)
    torch.testing.assert_close(taught.outputs, looking(inputs).detach())
    assert not any(module._forward_hooks for module in looking.modules())


def test_maps_are_remembered_and_serve_those_who_want_outputs_alone(looking: Looking) -> None:
    teacher, inputs = Teacher(looking), torch.rand(5, 1, 8, 8)
    teacher.resolutions(inputs)
    before = Looking.runs
    assert teacher.taught(inputs, CPU).maps is None
    first = teacher.taught(inputs, CPU, with_maps=True)  # runs anew: nobody had asked for maps
    assert Looking.runs == before + 2
    assert teacher.taught(inputs.clone(), CPU, with_maps=True) is first
    assert teacher.taught(inputs, CPU) is first
    assert Looking.runs == before + 2


@pytest.mark.parametrize(("room", "runs"), [(2, 2), (1.5, 3), (0.1, 4)])
def test_maps_count_as_what_is_remembered(looking: Looking, room: float, runs: int) -> None:
    one, other = torch.rand(2, 5, 1, 8, 8)
    of_one = 5 * 3 * 4 + 5 * (64 + 16) * 2
    teacher = Teacher(looking, most_bytes=int(room * of_one))
    teacher.resolutions(one)
    before = Looking.runs
    for inputs in (one, other, one, other):
        teacher.taught(inputs, CPU, with_maps=True)
    assert Looking.runs == before + runs


def test_students_with_hints_learn_the_same_whatever_is_remembered(tiny_network: nn.Module, tiny_task: Task) -> None:
    settings = TrainingSettings(epochs=2, batch_size=32, device="cpu", hint_weight=1.0)
    changing = replace(tiny_task, augment=lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    students = [copy.deepcopy(tiny_network) for _ in range(3)]
    remembering = Teacher(tiny_network)
    for student, teacher in zip(students, (remembering, remembering, Teacher(tiny_network, most_bytes=0)), strict=True):
        train(student, changing, settings, teacher=teacher)
    first, second, third = (student.state_dict() for student in students)
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)


def test_samples_that_may_change_are_not_taken_at_once(counting: Counting) -> None:
    class Plain(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.rand(2), index

    assert Teacher(counting).outputs_of_all(Plain(), CPU) is None  # type: ignore[arg-type]


def test_network_is_neither_moved_nor_put_in_another_mode() -> None:
    layer = nn.Linear(2, 3)
    network = nn.Sequential(layer, nn.Dropout(0.9)).train()
    teacher = Teacher(network)
    inputs = torch.rand(8, 2)
    torch.testing.assert_close(teacher.outputs(inputs, CPU), layer(inputs).detach())
    assert all(module.training for module in network.modules())
    layer.weight.data.zero_()
    assert not torch.equal(Teacher.of(teacher, "float32").outputs(inputs + 1, CPU), layer(inputs + 1))


def test_it_computes_in_the_precision_that_it_is_made_for() -> None:
    network, inputs = nn.Linear(3, 2, bias=False), torch.rand(5, 3)
    exact = inputs.bfloat16().double() @ network.weight.bfloat16().double().T
    outputs = Teacher(network, precision="bfloat16").outputs(inputs, CPU)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.double(), exact, rtol=2**-8, atol=0.0)  # one rounding: 8 bits of significand
    assert torch.equal(Teacher.of(network, "bfloat16").outputs(inputs, CPU), outputs)
    assert torch.equal(Teacher.of(network, "float32").outputs(inputs, CPU), network(inputs))


def test_two_networks_see_the_same_batches_whatever_they_draw() -> None:
    split = TensorDataset(torch.rand(20, 2), torch.arange(20) % 3)
    task = Task(
        model=nn.Linear(2, 3), train=split, validation=split, test=split,
        augment=lambda inputs: inputs + torch.randn_like(inputs),
    )  # fmt: skip

    def batches(draws: int) -> list[Tensor]:
        found = []
        for _ in range(2):
            for inputs, _, _ in Batches(task, 6, None, seed=5, device=CPU):
                torch.rand(draws)
                found.append(inputs)
        return found

    for one, other in zip(batches(0), batches(3), strict=True):
        assert torch.equal(one, other)


def test_changes_differ_from_batch_to_batch_and_from_epoch_to_epoch() -> None:
    split = TensorDataset(torch.zeros(12, 2), torch.zeros(12, dtype=torch.long))
    task = Task(
        model=nn.Linear(2, 3), train=split, validation=split, test=split,
        augment=lambda inputs: inputs + torch.rand(len(inputs), 2),
    )  # fmt: skip
    batches = Batches(task, 4, None, seed=5, device=CPU)
    values = torch.cat([inputs for _ in range(3) for inputs, _, _ in batches]).flatten()
    assert len(set(values.tolist())) == len(values) == 3 * 12 * 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("taught", [False, True])
def test_batches_never_have_their_channels_last(channels: int, augmented: bool, taught: bool) -> None:
    def last(inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs.as_strided(inputs.shape, (20 * channels, 1, 5 * channels, channels))  # of one channel, too

    images = torch.rand(12, channels, 4, 5)
    split = TensorDataset(last(images), torch.zeros(12, dtype=torch.long))
    model = nn.Sequential(nn.Flatten(), nn.Linear(20 * channels, 3))
    task = Task(
        model=model, train=split, validation=split, test=split,
        augment=last if augmented else None,
    )  # fmt: skip
    batches = list(Batches(task, 4, Teacher(model) if taught else None, seed=5, device=CPU))
    assert [inputs.stride() for inputs, _, _ in batches] == [(20 * channels, 20, 5, 1)] * 3
    found = torch.cat([inputs for inputs, _, _ in batches])
    torch.testing.assert_close(found.sum(), images.sum())


def test_second_network_needs_no_run_of_the_teacher(counting: Counting) -> None:
    split = TensorDataset(torch.rand(20, 2), torch.arange(20) % 3)
    task = Task(model=counting, train=split, validation=split, test=split, augment=torch.randn_like)
    teacher = Teacher(counting)
    Counting.seen.clear()  # the task runs a copy of its model once
    plain = TrainingSettings(epochs=2, batch_size=5, device="cpu", data_seed=9)
    train(nn.Sequential(nn.Linear(2, 3)), task, plain, teacher=teacher)
    assert sum(Counting.seen) == 2 * 20
    train(nn.Sequential(nn.Dropout(), nn.Linear(2, 3)), task, replace(plain, seed=1), teacher=teacher)
    assert sum(Counting.seen) == 2 * 20
    train(nn.Sequential(nn.Linear(2, 3)), task, replace(plain, epochs=3), teacher=teacher)
    assert sum(Counting.seen) == 3 * 20
