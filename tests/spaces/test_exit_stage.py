"""Exits as a stage of the build: the file against a decision made in Python, what is shared, and what fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure, SpaceError
from karui.spaces.axes.exits import stage
from karui.spaces.axes.exits.axis import ExitsAxis
from karui.spaces.axes.exits.cut import nearest_cut
from karui.spaces.axes.exits.exit_file_check import ExitChoice
from karui.spaces.axes.exits.head import soft_labels
from karui.spaces.building.axis_coverage import describe_coverage
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.task_fit import check_fit
from karui.spaces.candidate import Candidate
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.space import SearchSpace
from karui.spaces.task import Task

from .conftest import TinyResNet, striped_images

SETTINGS = BuildSettings(epochs=1, epochs_from_scratch=1, epochs_aware=1, channel_multiple=1)
QUANTIZATION = QuantizationSettings(calibration_samples=16)
EARLY = SearchSpace(exits=ExitsAxis())
Floats = NDArray[np.float32]


@pytest.fixture
def builder(tiny_task: Task, tmp_path: Path) -> Builder:
    return Builder(tiny_task, SETTINGS, tmp_path, quantization=QUANTIZATION)


def run_one_by_one(path: Path, inputs: Floats) -> Floats:
    session = open_session(onnx.load(path))
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: inputs[row : row + 1]})[0] for row in range(len(inputs))])


def stages_of(builder: Builder, candidate: Candidate) -> list[str]:
    return [record.stage for record in builder.build(candidate).stages]


def twin(whole: Path, early: Path, depth: float, inputs: Floats) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Return the whole network's logits, the head's, and how sure the head is, from the file without an exit.

    Of the file with the exit only the weights of its head are read; the rest is numpy.
    """
    model = onnx.load(whole)
    cut = nearest_cut(model, depth).tensor
    model.graph.output.append(helper.make_tensor_value_info(cut, TensorProto.FLOAT, None))
    outputs, images = open_session(model).run(None, {model.graph.input[0].name: inputs})
    graph = onnx.load(early).graph
    (head,) = (node for node in graph.node if node.op_type == "Gemm")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    logits = images.mean(axis=(2, 3)) @ tensors[head.input[1]].T + tensors[head.input[2]]
    powers = np.exp(logits.astype(np.float64))
    return outputs, logits, powers.max(axis=1) / powers.sum(axis=1)


def test_each_input_of_a_built_file_goes_the_way_that_its_confidence_says(builder: Builder, tiny_task: Task) -> None:
    inputs = tiny_task.calibration_batch(40).numpy()
    whole = builder.build(Candidate())
    early = Candidate(exit_depth=0.4, exit_threshold=0.5)
    _, _, sure = twin(whole.path, builder.build(early).path, 0.4, inputs)
    # The head does not depend on the threshold: half of the inputs on either side of another one.
    ordered = np.sort(sure)
    threshold = float(ordered[19] + ordered[20]) / 2
    path = builder.build(replace(early, exit_threshold=threshold)).path
    outputs, logits, sure = twin(whole.path, path, 0.4, inputs)
    taken = sure > threshold
    assert taken.sum() == 20
    expected = np.where(taken[:, None], logits, outputs)
    assert np.abs(logits - outputs).max() > 0.1, "the two ways must differ for this test to say anything"
    np.testing.assert_allclose(run_one_by_one(path, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(weight_bits=4, activation_bits=8),
        Candidate(removed_channels=0.5, weight_bits=3),
        Candidate(weight_bits=4, zeroed_weights=0.5, zeroing="one_shot"),
    ],
)
def test_an_exit_that_is_never_taken_leaves_the_rounded_network_as_it_is(
    builder: Builder, tiny_task: Task, candidate: Candidate
) -> None:
    inputs = tiny_task.calibration_batch(20).numpy()
    never = replace(candidate, exit_depth=0.6, exit_threshold=1 - 1e-7)
    expected = run_one_by_one(builder.build(candidate).path, inputs)
    np.testing.assert_allclose(run_one_by_one(builder.build(never).path, inputs), expected, rtol=1e-4, atol=1e-5)


