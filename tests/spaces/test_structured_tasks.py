"""Tasks of every kind of inputs, outputs and targets: made into files that answer as the network does, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from karui.errors import CandidateFailure, TaskError
from karui.evaluators.accuracy import AccuracyEvaluator, run_batches
from karui.evaluators.runtimes.onnxruntime_runner import Runner
from karui.evaluators.targets.inputs_file import InputsFile, read_inputs
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.candidate import Candidate
from karui.spaces.data.named import Named, parts_of
from karui.spaces.data.structures import restored
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.prediction import metric_of
from karui.spaces.task import Task
from karui.spaces.task_digest import task_digest

ROWS = 24


@dataclass
class Answer:
    logits: Tensor
    cache: object = None
    hidden: Any = None


class Samples(Dataset[Any]):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class TwoInputs(nn.Module):
    """An image and a row of numbers, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(1, 16, 3), nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.conv(image)).mean((2, 3)) + torch.relu(self.linear(numbers)))
        return outputs


class Tokens(nn.Module):
    """Token ids and a mask, by name; a dataclass with something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(17, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Answer:
        inside = torch.relu(self.inner(self.embedding(input_ids) * attention_mask.unsqueeze(-1).float()))
        pooled = inside.mean(1)
        return Answer(self.head(pooled), None, pooled)


class Detector(nn.Module):
    """Boxes and scores in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.body(image))
        return {"boxes": self.boxes(features).flatten(2), "scores": self.scores(features).flatten(2)}


