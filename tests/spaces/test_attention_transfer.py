"""Attention transfer: its formula, where it looks, and that it leaves no hook behind."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.task import Task
from karui.spaces.training.attention_transfer import Maps, attention_map, attention_transfer_loss, map_distance
from karui.spaces.training.recovery import TrainingSettings, train
from karui.spaces.training.teacher import Teacher

QUICK = TrainingSettings(epochs=3, batch_size=32, learning_rate=5e-3, device="cpu")


def convolutions(channels: int, *strides: int) -> nn.Sequential:
    """One convolution and one rectifier for each stride, then the mean over all places."""
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        layers: list[nn.Module] = []
        for index, stride in enumerate(strides):
            layers += [nn.Conv2d(channels if index else 1, channels, 3, stride, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def distance(one: Tensor, other: Tensor) -> Tensor:
    return map_distance(attention_map(one), attention_map(other))


def maps_of(teacher: Teacher, inputs: Tensor) -> Maps:
    maps = teacher.taught(inputs, torch.device("cpu"), with_maps=True).maps
    assert maps is not None
    return maps


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_attention_is_the_squares_over_channels_at_length_one() -> None:
    """Squares of (3, 4) and (0, 0) over two channels, at two places: 25 and 0, so (1, 0); the other one (3, 4) / 5."""
    one = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).view(1, 2, 1, 2)
    other = torch.tensor([[math.sqrt(3.0), 2.0]]).view(1, 1, 1, 2)
    torch.testing.assert_close(attention_map(one), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(attention_map(other), torch.tensor([[0.6, 0.8]]))
    assert distance(one, other).item() == pytest.approx(0.4**2 + 0.8**2)
    both = torch.cat([one, torch.full_like(one, 2.0)]), torch.cat([other.expand(1, 2, 1, 2), torch.ones(1, 2, 1, 2)])
    assert distance(*both).item() == pytest.approx((0.4**2 + 0.8**2) / 2)
    assert distance(-5.0 * one, one).item() == pytest.approx(0.0, abs=1e-9)


def test_last_outputs_of_equal_resolutions_are_compared() -> None:
    """Strides 1, 2, 2 of an 8x8 image give 8, 4, 2 on a side; strides 2, 1, 4 give 4, 4, 1: only 4 is shared."""
    student, network = convolutions(4, 1, 2, 2), convolutions(6, 2, 1, 4)
    teacher = Teacher(network)
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student[3].eval()
    flags = [module.training for module in student.modules()]
    assert teacher.resolutions(inputs[:2]) == ((4, 4),)
    with attention_transfer_loss(student, teacher.resolutions(inputs[:2]), inputs[:2]) as transfer:
        assert transfer is not None
        assert transfer.resolutions == ((4, 4),)
        assert [module.training for module in student.modules()] == flags
        student(inputs)
        loss = transfer.loss(maps_of(teacher, inputs))
        # the last of that resolution: each second rectifier
        expected = distance(student[:4](inputs), network[:4](inputs))
        torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0.0)  # the teacher's maps are in half precision
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad is not None for parameter in student.parameters()]
    assert gradients == [True] * 4 + [False] * 4
    assert not any(parameter.grad is not None for parameter in network.parameters())
    assert hooks_of(student) == hooks_of(teacher.on(torch.device("cpu"))) == 0


def test_module_that_runs_at_two_resolutions_is_told_apart() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.activation = nn.ReLU()

        def forward(self, images: Tensor) -> Tensor:
            small: Tensor = self.activation(nn.functional.avg_pool2d(self.activation(images), 2))
            return small.flatten(1)

    inputs = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    student, teacher = Shared(), Teacher(Shared())
    with attention_transfer_loss(student, teacher.resolutions(inputs), inputs) as transfer:
        assert transfer is not None
        assert set(transfer.resolutions) == {(4, 4), (2, 2)}
        student(inputs)
        large = nn.functional.relu(inputs), nn.functional.relu(-inputs)
        small = [nn.functional.avg_pool2d(features, 2) for features in large]
        found = transfer.loss(maps_of(teacher, -inputs))
        torch.testing.assert_close(found, distance(*large) + distance(*small), rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("strides", [(4, 2), (8,)])
def test_nothing_shared_is_nothing_hooked(strides: tuple[int, ...]) -> None:
    student, inputs = convolutions(4, *strides), torch.zeros(2, 1, 8, 8)
    with attention_transfer_loss(student, Teacher(convolutions(4, 1, 2)).resolutions(inputs), inputs) as transfer:
        assert transfer is None
        assert hooks_of(student) == 0


def test_hooks_go_when_the_training_is_stopped() -> None:
    network = convolutions(4, 1, 2)

    def stop() -> None:
        assert hooks_of(network) > 0
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"), attention_transfer_loss(network, [(4, 4)], torch.zeros(2, 1, 8, 8)):
        stop()
    assert hooks_of(network) == 0


def test_student_taught_where_to_look_looks_there(tiny_network: nn.Module, tiny_task: Task) -> None:
    teacher = copy.deepcopy(tiny_network)
    train(teacher, tiny_task, QUICK)
    before = copy.deepcopy(teacher.state_dict())
    student = convolutions(4, 1, 2)
    inputs = tiny_task.calibration_batch(64)
    distances = []
    calls = iter(range(100))
    for weight in (0.0, 10.0):
        taught = copy.deepcopy(student)
        # a metric that always rises keeps the last epoch's weights
        task = replace(tiny_task, metric=lambda _outputs, _targets: float(next(calls)))
        train(taught, task, replace(QUICK, hint_weight=weight), teacher=teacher)
        says = Teacher(teacher)
        with attention_transfer_loss(taught, says.resolutions(inputs[:2]), inputs[:2]) as transfer, torch.no_grad():
            assert transfer is not None
            taught(inputs)
            distances.append(transfer.loss(maps_of(says, inputs)).item())
        assert hooks_of(taught) == hooks_of(teacher) == 0
    assert distances[1] < 0.7 * distances[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_hints_do_nothing_for_what_is_no_image() -> None:
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    split = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    teacher, student = nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    task = Task(model=teacher, train=split, validation=split, test=split)
    twins = [copy.deepcopy(student) for _ in range(2)]
    for weight, twin in zip((0.0, 10.0), twins, strict=True):
        train(twin, task, replace(QUICK, hint_weight=weight), teacher=teacher)
    for one, other in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
