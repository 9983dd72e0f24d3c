"""Warm start: a student begins as the most important part of a wider or deeper network of its family."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from karui.spaces.axes.students.families import build_family
from karui.spaces.axes.students.names import FAMILIES
from karui.spaces.axes.students.warm_start import WarmStart, warm_start

SHAPE = (1, 8, 8)


def family(name: str, width: float, *, outputs: int = 4) -> nn.Module:
    """A network whose normalization has seen data, so that its outputs depend on all of its layers."""
    torch.manual_seed(0)
    network = build_family(name, width=width, input_shape=SHAPE, outputs=outputs).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *SHAPE))
    return network.eval()


def chain(channels: tuple[int, int], *, side: int, kernel: int = 3) -> nn.Sequential:
    """Two convolutions and a linear layer that sees every position of the image."""
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * side * side, 3),
    ).eval()


def weight(network: nn.Module, name: str) -> Tensor:
    return network.get_parameter(f"{name}.weight").detach()


def test_chain_takes_the_channels_that_were_made_important(example: Tensor) -> None:
    """Rows of chosen channels are large; the student is put together from them by hand."""
    torch.manual_seed(1)
    baseline = chain((6, 5), side=8)
    first, second = [1, 4, 5], [0, 3]
    with torch.no_grad():
        baseline.get_buffer("1.running_mean").uniform_()
        baseline.get_buffer("1.running_var").uniform_(0.5, 2.0)
        weight(baseline, "0")[first] *= 30.0
        weight(baseline, "3")[second] *= 30.0
    student = chain((3, 2), side=8)
    assert warm_start(student, baseline, example) == WarmStart(copied_layers=4, all_layers=4)

    def expected(images: Tensor) -> Tensor:
        hidden = torch.relu(baseline[1](baseline[0](images)))[:, first]
        kernel, bias = weight(baseline, "3")[second][:, first], baseline.get_parameter("3.bias")[second]
        features = torch.relu(nn.functional.conv2d(hidden, kernel, bias, padding=1)).flatten(1)
        head = weight(baseline, "6").reshape(3, 5, 8 * 8)[:, second].flatten(1)
        return nn.functional.linear(features, head, baseline.get_parameter("6.bias"))

    torch.testing.assert_close(student(example), expected(example), rtol=1e-5, atol=1e-5)


def test_channels_without_effect_are_what_is_left_out(tiny_network: nn.Module, example: Tensor) -> None:
    """A residual network, half of whose channels are zero at known places, computes what its student computes."""
    baseline, student = tiny_network.eval(), type(tiny_network)(4).eval()
    torch.manual_seed(5)
    # the streams that residual blocks add to, each with all that writes to it
    streams = [
        ["stem.0", "stem.1", "stage1.0.conv2", "stage1.0.norm2", "stage1.1.conv2", "stage1.1.norm2"],
        [
            *(f"stage2.0.{layer}" for layer in ("conv2", "norm2", "shortcut.0", "shortcut.1")),
            "stage2.1.conv2",
            "stage2.1.norm2",
        ],
    ]
    inner = [[f"{block}.conv1", f"{block}.norm1"] for block in ("stage1.0", "stage1.1", "stage2.0", "stage2.1")]
    with torch.no_grad():
        for tied in streams + inner:
            channels = len(weight(baseline, tied[0]))
            silent = torch.randperm(channels)[: channels // 2]
            for name in tied:
                for tensor in baseline.get_submodule(name).parameters(recurse=False):
                    tensor[silent] = 0.0
    warm = warm_start(student, baseline, example)
    assert warm.copied_layers == warm.all_layers
    torch.testing.assert_close(student(example), baseline(example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_student_of_the_same_shapes_is_the_baseline(name: str, example: Tensor) -> None:
    baseline = family(name, 0.25)
    student = build_family(name, width=0.25, input_shape=SHAPE, outputs=4).eval()
    warm = warm_start(student, baseline, example)
    assert warm.copied_layers == warm.all_layers > 0
    torch.testing.assert_close(student(example), baseline(example), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "shufflenet_v2"])
def test_narrower_student_holds_nothing_but_the_baselines_weights(name: str, example: Tensor) -> None:
    """Every kernel of a warm layer is one of the kernels at the same place in the baseline."""
    wide, narrow = (0.25, 0.125) if name == "resnet18" else (0.5, 0.25)
    baseline = family(name, wide)
    student = build_family(name, width=narrow, input_shape=SHAPE, outputs=4).eval()
    fresh = copy.deepcopy(student.state_dict())
    warm = warm_start(student, baseline, example)
    assert warm.copied_layers >= 0.8 * warm.all_layers
    theirs = dict(baseline.named_parameters())
    copied = [key for key, tensor in student.named_parameters() if not torch.equal(tensor, fresh[key])]
    for key in copied:
        values = set(theirs[key].detach().flatten().tolist())
        assert set(student.get_parameter(key).detach().flatten().tolist()) <= values
    # a bias or a normalization may be equal to what it replaces, a kernel cannot; about half of the layers have one
    assert sum(theirs[key].dim() > 1 for key in copied) >= 0.4 * warm.copied_layers


def test_shuffled_channels_leave_a_narrower_student_cold(example: Tensor) -> None:
    student = build_family("shufflenet_v2", width=0.25, input_shape=SHAPE, outputs=4)
    fresh = copy.deepcopy(student.state_dict())
    assert warm_start(student, family("shufflenet_v2", 0.5), example).copied_layers == 0
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in student.state_dict().items())


class Mirrored(nn.Module):
    """Turns the order of the channels round between two convolutions, which no tracing through autograd sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3)
        self.second = nn.Conv2d(channels, 3, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(torch.relu(self.first(inputs)).flip(1)).flatten(1)
        return outputs


def test_tracing_that_is_wrong_about_the_order_is_not_believed(example: Tensor) -> None:
    torch.manual_seed(0)
    student, baseline = Mirrored(3), Mirrored(6)
    before = copy.deepcopy(student.state_dict())
    assert warm_start(student, baseline, example) == WarmStart(copied_layers=0, all_layers=2)
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.state_dict().items())


