"""Networks, losses and metrics that change what they are given: they see their change, and nobody else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure
from karui.evaluators.accuracy import AccuracyEvaluator
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.axes.students.trial_run import output_shape
from karui.spaces.building.network_factory import loss_gradient
from karui.spaces.building.task_fit import check_fit
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.prediction import metric_of, predict
from karui.spaces.space import SearchSpace
from karui.spaces.task import Task, top1_accuracy
from karui.spaces.training.attention_transfer import last_modules
from karui.spaces.training.batch_statistics import reestimate_normalization
from karui.spaces.training.qat.folding import fold_batch_norm
from karui.spaces.training.recovery import TrainingSettings, train
from karui.spaces.training.teacher import Teacher

SIDE = 4


def set_first(inputs: Tensor) -> Tensor:
    inputs[:, 0] = 0.5
    return inputs


def double_some(inputs: Tensor) -> Tensor:
    inputs[:, 1:3] *= 2.0
    return inputs


def clip_by_mask(inputs: Tensor) -> Tensor:
    inputs[inputs < 0.3] = 0.0
    return inputs


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "sub_ and div_": lambda inputs: inputs.sub_(0.5).div_(0.25),
    "clamp_": lambda inputs: inputs.clamp_(0.2, 0.6),
    "an operator": lambda inputs: inputs.__imul__(3.0),
    "an index": set_first,
    "a slice": double_some,
    "a mask": clip_by_mask,
    "masked_fill_": lambda inputs: inputs.masked_fill_(inputs > 0.7, -1.0),
    "relu": lambda inputs: F.relu(inputs.sub_(0.5), inplace=True),
    "dropout": lambda inputs: F.dropout(inputs.neg_(), 0.5, training=False, inplace=True),
}


class Changing(nn.Module):
    """Changes its input in place, then classifies it."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.layers = nn.Sequential(nn.Linear(SIDE, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(self.change(inputs))
        return outputs


def network_of(name: str) -> Changing:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Changing(CHANGES[name]).eval()


def task_of(network: nn.Module, **others: Any) -> Task:
    generator = torch.Generator().manual_seed(0)
    split = TensorDataset(torch.rand(48, SIDE, generator=generator), torch.arange(48) % 3)
    return Task(model=network, train=split, validation=split, test=split, **others)


