"""What each axis reaches of a model, in sentences."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.building.axis_coverage import describe_coverage
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.quantize import zero_weights as zero_file
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.space import SearchSpace
from karui.spaces.sparsity_names import ZeroingTime
from karui.spaces.task import Task
from karui.spaces.training.zeroing import zero_weights

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
    return describe_coverage(space, replace(task, model=model), folder / "model.onnx")


def weights_in(path: Path) -> list[onnx.TensorProto]:
    """The constants of two axes or more, in the order of the names."""
    graph = onnx.load(path).graph
    return sorted((tensor for tensor in graph.initializer if len(tensor.dims) > 1), key=lambda tensor: tensor.name)


def test_layers_of_a_residual_network_are_counted(tiny_task: Task, tmp_path: Path) -> None:
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in tiny_task.model.modules())
    found = described(tiny_task, tiny_task.model, tmp_path)
    assert found == [
        f"channels can be removed from {layers - 1} of {layers} layers (not head: makes the output)",
        f"weights can be zeroed gradually in {layers - 2} of {layers} layers "
        "(not Conv2d stem.0: fewer than 100 weights; not Linear head: fewer than 100 weights)",
        f"weights can be rounded beside 8-bit activations in {layers} of {layers} layers",
        f"weights can be rounded beside float32 activations in {layers} of {layers} layers",
    ]


def test_what_is_left_alone_is_named(tiny_task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, _, beside_integers, beside_floats = described(tiny_task, Attentive(), tmp_path)
    for sentence in (beside_integers, beside_floats):
        assert "in 3 of 3 layers (not MatMul" in sentence
        assert "the weight is no constant float32 tensor" in sentence
    assert "not ConvTranspose" in beside_integers
    assert "its weights are rounded, but it has no int8 kernel" in beside_integers
    assert "ConvTranspose" not in beside_floats


def test_axes_that_are_not_searched_are_not_told(tiny_task: Task, tmp_path: Path) -> None:
    plain = SearchSpace(
        sparsity=SparsityAxis(removed_channels=(0.0,), zeroed_weights=(0.0,)), bits=BitsAxis(weights=(32,))
    )
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


class Mixed(nn.Module):
    """Layers of every kind, some of whose weights stay; (n, 1, 8, 8) to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 16, 3, padding=1)
        self.transposed = nn.ConvTranspose2d(16, 8, 2, 2)
        self.normal = nn.LayerNorm([8, 16])
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.tiny = nn.Linear(16, 4)
        self.rnn = nn.LSTM(4, 16, batch_first=True)
        self.places = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 8)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.normal(self.transposed(self.convolution(inputs)).mean(2)) @ self.places
        attended, _ = self.attention(features, features, features, need_weights=False)
        states, _ = self.rnn(self.tiny(attended))
        outputs: Tensor = self.last(self.head(states[:, -1]))
        return outputs


def zeroing(*times: ZeroingTime) -> SearchSpace:
    return SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0,), zeroing=times))


def test_where_weights_are_zeroed_is_told_for_the_times_in_use(tiny_task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixed()
    (gradual,) = described(tiny_task, model, tmp_path, zeroing("gradual"))
    # both convolutions, attention, its output and the head; normalization holds no weights, and weight_norm is folded
    assert gradual.startswith(
        "weights can be zeroed gradually in 5 of 9 layers (not Mixed: not zeroed in layers of this"
    )
    assert "; not Linear tiny: fewer than 100 weights; not LSTM rnn: not zeroed in layers of this kind; " in gradual
    assert gradual.endswith("; not Linear last: fewer than 100 weights)")
    zero_weights(model, 0.5)
    for name, is_zeroed in (
        ("convolution.weight", True),
        ("transposed.weight", True),
        ("attention.in_proj_weight", True),
        ("attention.out_proj.weight", True),
        ("tiny.weight", False),
        ("rnn.weight_ih_l0", False),
        ("places", False),
        ("head.weight", True),
    ):
        assert bool((model.get_parameter(name) == 0).any()) == is_zeroed, name


def test_zeros_at_once_are_told_by_the_file(tiny_task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (at_once,) = described(tiny_task, Mixed(), tmp_path, zeroing("one_shot"))
    match = re.fullmatch(r"weights can be zeroed at once in (\d+) of (\d+) layers \(not (.*)\)", at_once)
    assert match is not None, at_once
    destination, calibration = tmp_path / "zeros.onnx", tiny_task.calibration_batch(8).numpy()
    zero_file(tmp_path / "model.onnx", destination, Zeroing(0.5), calibration=calibration)
    changed = sum(
        not np.array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before))
        for before, after in zip(weights_in(tmp_path / "model.onnx"), weights_in(destination), strict=True)
    )
    assert int(match[1]) == changed
    left = match[3].split("; not ")
    assert int(match[2]) == changed + len(left)
    for kind in ("ConvTranspose", "LSTM"):
        assert sum(text.startswith(kind) and text.endswith("not zeroed in layers of this kind") for text in left) == 1


def test_both_times_are_told_and_training_with_rounded_weights_zeroes_gradually(
    tiny_task: Task, tmp_path: Path
) -> None:
    both = described(tiny_task, tiny_task.model, tmp_path, zeroing("gradual", "one_shot"))
    assert [sentence.partition(" in ")[0].rpartition("zeroed ")[2] for sentence in both] == ["gradually", "at once"]
    aware = SearchSpace(**zeroing("one_shot").by_name, bits=BitsAxis(weights=(4,), training=("aware",)))
    assert [
        sentence for sentence in described(tiny_task, tiny_task.model, tmp_path, aware) if "zeroed" in sentence
    ] == both


def test_a_model_without_layers_that_can_be_zeroed_says_so(tiny_task: Task, tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3]

    gradual, at_once = described(tiny_task, Scaled(), tmp_path, zeroing("gradual", "one_shot"))
    assert gradual == "weights can be zeroed gradually in 0 of 0 layers"
    assert at_once.startswith("weights of none of the model's layers can be zeroed at once: model.onnx holds no Conv")


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
    (failed,) = described(tiny_task, TakesByNumber(), tmp_path, space)
    assert failed.startswith(
        "none of the model's blocks can be dropped: the network does not run without the dropped blocks"
    )