@pytest.mark.parametrize(
    ("student", "baseline"),
    [("mobilenet_v2", "efficientnet_b0"), ("resnet18", "mnasnet"), ("mnasnet", "resnet18")],
)
def test_other_family_gives_nothing(student: str, baseline: str, example: Tensor) -> None:
    cold = build_family(student, width=0.25, input_shape=SHAPE, outputs=4)
    fresh = copy.deepcopy(cold.state_dict())
    assert warm_start(cold, family(baseline, 0.25), example).copied_layers == 0
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in cold.state_dict().items())


def test_wider_student_stays_as_it_is(example: Tensor) -> None:
    student = build_family("mobilenet_v2", width=0.5, input_shape=SHAPE, outputs=4)
    assert warm_start(student, family("mobilenet_v2", 0.25), example).copied_layers == 0


def test_deeper_baseline_gives_its_first_blocks() -> None:
    torch.manual_seed(0)
    deep = models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=4)
    deep.set_submodule("conv1", nn.Conv2d(1, 64, 7, 2, padding=3, bias=False))
    student = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    student.set_submodule("conv1", nn.Conv2d(1, 64, 3, padding=1, bias=False))
    warm = warm_start(student, deep.eval(), torch.randn(2, 1, 16, 16))
    assert warm.copied_layers == warm.all_layers
    shared = [key for key in student.state_dict() if key != "conv1.weight"]
    assert all(torch.equal(student.state_dict()[key], deep.state_dict()[key]) for key in shared)
    # of the larger kernel, the centre
    assert torch.equal(weight(student, "conv1"), weight(deep, "conv1")[:, :, 2:5, 2:5])


def test_baseline_and_flags_are_left_alone(example: Tensor) -> None:
    baseline, student = chain((6, 5), side=8), chain((3, 2), side=8)
    before = copy.deepcopy(baseline.state_dict())
    baseline.train()
    baseline.requires_grad_(False)
    student.train()
    with torch.no_grad():
        warm_start(student, baseline, example)
    assert baseline.training
    assert student.training
    assert not any(parameter.requires_grad for parameter in baseline.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in baseline.state_dict().items())


class OneOfTwo(nn.Module):
    """A block that adds its input where it can: in the narrow network, but not in the wide one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.adds = channels == out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.relu(self.conv(inputs))
        return inputs + outputs if self.adds else outputs


def test_layers_that_are_tied_otherwise_stay_cold(example: Tensor) -> None:
    def network(first: int, second: int) -> nn.Sequential:
        plain = [layer for _ in range(7) for layer in (nn.Conv2d(first, first, 1), nn.ReLU())]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 3)]
        return nn.Sequential(nn.Conv2d(1, first, 3), nn.ReLU(), *plain, OneOfTwo(first, second), *head).eval()

    torch.manual_seed(0)
    student, baseline = network(2, 2), network(4, 6)
    fresh = copy.deepcopy(student.state_dict())
    # the layers before the block, the block's own and the head
    assert warm_start(student, baseline, example) == WarmStart(copied_layers=7, all_layers=10)
    cold = [key for key, tensor in student.state_dict().items() if torch.equal(tensor, fresh[key])]
    assert {key.rpartition(".")[0] for key in cold} == {"14", "16.conv", "19"}