def test_exits_share_everything_before_them(builder: Builder) -> None:
    plain = Candidate(removed_channels=0.5)
    early = replace(plain, exit_depth=0.4, exit_threshold=0.9)
    assert stages_of(builder, early) == ["architecture", "recovery", "export", "exit"]
    assert stages_of(builder, plain) == ["network", "packing"]
    assert stages_of(builder, replace(early, exit_depth=0.7)) == ["network", "exit"]
    assert stages_of(builder, replace(early, weight_bits=4)) == ["network", "quantization", "exit"]
    aware = replace(plain, weight_bits=2, activation_bits=8, bit_training="aware")
    assert stages_of(builder, aware) == ["network", "aware training", "quantization", "packing"]
    after = builder.build(replace(aware, exit_depth=0.4, exit_threshold=0.9)).stages
    assert [(record.stage, record.cached) for record in after[:2]] == [("network", True), ("aware training", True)]
    assert [record.stage for record in after[2:]] == ["quantization", "exit"]


def test_the_same_exit_is_the_same_file(tiny_task: Task, tmp_path: Path) -> None:
    early = Candidate(weight_bits=4, activation_bits=8, exit_depth=0.4, exit_threshold=0.9)
    alone, other = (Builder(tiny_task, SETTINGS, tmp_path / name) for name in ("alone", "other"))
    other.build(Candidate(exit_depth=0.8, exit_threshold=0.8))
    assert other.build(early).digest == alone.build(early).digest


