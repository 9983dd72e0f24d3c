"""What each axis reaches of a model, in sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from karui.spaces.axis_reach import describe_reach
from karui.spaces.export import export_onnx
from karui.spaces.quantization.axis import BitsAxis
from karui.spaces.space import SearchSpace
from karui.spaces.sparsity.axis import SparsityAxis
from karui.spaces.students.axis import StudentsAxis
from karui.spaces.task import Task

SPACE = SearchSpace(sparsity=SparsityAxis(), bits=BitsAxis(weights=(4, 32)))


class Attentive(nn.Module):
    """A convolution, a product of two computed tensors, a transposed convolution, a linear layer; (n, 3) out."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.convolution(inputs)
        attended = features.softmax(-1) @ features
        outputs: Tensor = self.head(self.transposed(attended).mean((2, 3)))
        return outputs


def shallower_students(
    widths: tuple[float, ...] = (1.0,), depths: tuple[float, ...] = (1.0,), resolutions: tuple[float, ...] = (1.0,)
) -> StudentsAxis:
    return StudentsAxis(families=("shallower",), widths=widths, depths=depths, resolutions=resolutions)


def described(task: Task, model: nn.Module, folder: Path, space: SearchSpace = SPACE) -> list[str]:
    export_onnx(model.eval(), task.calibration_batch(2), folder / "model.onnx")
    return describe_reach(space, replace(task, model=model), folder / "model.onnx")


def test_layers_of_a_residual_network_are_counted(tiny_task: Task, tmp_path: Path) -> None:
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in tiny_task.model.modules())
    found = described(tiny_task, tiny_task.model, tmp_path)
    assert found == [
        f"channels can be removed from {layers - 1} of {layers} layers (not head: makes the output)",
        f"weights can be rounded beside 8-bit activations in {layers} of {layers} layers",
        f"weights can be rounded beside float32 activations in {layers} of {layers} layers",
    ]


def test_what_is_left_alone_is_named(tiny_task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, beside_integers, beside_floats = described(tiny_task, Attentive(), tmp_path)
    for sentence in (beside_integers, beside_floats):
        assert "in 2 of 2 layers (not MatMul" in sentence
        assert "the weight is no constant float32 tensor" in sentence
        assert "not ConvTranspose" in sentence
        assert "weights of this operator stay float32" in sentence


def test_axes_that_are_not_searched_are_not_told(tiny_task: Task, tmp_path: Path) -> None:
    plain = SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0,)), bits=BitsAxis(weights=(32,)))
    assert described(tiny_task, tiny_task.model, tmp_path, plain) == []


def test_a_model_that_can_lose_no_channels_is_told(tiny_task: Task, tmp_path: Path) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    first, *_ = described(tiny_task, linear, tmp_path)
    assert first == "channels can be removed from 0 of 1 layers (not 1: makes the output)"


def test_a_model_that_cannot_compute_on_fewer_pixels_says_so(tiny_task: Task, tmp_path: Path) -> None:
    space = SearchSpace(students=shallower_students(resolutions=(1.0, 0.5)))
    assert described(tiny_task, tiny_task.model, tmp_path, space) == []
    pixels = tiny_task.calibration_batch(1).shape[-1] * tiny_task.calibration_batch(1).shape[-2]
    flat = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * pixels, 3))
    (sentence,) = described(tiny_task, flat, tmp_path, space)
    assert sentence.startswith("the model cannot compute at resolution 0.5: the network does not run at resolution 0.5")


def test_channels_that_only_students_lose_are_told(tiny_task: Task, tmp_path: Path) -> None:
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in tiny_task.model.modules())
    space = SearchSpace(students=shallower_students(widths=(0.5, 1.0)))
    found = described(tiny_task, tiny_task.model, tmp_path, space)
    assert found == [f"channels can be removed from {layers - 1} of {layers} layers (not head: makes the output)"]
    others = SearchSpace(students=StudentsAxis(families=("mobilenet_v2",), widths=(0.5,), depths=(0.5,)))
    assert described(tiny_task, tiny_task.model, tmp_path, others) == []


def test_blocks_that_students_drop_are_counted(tiny_task: Task, tmp_path: Path) -> None:
    """Two stages of two blocks, of which the second of each goes; 0.75 of two blocks is rounded to both."""
    space = SearchSpace(students=shallower_students(depths=(0.75, 0.5, 1.0)))
    found = described(tiny_task, tiny_task.model, tmp_path, space)
    assert found == ["2 of the model's blocks can be dropped: none at depth 0.75, 2 at depth 0.5"]


def test_a_model_without_repeated_blocks_says_that_depth_changes_nothing(tiny_task: Task, tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    space = SearchSpace(students=shallower_students(depths=(0.5, 1.0)))
    (sentence,) = described(tiny_task, plain, tmp_path, space)
    assert sentence == "none of the model's blocks can be dropped, as none repeats: depths of [students] change nothing"


class TakesByNumber(nn.Module):
    """Two blocks of one shape, of which it takes the second by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(2)))
        self.head = nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.blocks(inputs).flatten(1) + self.blocks[1](inputs).flatten(1))
        return outputs


def test_a_model_that_does_not_run_without_its_last_blocks_says_so(tiny_task: Task, tmp_path: Path) -> None:
    space = SearchSpace(students=shallower_students(depths=(0.5,)))
    counted, failed = described(tiny_task, TakesByNumber(), tmp_path, space)
    assert counted == "1 of the model's blocks can be dropped: 1 at depth 0.5"
    assert failed.startswith(
        "the model cannot be cut to depth 0.5: the network does not run without the dropped blocks"
    )