class State(nn.Module):
    """One step of a recurrent network: state in, state out under the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(5 + 6, 6), nn.Linear(6, 2)

    def forward(self, frame: Tensor, state: Tensor) -> dict[str, Tensor]:
        following = torch.tanh(self.cell(torch.cat([frame, state], dim=1)))
        return {"speech": self.head(following), "state": following}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(count: int = 3) -> Tensor:
    return torch.arange(ROWS) % count


def right(logits: Tensor, targets: Tensor) -> float:
    return float((logits.argmax(1) == targets).double().mean())


def near(outputs: Tensor, targets: Tensor) -> float:
    return -float((outputs - targets).square().mean())


def two_inputs() -> Task:
    samples = Samples([((image, numbers), target) for image, numbers, target in zip(
        drawn(ROWS, 1, 8, 8), drawn(ROWS, 5), classes(), strict=True)])  # fmt: skip
    return Task(TwoInputs(), samples, samples, samples)


def dict_batch() -> Task:
    ids = torch.randint(17, (ROWS, 6), generator=torch.Generator().manual_seed(0))
    samples = Samples([
        {"input_ids": each, "attention_mask": torch.ones(6, dtype=torch.int64), "labels": target}
        for each, target in zip(ids, classes(), strict=True)
    ])  # fmt: skip
    return Task(
        Tokens(), samples, samples, samples, targets="labels", distillation={"logits": "logits"},
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.logits, targets),
        metric=lambda outputs, targets: right(outputs.logits, targets),
    )  # fmt: skip


def detection() -> Task:
    samples = Samples([
        (image, {"boxes": drawn(number % 3, 4), "number": number}) for number, image in enumerate(drawn(ROWS, 1, 4, 4))
    ])  # fmt: skip

    def collate(batch: list[Any]) -> tuple[Tensor, list[Any]]:
        return torch.stack([image for image, _ in batch]), [target for _, target in batch]

    def metric(outputs: dict[str, Tensor], targets: list[Any]) -> float:
        assert len(outputs["boxes"]) == len(targets)
        return -sum(abs(float(boxes.mean()) - len(target["boxes"])) for boxes, target in zip(
            outputs["boxes"], targets, strict=True)) / len(targets)  # fmt: skip

    return Task(
        Detector(), samples, samples, samples, collate=collate, metric=metric, distillation="none",
        loss=lambda outputs, targets: outputs["boxes"].square().mean() + outputs["scores"].square().mean(),
    )  # fmt: skip


def recurrent() -> Task:
    samples = Samples([({"frame": frame, "state": state}, target) for frame, state, target in zip(
        drawn(ROWS, 5), drawn(ROWS, 6, seed=1), classes(2), strict=True)])  # fmt: skip
    return Task(
        State(), samples, samples, samples, distillation={"speech": "logits", "state_out": "values"},
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs["speech"], targets),
        metric=lambda outputs, targets: right(outputs["speech"], targets),
    )  # fmt: skip


def segmentation() -> Task:
    split = TensorDataset(drawn(ROWS, 1, 6, 6), (drawn(ROWS, 6, 6) > 0).long())
    return Task(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)), split, split, split)


def multi_label() -> Task:
    split = TensorDataset(drawn(ROWS, 5), (drawn(ROWS, 3) > 0).float())
    return Task(
        nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), split, split, split,
        loss=nn.functional.binary_cross_entropy_with_logits,
        metric=lambda outputs, targets: float(((outputs > 0) == (targets > 0.5)).double().mean()),
    )  # fmt: skip


def regression() -> Task:
    split = TensorDataset(drawn(ROWS, 5), drawn(ROWS, 2))
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    return Task(model, split, split, split, loss=nn.functional.mse_loss, metric=near, distillation="values")


def embedding() -> Task:
    split = TensorDataset(drawn(ROWS, 5), classes())
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8))
    return Task(
        model, split, split, split, distillation="embedding",
        loss=lambda outputs, _: (outputs.norm(dim=1) - 1).square().mean(),
        metric=lambda outputs, targets: float(outputs[targets == 0].mean()),
    )  # fmt: skip


KINDS: dict[str, Callable[[], Task]] = {
    each.__name__: each
    for each in (
        two_inputs, dict_batch, detection, recurrent, segmentation, multi_label, regression, embedding,
    )
}  # fmt: skip
NAMES = {
    "two_inputs": (["image", "numbers"], ["output"]),
    "dict_batch": (["input_ids", "attention_mask"], ["logits", "hidden"]),
    "detection": (["input"], ["boxes", "scores"]),
    "recurrent": (["frame", "state"], ["speech", "state_out"]),
}


def make(kind: str) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind]()


@pytest.mark.filterwarnings("ignore:Task")
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_of_task_answer_as_the_network_does(kind: str, tmp_path: Path) -> None:
    task = make(kind)
    builder = Builder(task, BuildSettings(epochs=1, batch_size=8, device="cpu"), tmp_path)
    inputs = task.calibration_batch(ROWS)
    with torch.no_grad():
        wanted = parts_of(task.model.eval()(inputs), "output")
    reference: dict[str, Any] = {}
    for candidate, allowed in (
        (Candidate(), 1e-4), (Candidate(weight_bits=16), 2e-2), (Candidate(weight_bits=8, activation_bits=8), 0.15),
        (Candidate(weight_bits=4), 0.6),
    ):  # fmt: skip
        artifact = builder.build(candidate)
        runner = Runner(artifact.path, stage="test")
        if kind in NAMES:
            assert (list(runner._input_names), runner._output_names) == NAMES[kind]
        found = parts_of(run_batches(runner, inputs.numpy(), 7), "output")
        if reference:  # those of other bits come from the same trained network
            for name, values in reference.items():
                assert np.abs(found[name] - values).max() <= allowed * max(1.0, np.abs(values).max()), (candidate, name)
        else:
            reference = found
            assert {name: part.shape for name, part in wanted.items()} == {
                name: part.shape for name, part in found.items()
            }
        (measured,) = AccuracyEvaluator(task.validation, task.metric, "metric", "validation").measure(artifact)
        assert np.isfinite(measured.value)


@pytest.mark.filterwarnings("ignore:Task")
@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_of_the_untouched_file_is_that_of_the_network(kind: str, tmp_path: Path) -> None:
    task = make(kind)
    path = tmp_path / "model.onnx"
    export_onnx(task.model, task.calibration_batch(8), path)
    artifact = Artifact(path, file_digest(path))
    (measured,) = AccuracyEvaluator(task.validation, task.metric, "metric", "validation").measure(artifact)
    assert measured.value == pytest.approx(metric_of(task.model, task, task.validation), abs=1e-5)


@pytest.mark.filterwarnings("ignore:Task")
@pytest.mark.parametrize("kind", KINDS)
def test_channels_go_or_it_is_said_why_not(kind: str, tmp_path: Path) -> None:
    task = make(kind)
    before = sum(parameter.numel() for parameter in task.model.parameters())
    if kind in ("dict_batch", "recurrent"):  # what is inside is an output: pooled features, and the state
        with pytest.raises(CandidateFailure, match="makes the output"):
            remove_channels(task.model, task.calibration_batch(2), 0.5)
        return
    smaller = remove_channels(task.model, task.calibration_batch(2), 0.5)
    assert sum(parameter.numel() for parameter in smaller.parameters()) < before
    export_onnx(smaller, task.calibration_batch(8), tmp_path / "smaller.onnx")


@pytest.mark.filterwarnings("ignore:Task")
def test_a_task_is_the_same_task_when_it_is_made_again() -> None:
    digests = [task_digest(make("two_inputs")) for _ in range(2)]
    assert digests[0] == digests[1] != task_digest(make("recurrent"))


def test_what_is_no_tensor_among_outputs_is_told() -> None:
    with pytest.warns(UserWarning, match="cache: NoneType among the model's outputs is no tensor"):
        make("dict_batch")


@pytest.mark.filterwarnings("ignore:Task")
def test_a_data_loader_stands_for_its_data() -> None:
    task = make("dict_batch")
    loader: Any = DataLoader(task.train._split, batch_size=5)  # type: ignore[attr-defined]
    model: Any = task.model.network
    loss, metric = task.loss.function, task.metric.function  # type: ignore[attr-defined]
    again = Task(model, loader, loader, loader, targets="labels", loss=loss, metric=metric, distillation="none")
    assert torch.equal(again.calibration_batch(3).parts["input_ids"], task.calibration_batch(3).parts["input_ids"])


def test_named_inputs_of_a_target_are_a_file_of_several_arrays() -> None:
    inputs = Named({"frame": np.zeros((2, 5), np.float32), "state": np.ones((2, 6), np.float32)})
    file = InputsFile()
    path = file.path_of(inputs)
    assert path.suffix == ".npz"
    assert file.path_of(inputs) == path
    again = read_inputs(path)
    assert again.names == inputs.names
    assert np.array_equal(again.parts["state"], inputs.parts["state"])


def test_the_model_gets_its_own_structure_back() -> None:
    with pytest.warns(UserWarning, match="NoneType"):
        task = make("dict_batch")
    with torch.no_grad():
        outputs = task.model.eval()(task.calibration_batch(2))
    answer = restored(outputs, task.loss.structure)  # type: ignore[attr-defined]
    assert isinstance(answer, Answer)
    assert answer.cache is None


def broken(**changes: Any) -> Callable[[], Task]:
    def build() -> Task:
        ids = torch.randint(17, (ROWS, 6))
        mask = torch.ones(6, dtype=torch.int64)
        named = {"input_ids": "input_ids", "attention_mask": "attention_mask", **changes.pop("renamed", {})}
        samples: list[Any] = [
            {named["input_ids"]: each, named["attention_mask"]: mask, "labels": torch.tensor(1)} for each in ids
        ]
        samples = changes.pop("change", lambda found: found)(samples)
        split = Samples(samples)
        loss = changes.pop("loss", lambda outputs, targets: outputs.logits.sum())
        given = {"targets": "labels", "distillation": "none", "metric": lambda *_: 0.0, **changes}
        task = Task(given.pop("model", Tokens()), split, split, split, loss=loss, **given)
        list(task.calibration_batch(ROWS).names)
        return task

    return build


class NotFinite(Tokens):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Answer:
        answer = super().forward(input_ids, attention_mask)
        return Answer(answer.logits, None, answer.hidden / 0.0 * 0.0)


class NoBatch(Tokens):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Answer:
        answer = super().forward(input_ids, attention_mask)
        return Answer(answer.logits, None, answer.hidden.sum())


@pytest.mark.filterwarnings("ignore:Task")
@pytest.mark.parametrize(
    ("build", "told"),
    [
        (broken(renamed={"input_ids": "ids"}), "no argument ids and an argument input_ids that nothing is given for"),
        (broken(targets="target"), "lacks its targets"),
        (broken(targets=()), r"Task\(targets=\"labels\"\)"),
        (broken(change=lambda samples: [*samples[:-1], {**samples[-1], "more": torch.ones(1)}]), "several structures"),
        (
            broken(change=lambda samples: [*samples[:-1], {**samples[-1], "input_ids": torch.ones(5).long()}]),
            "cannot be read as a batch",
        ),
        (broken(model=NotFinite()), "output hidden"),
        (broken(model=NoBatch()), "output hidden"),
        (broken(distillation={"other": "logits"}), "an output that the model does not have"),
        (broken(distillation="distance"), "of no kind that is known"),
        (broken(collate=3), "collate cannot be called"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(build: Callable[[], Task], told: str) -> None:
    with pytest.raises(TaskError, match=told):
        build()