def test_heads_learn_from_samples_spread_over_the_training_data(
    tiny_task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Floats, NDArray[np.int64]]] = []
    monkeypatch.setattr(stage, "pack_with_exit", lambda *_, inputs, targets: given.append((inputs, targets)))
    monkeypatch.setattr(stage, "HEAD_SAMPLES", 12)
    inputs, targets = striped_images(60, seed=1).tensors
    order = torch.argsort(targets, stable=True)
    task = replace(tiny_task, train=TensorDataset(inputs[order], targets[order]), augment=torch.zeros_like)
    stage.ExitStage(task).make(tmp_path, tmp_path, ExitChoice(0.5, 0.9))
    ((seen, classes),) = given
    np.testing.assert_array_equal(classes, np.repeat([0, 1, 2], 4))
    # one of every five
    in_order = inputs[order].numpy()
    rows = [int(np.flatnonzero((in_order == each).all(axis=(1, 2, 3)))[0]) for each in seen]
    assert [row // 5 for row in rows] == list(range(12))


# --- what fails -------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """A network without an activation of four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def failure_of(task: Task, folder: Path) -> CandidateFailure:
    builder = Builder(task, SETTINGS, folder, quantization=QUANTIZATION)
    with pytest.raises(CandidateFailure, match=r"^exit: ") as caught:
        builder.build(Candidate(exit_depth=0.4, exit_threshold=0.9))
    assert not builder.file_of(Candidate(exit_depth=0.4, exit_threshold=0.9)).exists()
    builder.build(Candidate())
    return caught.value


def test_a_network_without_a_cut_fails_in_the_exit(tiny_task: Task, tmp_path: Path) -> None:
    failure = failure_of(replace(tiny_task, model=Flat()), tmp_path)
    assert "no activation of four axes lies on every path" in failure.reason


def test_outputs_that_are_no_logits_fail_in_the_exit(tiny_task: Task, tmp_path: Path) -> None:
    failure = failure_of(replace(tiny_task, model=TinyResNet(outputs=1)), tmp_path)
    assert "logits of shape (n, classes >= 2) expected, got (192, 1)" in failure.reason


def test_classes_that_the_network_does_not_have_fail_in_the_exit(tiny_task: Task, tmp_path: Path) -> None:
    failure = failure_of(replace(tiny_task, model=TinyResNet(outputs=2)), tmp_path)
    assert "classes 0 to 1 expected, got 0 to 2" in failure.reason


def test_targets_that_are_no_classes_have_no_labels() -> None:
    with pytest.raises(ValueError, match=r"whole numbers of shape \(4,\) expected.*float32 of shape \(4,\)"):
        soft_labels(np.eye(4), np.ones(4, dtype=np.float32))
    with pytest.raises(ValueError, match=r"whole numbers of shape \(4,\) expected.*int64 of shape \(4, 1\)"):
        soft_labels(np.eye(4), np.ones((4, 1), dtype=np.int64))


def test_what_the_runtime_raises_is_the_failure_of_the_exit(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise runtime_errors.InvalidGraph("no such graph")

    monkeypatch.setattr(stage, "pack_with_exit", fail)
    assert failure_of(tiny_task, tmp_path).reason == "InvalidGraph: no such graph"


def test_a_full_disk_is_no_fault_of_an_exit(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "pack_with_exit", full)
    with pytest.raises(OSError, match="No space left"):
        builder.build(Candidate(exit_depth=0.4, exit_threshold=0.9))


# --- what is told at the start ----------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    """Two convolutions of as many multiply-adds each, and few in the head; (n, 1, 8, 8) to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pool, nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def told(task: Task, model: nn.Module, folder: Path, space: SearchSpace = EARLY) -> list[str]:
    export_onnx(model.eval(), task.calibration_batch(2), folder / "model.onnx")
    return describe_coverage(space, replace(task, model=model), folder / "model.onnx")


def test_where_an_exit_can_lie_is_told(tiny_task: Task, tmp_path: Path) -> None:
    first, second, head = 8 * 8 * 4 * 9, 4 * 4 * 8 * 2 * 9, 8 * 3
    shares = [first / (first + second + head), (first + second) / (first + second + head)]
    assert told(tiny_task, TwoLayers(), tmp_path) == [
        f"an early exit can lie at 2 places of the model, behind {shares[0]:.0%}, {shares[1]:.0%} of its multiply-adds"
    ]


def test_many_places_are_told_by_the_first_and_the_last(tiny_task: Task, tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(10)]
    (sentence,) = told(tiny_task, nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)), tmp_path)
    # Ten layers of 576 multiply-adds, and a head of 192.
    assert sentence == "an early exit can lie at 10 places of the model, behind 10% to 97% of its multiply-adds"


def test_a_model_that_can_have_no_exit_is_told(tiny_task: Task, tmp_path: Path) -> None:
    (sentence,) = told(tiny_task, Flat(), tmp_path)
    assert sentence.startswith("the model can have no early exit: no activation of four axes")
    assert told(tiny_task, Flat(), tmp_path, SearchSpace(exits=ExitsAxis(depths=(0.0,)))) == []


@pytest.mark.parametrize(
    ("outputs", "targets", "got"),
    [
        (1, torch.zeros(12, 1), r"outputs of shape \(1,\).*torch.float32, shape \(8, 1\)"),
        (3, torch.zeros(12, 3), r"outputs of shape \(3,\).*torch.float32, shape \(8, 3\)"),
    ],
)
def test_a_task_without_classes_is_refused_at_the_start(outputs: int, targets: Tensor, got: str) -> None:
    data = TensorDataset(torch.zeros(12, 1, 8, 8), targets)
    task = Task(TinyResNet(outputs=outputs), data, data, data, loss=nn.functional.mse_loss)
    with pytest.raises(SpaceError, match=rf"the axis \[exits\](?s:.*){got}(?s:.*)leave the section \[exits\] out"):
        check_fit(EARLY, task)
    check_fit(SearchSpace(exits=ExitsAxis(depths=(0.0,))), task)


def test_a_task_of_classes_is_within_reach_of_exits(tiny_task: Task) -> None:
    check_fit(EARLY, tiny_task)