def on_copies(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = network(inputs.clone())
        return outputs


@pytest.mark.parametrize("name", CHANGES)
def test_such_a_network_s_file_computes_the_same_and_the_example_stays(name: str, tmp_path: Path) -> None:
    network, path = network_of(name), tmp_path / "file.onnx"
    example = torch.rand(5, SIDE)
    kept, inputs = example.clone(), torch.rand(7, SIDE)
    export_onnx(network, example, path)
    assert torch.equal(example, kept)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": inputs.numpy()})
    np.testing.assert_allclose(found, on_copies(network, inputs).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", CHANGES)
def test_nobody_else_sees_the_change(name: str) -> None:
    network = network_of(name)
    task = task_of(network)
    data, kept = task.train.tensors[0], task.train.tensors[0].clone()  # type: ignore[attr-defined]
    example = task.calibration_batch(6)
    before = example.clone()
    expected = on_copies(network, example)

    teacher = Teacher(network)
    for _ in range(2):  # computed, and remembered
        assert torch.equal(teacher.outputs(example, torch.device("cpu")), expected)
    teacher.resolutions(example)
    assert torch.equal(predict(network, task.test)[0], on_copies(network, kept))
    found = teacher.outputs_of_all(task.train, torch.device("cpu"))
    assert found is not None
    assert torch.equal(found, on_copies(network, kept))
    output_shape(network, example)
    last_modules(network, example)
    folded = fold_batch_norm(network, example)
    assert torch.allclose(on_copies(folded, example), expected, atol=1e-5)
    check_fit(SearchSpace(), task)
    reestimate_normalization(network, example)
    loss_gradient(task, 8, 0)(network)
    assert torch.equal(example, before)
    assert torch.equal(data, kept)


@pytest.mark.parametrize("hint_weight", [0.0, 1.0])
def test_a_student_is_given_what_its_teacher_was_given(hint_weight: float) -> None:
    """A student that is the teacher has nothing to learn from it, unless one of them is given what the other left."""
    seen: list[Tensor] = []

    class Looking(Changing):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.clone())
            return super().forward(inputs)

    student, teacher = Looking(CHANGES["sub_ and div_"]), network_of("sub_ and div_")
    student.load_state_dict(teacher.state_dict())
    task = task_of(student, augment=lambda inputs: inputs.mul_(0.5))
    settings = TrainingSettings(
        epochs=2, batch_size=16, learning_rate=1e-9, distillation_weight=1.0, hint_weight=hint_weight, device="cpu"
    )
    train(student, task, settings, teacher=teacher)
    data = task.train.tensors[0]  # type: ignore[attr-defined]
    rows = {tuple(row.tolist()) for row in torch.cat([data, 0.5 * data])}
    assert all(tuple(row.tolist()) in rows for batch in seen for row in batch)
    assert float(data.max()) <= 1.0


def test_an_epoch_is_given_the_data_as_they_were() -> None:
    task = task_of(network_of("sub_ and div_"))
    kept = task.train.tensors[0].clone()  # type: ignore[attr-defined]
    train(task.model, task, TrainingSettings(epochs=3, batch_size=16, device="cpu"))
    assert torch.equal(task.train.tensors[0], kept)  # type: ignore[attr-defined]


def test_a_metric_that_changes_what_it_is_given_gives_the_same_each_time(tmp_path: Path) -> None:
    def greedy(outputs: Tensor, targets: Tensor) -> float:
        value = top1_accuracy(outputs, targets)
        targets.zero_()
        outputs.zero_()
        return value

    network = network_of("clamp_")
    task = task_of(network, metric=greedy)
    path = tmp_path / "file.onnx"
    export_onnx(network, task.calibration_batch(4), path)
    artifact = Artifact(path, file_digest(path))
    expected = top1_accuracy(on_copies(network, task.test.tensors[0]), task.test.tensors[1])  # type: ignore[attr-defined]
    evaluator = AccuracyEvaluator(task.test, task.metric, "accuracy", "test")
    for _ in range(2):
        (found,) = evaluator.measure(artifact)
        assert found.value == metric_of(network, task, task.test) == pytest.approx(expected)


@pytest.mark.parametrize("returned", [None, 3, torch.zeros(2, SIDE)])
def test_an_augmentation_that_returns_something_else_is_told(returned: object) -> None:
    task = task_of(network_of("clamp_"), augment=lambda inputs: returned)
    with pytest.raises(CandidateFailure, match="augment must return 16 inputs"):
        train(task.model, task, TrainingSettings(epochs=1, batch_size=16, device="cpu"))


@pytest.mark.parametrize("answer", [True, np.float32(0.5), np.bool_(True), np.array([0.25]), torch.tensor([0.25]), 1])
def test_a_metric_may_give_a_number_of_any_kind(answer: Any, tmp_path: Path) -> None:
    network = network_of("clamp_")
    task = task_of(network, metric=lambda outputs, targets: answer)
    expected = float(np.asarray(answer).reshape(()))
    assert metric_of(network, task, task.test) == expected
    export_onnx(network, task.calibration_batch(4), tmp_path / "file.onnx")
    artifact = Artifact(tmp_path / "file.onnx", file_digest(tmp_path / "file.onnx"))
    assert AccuracyEvaluator(task.test, task.metric, "m", "test").measure(artifact)[0].value == expected


@pytest.mark.parametrize(
    "answer", [None, "0.5", torch.zeros(2), np.zeros(2), 1 + 2j, torch.tensor(1 + 2j), float("nan")]
)
def test_a_metric_that_gives_no_number_is_told(answer: Any) -> None:
    task = task_of(network_of("clamp_"), metric=lambda outputs, targets: answer)
    with pytest.raises(CandidateFailure, match="is not a number"):
        metric_of(task.model, task, task.test)


def test_a_metric_that_raises_is_told() -> None:
    task = task_of(network_of("clamp_"), metric=lambda outputs, targets: outputs.nonsense)
    with pytest.raises(CandidateFailure, match="the metric 'accuracy' raised"):
        metric_of(task.model, task, task.test)
