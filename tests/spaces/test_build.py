"""The build: one fixed order of stages, the dear one cached, and a file that is what its key says."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Subset

from karui.errors import CandidateFailure, OutputError, SpaceError, TaskError
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.axes.students.choice import Student
from karui.spaces.axes.supernet.shared_axes import SharingAxes
from karui.spaces.axes.supernet.weights import load_supernet
from karui.spaces.building import network_factory
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.stage_cache import StageCache
from karui.spaces.building.stage_keys import StageKeys, network_digest
from karui.spaces.building.task_fit import check_fit
from karui.spaces.candidate import Baseline, Candidate
from karui.spaces.formats.onnx.quantization.sensitivity_probe import sensitivity_table
from karui.spaces.rounding.settings import QuantizationSettings, Rounding
from karui.spaces.space import SearchSpace
from karui.spaces.step import NetworkMaterials
from karui.spaces.task import Task
from karui.spaces.task_digest import task_digest
from karui.spaces.training.recovery import TrainingReport, train
from karui.spaces.training.training_settings import TrainingSettings
from karui.spaces.training.zeroing import zero_weights

SETTINGS = BuildSettings(epochs=1, epochs_from_scratch=1, epochs_aware=1, epochs_supernet=1, channel_multiple=1)
QUANTIZATION = QuantizationSettings(calibration_samples=16)


def rounded(how: Rounding) -> QuantizationSettings:
    return QUANTIZATION.model_copy(update={"rounding": how})


CELL = CellNetwork(CellGenotype(3, ((0, 1, "conv3x3"), (0, 2, "skip"), (1, 2, "conv1x1"))), 4, 1)
CELLS = CellsAxis(
    nodes=3, operations=("skip", "conv1x1", "conv3x3"), channels=(4,), cells_per_stage=(1,), weights="supernet"
)

AXIS = StagesAxis(stages=2, channels=(4,), kernels=(3,), expansions=(1, 3), depths=(1,))
STAGES = StageNetwork(4, (Stage(3, 3, False, 1), Stage(3, 1, True, 1)))
CANDIDATES = {
    "float32": Candidate(),
    "int8": Candidate(weight_bits=8, activation_bits=8),
    "float16": Candidate(weight_bits=16),
    "zeros at once in float16": Candidate(zeroed_weights=0.5, zeroing="one_shot", weight_bits=16),
    "weights only": Candidate(weight_bits=4, activation_bits=32),
    "fewer channels": Candidate(removed_channels=0.5),
    "zeros": Candidate(zeroed_weights=0.8, weight_bits=4, activation_bits=8),
    "shallower": Candidate(Student("shallower", 1.0, 0.5), weight_bits=3, activation_bits=8),
    "resnet18": Candidate(Student("resnet18", 0.1), weight_bits=8, activation_bits=8),
    "half of the channels by gradients, of all layers": Candidate(
        removed_channels=0.5, channel_importance="taylor", channel_scope="global", weight_bits=3
    ),
    "budget": Candidate(weight_bits=2.5, bit_allocation="budget", activation_bits=8),
    "groups": Candidate(weight_bits=4, bit_allocation="groups", group_bits=(4, 2, 3)),
    "zeros at once": Candidate(zeroed_weights=0.5, zero_pattern="2:4", zeroing="one_shot", weight_bits=4),
    "float zeros at once": Candidate(zeroed_weights=0.7, zeroing="one_shot"),
    "aware": Candidate(removed_channels=0.5, weight_bits=2, activation_bits=8, bit_training="aware"),
    "aware budget": Candidate(weight_bits=3, bit_allocation="budget", bit_training="aware"),
    "stages": Candidate(STAGES, weight_bits=4, activation_bits=8),
    "cell": Candidate(CELL, zeroed_weights=0.5, weight_bits=2, activation_bits=8),
}


def run(path: Path, inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return np.asarray(outputs)


@pytest.fixture
def builder(tiny_task: Task, tmp_path: Path) -> Builder:
    return Builder(tiny_task, SETTINGS, tmp_path, quantization=QUANTIZATION, axes=(CELLS, AXIS))


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_kind_of_candidate_becomes_a_file_that_runs(builder: Builder, tiny_task: Task, name: str) -> None:
    artifact = builder.build(CANDIDATES[name])
    assert artifact.path == builder.file_of(CANDIDATES[name])
    assert artifact.digest == file_digest(artifact.path)
    onnx.checker.check_model(onnx.load(artifact.path))
    outputs = run(artifact.path, tiny_task.calibration_batch(5))
    assert outputs.shape == (5, 3)
    assert np.isfinite(outputs).all()
    candidate = CANDIDATES[name]
    untrained = {"float32", "int8", "weights only", "budget", "groups", "aware budget"}
    untrained |= {"zeros at once", "float zeros at once", "float16", "zeros at once in float16"}
    expected = ["architecture", *([] if name in untrained else ["recovery"]), "export"]
    expected += ["aware training"] if candidate.bit_training == "aware" else []
    expected += ["zeroing"] if name in ("float zeros at once", "zeros at once in float16") else []
    expected += [] if candidate.weight_bits == 32 else ["quantization"]
    assert [stage.stage for stage in artifact.stages] == [*expected, "packing"]


def test_float32_of_the_baseline_is_the_baseline(builder: Builder, tiny_task: Task) -> None:
    inputs = tiny_task.calibration_batch(16)
    with torch.no_grad():
        expected = tiny_task.model.eval()(inputs).numpy()
    np.testing.assert_allclose(run(builder.build(Candidate()).path, inputs), expected, atol=1e-5)


def test_a_trained_network_is_shared_by_all_bits(builder: Builder) -> None:
    first = builder.build(Candidate(removed_channels=0.5))
    assert "recovery" in [stage.stage for stage in first.stages]
    for bits in (2, 4, 8):
        after = builder.build(Candidate(removed_channels=0.5, weight_bits=bits, activation_bits=8))
        assert [stage.stage for stage in after.stages] == ["network", "quantization", "packing"]
        assert after.stages[0].cached
    with builder.float_twin(Candidate(removed_channels=0.5, weight_bits=8, activation_bits=8)) as twin:
        assert twin is not None
        shapes = {tuple(tensor.dims) for tensor in onnx.load(twin).graph.initializer}
        assert shapes >= {tuple(tensor.dims) for tensor in onnx.load(first.path).graph.initializer if tensor.dims}
    with builder.float_twin(Candidate(weight_bits=8, activation_bits=8)) as twin:
        assert twin is None, "every file is timed beside the baseline"
    other = builder.build(Candidate(removed_channels=0.25))
    assert "recovery" in [stage.stage for stage in other.stages], "another network is trained"


def test_how_weights_are_rounded_changes_the_file_and_not_the_network(tiny_task: Task, tmp_path: Path) -> None:
    candidate = CANDIDATES["shallower"]
    nearest = Builder(tiny_task, SETTINGS, tmp_path, quantization=rounded("nearest")).build(candidate)
    feedback = Builder(tiny_task, SETTINGS, tmp_path, quantization=rounded("feedback")).build(candidate)
    assert feedback.stages[0].cached
    assert nearest.digest != feedback.digest


@pytest.mark.parametrize("name", ["zeros", "cell"])
def test_the_same_candidate_is_the_same_file_whatever_was_built_before(
    tiny_task: Task, tmp_path: Path, name: str
) -> None:
    alone = Builder(tiny_task, SETTINGS, tmp_path / "alone").build(CANDIDATES[name])
    torch.manual_seed(123)
    busy = Builder(tiny_task, SETTINGS, tmp_path / "busy")
    busy.build(CANDIDATES["fewer channels"])
    assert busy.build(CANDIDATES[name]).digest == alone.digest


def test_another_seed_or_setting_is_another_network(tiny_task: Task, tmp_path: Path) -> None:
    candidate = CANDIDATES["fewer channels"]
    one = Builder(tiny_task, SETTINGS, tmp_path).build(candidate)
    for changed in (
        Builder(tiny_task, SETTINGS, tmp_path, seed=1),
        Builder(tiny_task, SETTINGS.model_copy(update={"learning_rate": 1e-4}), tmp_path),
    ):
        after = changed.build(candidate)
        assert not any(stage.cached for stage in after.stages)
        assert after.digest != one.digest


def test_another_baseline_never_finds_the_first_ones_networks(
    tiny_task: Task, tmp_path: Path, make_network: Callable[[], nn.Module]
) -> None:
    Builder(tiny_task, SETTINGS, tmp_path).build(CANDIDATES["fewer channels"])
    other = Builder(replace(tiny_task, model=make_network()), SETTINGS, tmp_path).build(CANDIDATES["fewer channels"])
    assert not any(stage.cached for stage in other.stages)


OTHER_TASKS: dict[str, Callable[[Task], Task]] = {
    "training data": lambda task: replace(task, train=task.validation),
    "validation data": lambda task: replace(task, validation=task.train),
    "loss": lambda task: replace(task, loss=lambda outputs, targets: 2 * nn.functional.cross_entropy(outputs, targets)),
    "metric": lambda task: replace(task, metric=lambda outputs, targets: -float(outputs[:, targets].mean())),
    "augmentation": lambda task: replace(task, augment=lambda inputs: inputs.flip(-1)),
}


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_another_task_never_finds_the_first_ones_networks(tiny_task: Task, tmp_path: Path, name: str) -> None:
    cache = StageCache(tmp_path / "cache")
    Builder(tiny_task, SETTINGS, tmp_path / "one", cache=cache).build(CANDIDATES["fewer channels"])
    other = Builder(OTHER_TASKS[name](tiny_task), SETTINGS, tmp_path / "two", cache=cache)
    assert not any(stage.cached for stage in other.build(CANDIDATES["fewer channels"]).stages)


@pytest.mark.parametrize("name", ["aware", "cell", "stages", "shallower"])
def test_another_study_of_the_same_task_finds_what_was_trained(
    tiny_task: Task, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study(place: str) -> Builder:
        return Builder(
            replace(tiny_task),
            SETTINGS,
            tmp_path / place,
            quantization=QUANTIZATION,
            axes=(CELLS, AXIS),
            cache=StageCache(tmp_path / "cache"),
        )

    first = study("one").build(CANDIDATES[name])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to train")

    for place in (
        "karui.spaces.building.build.train",
        "karui.spaces.axes.bits.qat_step.train_aware",
        "karui.spaces.building.network_factory.train_supernet",
    ):
        monkeypatch.setattr(place, never)
    second = study("two").build(CANDIDATES[name])
    assert second.digest == first.digest
    assert second.path != first.path
    cached = ["network", "aware training"] if name == "aware" else ["network"]
    assert [stage.stage for stage in second.stages if stage.cached] == cached


KEPT = {
    "version": 4,
    "seed": 5,
    "settings": {
        "epochs": 2,
        "epochs_from_scratch": 1,
        "learning_rate": 0.008,
        "batch_size": 64,
        "temperature": 4.0,
        "distillation_weight": 0.7,
        "ema_decay": 0.0,
        "hint_weight": 0.0,
        "channel_multiple": 1,
    },
    "network": {
        "architecture": {"kind": "baseline"},
        "removed_channels": 0.5,
        "zeroed_weights": 0.0,
        "weight_bits": 32,
        "activation_bits": 32,
    },
    "channels": "as masked, heads whole",
}
"""What the key of a trained network was made of before there was a final factor."""


@pytest.mark.parametrize("factor", [1, 4])
def test_networks_are_kept_where_they_were_before_there_was_a_final_factor(
    tiny_task: Task, tmp_path: Path, factor: int
) -> None:
    settings = BuildSettings(epochs=2, epochs_from_scratch=1, channel_multiple=1, final_factor=factor)
    Builder(tiny_task, settings, tmp_path, seed=5).build(Candidate(removed_channels=0.5, weight_bits=4))
    described = KEPT | {"baseline": network_digest(tiny_task.model), "task": task_digest(tiny_task)}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
    assert [path.name for path in (tmp_path / "cache" / "entries").iterdir()] == [f"network-{digest}"]


class TestEpochsFactor:
    SETTINGS = BuildSettings(epochs=1, epochs_from_scratch=2, epochs_aware=3, channel_multiple=1)

    def told(self, task: Task, folder: Path, candidate: Candidate) -> list[tuple[str, int, int]]:
        """Build a candidate, and return what was told of its training: kind, epochs in all, epoch."""
        told: list[tuple[str, int, int]] = []
        builder = Builder(task, self.SETTINGS, folder, quantization=QUANTIZATION)
        builder.build(candidate, lambda kind, epochs, epoch, _: told.append((kind, epochs, epoch)))
        return told

    @pytest.mark.parametrize(
        ("candidate", "expected"),
        [
            (Candidate(weight_bits=4), {}),
            (Candidate(removed_channels=0.5), {"warm": 2}),
            (Candidate(CELL), {"from scratch": 4}),
            (Candidate(weight_bits=2, bit_training="aware"), {"aware": 6}),
        ],
    )
    def test_every_training_takes_so_many_times_the_epochs(
        self, tiny_task: Task, tmp_path: Path, candidate: Candidate, expected: dict[str, int]
    ) -> None:
        once, twice = (self.told(tiny_task, tmp_path, replace(candidate, epochs_factor=factor)) for factor in (1, 2))
        assert twice == [(kind, epochs, epoch) for kind, epochs in expected.items() for epoch in range(1, epochs + 1)]
        assert [kind for kind, *_ in once] == [kind for kind, epochs in expected.items() for _ in range(epochs // 2)]

    def test_networks_of_more_epochs_are_kept_beside_the_others(self, tiny_task: Task, tmp_path: Path) -> None:
        short, longer = Candidate(CELL, weight_bits=4), Candidate(CELL, weight_bits=4, epochs_factor=2)
        assert self.told(tiny_task, tmp_path, short)
        assert self.told(tiny_task, tmp_path, longer)
        for candidate in (short, longer, replace(short, weight_bits=8), replace(longer, weight_bits=8)):
            assert not self.told(tiny_task, tmp_path, candidate), "its network is there"
        assert len(list((tmp_path / "files").glob("*.onnx"))) == 4

    def test_a_network_of_more_epochs_starts_where_the_other_did(
        self, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        starts: list[tuple[str, int, int]] = []

        def note(network: nn.Module, task: Task, settings: TrainingSettings, **options: Any) -> TrainingReport:
            starts.append((network_digest(network), settings.seed, settings.order_seed))
            return train(network, task, settings, **options)

        monkeypatch.setattr("karui.spaces.building.build.train", note)
        for factor in (1, 2):
            self.told(tiny_task, tmp_path, Candidate(CELL, epochs_factor=factor))
        assert starts[0] == starts[1]


def test_a_sensitivity_table_lies_with_its_network(tiny_task: Task, tmp_path: Path) -> None:
    quick = QUANTIZATION.model_copy(update={"rounding": "nearest", "sensitivity_samples": 4})
    builder = Builder(tiny_task, SETTINGS, tmp_path, quantization=quick)
    first = builder.build(CANDIDATES["budget"])
    (entry,) = (tmp_path / "cache" / "entries").iterdir()
    names = {path.name for path in entry.iterdir()}
    assert names == {"manifest.json", "network.onnx", "network.safetensors", "network.sensitivity.json"}
    table = entry / "network.sensitivity.json"
    written = table.stat().st_mtime_ns
    again = builder.build(CANDIDATES["budget"])
    assert again.stages[0].cached, "a table is no damage"
    assert again.digest == first.digest
    assert table.stat().st_mtime_ns == written
    builder._cache.trim(0)
    assert not entry.exists()


def test_one_sensitivity_table_serves_all_budgets_that_are_trained_on(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[onnx.ModelProto] = []

    def watched(model: onnx.ModelProto, *others: Any, **named: Any) -> Any:
        tables.append(model)
        return sensitivity_table(model, *others, **named)

    monkeypatch.setattr("karui.spaces.formats.onnx.quantization.sensitivity_probe.sensitivity_table", watched)
    quick = QUANTIZATION.model_copy(update={"rounding": "nearest", "sensitivity_samples": 4})
    builder = Builder(tiny_task, SETTINGS, tmp_path, quantization=quick)
    for bits in (2.5, 3, 4):
        builder.build(Candidate(weight_bits=bits, bit_allocation="budget", bit_training="aware"))
    assert len(tables) == 1, "of the network before that training; afterwards every weight has its bits"


def test_the_cache_holds_plain_files(builder: Builder, tmp_path: Path) -> None:
    for name in ("aware", "cell", "stages"):
        builder.build(CANDIDATES[name])
    entries = tmp_path / "cache" / "entries"
    assert {path.suffix for path in entries.rglob("*") if path.is_file()} == {".json", ".npz", ".onnx", ".safetensors"}
    kinds = sorted(path.name.partition("-")[0] for path in entries.iterdir())
    assert kinds == ["aware", "network", "network", "network", "supernet", "supernet"]


OTHER_CELL = Candidate(CellNetwork(CellGenotype(2, ((0, 1, "conv3x3"),)), 4, 1))


class TestSupernet:
    """Two candidates of an axis take their weights from one supernet, unless it is trained for no epochs."""

    OTHERS: ClassVar[dict[str, Candidate]] = {
        "cell": OTHER_CELL,
        "stages": Candidate(replace(STAGES, stages=(STAGES.stages[1],) * 2)),
    }

    def starts(
        self, builder: Builder, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[list[nn.Module], list[tuple[str, int]]]:
        """Build both candidates, and return the networks they started from and what was told of each epoch."""
        networks: list[nn.Module] = []
        told: list[tuple[str, int]] = []

        def note(network: nn.Module, *arguments: Any, **options: Any) -> TrainingReport:
            networks.append(copy.deepcopy(network))
            return train(network, *arguments, **options)

        monkeypatch.setattr("karui.spaces.building.build.train", note)
        for candidate in (CANDIDATES[name], self.OTHERS[name]):
            builder.build(candidate, lambda kind, epochs, *_: told.append((kind, epochs)))
        return networks, told

    @pytest.mark.parametrize("name", OTHERS)
    def test_candidates_start_from_its_weights_and_recover(
        self, tiny_task: Task, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = SETTINGS.model_copy(update={"epochs": 2, "epochs_from_scratch": 3})
        builder = Builder(tiny_task, settings, tmp_path, axes=(CELLS, AXIS))
        networks, told = self.starts(builder, name, monkeypatch)
        assert told == [("warm", 2)] * 4
        (entry,) = (tmp_path / "cache" / "entries").glob("supernet-*")
        networks_there = (CELLS if name == "cell" else AXIS).shared_networks(tiny_task.input_shape, 3)
        supernet = load_supernet(entry / "supernet.safetensors", networks_there)
        for network, candidate in zip(networks, (CANDIDATES[name], self.OTHERS[name]), strict=True):
            assert network_digest(network) == network_digest(supernet.extract(candidate.canonical().architecture))

    @pytest.mark.parametrize("name", OTHERS)
    def test_no_epochs_are_no_supernet(
        self, tiny_task: Task, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = SETTINGS.model_copy(update={"epochs_supernet": 0, "epochs": 2, "epochs_from_scratch": 1})
        without = Builder(tiny_task, settings, tmp_path, axes=(CELLS, AXIS))
        _, told = self.starts(without, name, monkeypatch)
        assert told == [("from scratch", 1)] * 2
        assert not list((tmp_path / "cache" / "entries").glob("supernet-*"))
        again = Builder(tiny_task, settings, tmp_path).build(CANDIDATES[name])
        assert again.stages[0].cached, "the axis does not matter to networks that share nothing with it"

    def test_another_axis_or_length_of_training_is_another_supernet(self, tiny_task: Task, tmp_path: Path) -> None:
        wider = CELLS.model_copy(update={"channels": (4, 8)})
        longer = SETTINGS.model_copy(update={"epochs_supernet": 2})
        for settings, axis in ((SETTINGS, CELLS), (SETTINGS, wider), (longer, CELLS), (SETTINGS, CELLS)):
            Builder(tiny_task, settings, tmp_path, axes=(axis,)).build(OTHER_CELL)
        kinds = Counter(path.name.partition("-")[0] for path in (tmp_path / "cache" / "entries").iterdir())
        assert kinds == {"supernet": 3, "network": 3}


class _Scripted:
    """A metric that returns these values, one a call."""

    def __init__(self, *values: float) -> None:
        self.left = list(values)

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        return self.left.pop(0)


class TestInherited:
    """Where networks of a supernet are trained for no epochs, their weights are the supernet's."""

    SETTINGS = SETTINGS.model_copy(update={"epochs": 2, "epochs_from_scratch": 3, "epochs_inherited": 0})

    def kept(self, folder: Path) -> dict[str, Tensor]:
        (entry,) = (folder / "cache" / "entries").glob("network-*")
        return load_file(entry / "network.safetensors")

    def cut_out(self, task: Task, folder: Path, candidate: Candidate) -> nn.Module:
        (entry,) = (folder / "cache" / "entries").glob("supernet-*")
        axis = CELLS if isinstance(candidate.architecture, CellNetwork) else AXIS
        supernet = load_supernet(entry / "supernet.safetensors", axis.shared_networks(task.input_shape, 3))
        return supernet.extract(candidate.canonical().architecture)

    @pytest.mark.parametrize("metrics", [(0.2, 0.7), (0.7, 0.2)])
    @pytest.mark.parametrize("candidate", [OTHER_CELL, Candidate(STAGES)])
    def test_no_epoch_is_trained_and_the_better_statistics_are_kept(
        self, tiny_task: Task, tmp_path: Path, candidate: Candidate, metrics: tuple[float, float]
    ) -> None:
        task = replace(tiny_task, train=Subset(tiny_task.train, range(96)), metric=_Scripted(*metrics))
        told: list[str] = []
        builder = Builder(task, self.SETTINGS, tmp_path, axes=(CELLS, AXIS))
        with builder.untrained_proxy(candidate) as proxy:
            assert proxy is None, "nothing is left to train"
        artifact = builder.build(candidate, lambda kind, *_: told.append(kind))
        assert [stage.stage for stage in artifact.stages] == ["architecture", "statistics", "export", "packing"]
        assert told == []
        expected = self.cut_out(task, tmp_path, candidate)
        if metrics[1] > metrics[0]:  # all inputs in one batch, whose statistics replace those that were there
            for layer in expected.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = 1.0
            with torch.no_grad():
                expected.train()(torch.stack([task.train[index][0] for index in range(96)]))
        kept, states = self.kept(tmp_path), expected.state_dict()
        assert kept.keys() == states.keys()
        for name, tensor in states.items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(kept[name], tensor)

    def test_zeros_that_come_while_recovering_come_at_once(self, tiny_task: Task, tmp_path: Path) -> None:
        candidate = replace(OTHER_CELL, zeroed_weights=0.5)
        Builder(tiny_task, self.SETTINGS, tmp_path, axes=(CELLS,)).build(candidate)
        expected = self.cut_out(tiny_task, tmp_path, candidate)
        zero_weights(expected, 0.5)
        kept = self.kept(tmp_path)
        for name, tensor in expected.state_dict().items():
            if "running" not in name and not name.endswith("num_batches_tracked"):
                assert torch.equal(kept[name], tensor), name

    @pytest.mark.parametrize(("inherited", "epochs"), [(None, 4), (0, 4), (1, 2), (3, 6)])
    def test_one_that_is_promoted_trains(
        self, tiny_task: Task, tmp_path: Path, inherited: int | None, epochs: int
    ) -> None:
        settings = self.SETTINGS.model_copy(update={"epochs_inherited": inherited})
        told: list[tuple[str, int, int]] = []
        builder = Builder(tiny_task, settings, tmp_path, axes=(CELLS,))
        promoted = replace(OTHER_CELL, epochs_factor=2)
        builder.build(promoted, lambda kind, epochs, epoch, _: told.append((kind, epochs, epoch)))
        assert told == [("warm", epochs, epoch) for epoch in range(1, epochs + 1)]

    def test_networks_of_another_origin_train_as_ever(self, tiny_task: Task, tmp_path: Path) -> None:
        told: list[tuple[str, int]] = []
        builder = Builder(tiny_task, self.SETTINGS, tmp_path, axes=(AXIS,))
        for candidate in (CANDIDATES["fewer channels"], OTHER_CELL):
            builder.build(candidate, lambda kind, epochs, *_: told.append((kind, epochs)))
        assert told == [("warm", 2)] * 2 + [("from scratch", 3)] * 3

    def test_keys_differ_where_it_matters_alone(self, tiny_task: Task, tmp_path: Path) -> None:
        def keys(inherited: int | None) -> tuple[str, ...]:
            settings = self.SETTINGS.model_copy(update={"epochs_inherited": inherited})
            made = StageKeys(tiny_task, settings, QUANTIZATION, SharingAxes((CELLS, AXIS)), 0, "")
            cut, cell = made.network(CANDIDATES["fewer channels"]), made.network(OTHER_CELL)
            return cut, cell, made.supernet(CELLS), made.aware(replace(OTHER_CELL, weight_bits=2), 1)

        left_out, none, one, as_many = map(keys, (None, 0, 1, 2))
        assert as_many == left_out
        for index, is_one in enumerate((True, False, True, False)):
            assert (left_out[index] == none[index] == one[index]) == is_one
        assert none[1] != one[1]


def test_networks_that_do_not_fit_are_trained_again(tiny_task: Task, tmp_path: Path) -> None:
    builder = Builder(tiny_task, SETTINGS, tmp_path, quantization=QUANTIZATION, cache=StageCache(tmp_path / "cache", 0))
    first = builder.build(CANDIDATES["aware"])
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    again = builder.build(CANDIDATES["aware"])
    assert again.digest == first.digest
    assert not any(stage.cached for stage in again.stages)


def test_builders_that_want_the_same_network_at_once_train_it_once(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[float] = []
    started = threading.Event()

    def count(network: nn.Module, *arguments: Any, **options: Any) -> TrainingReport:
        trained.append(time.perf_counter())
        started.set()
        report = train(network, *arguments, **options)
        trained.append(time.perf_counter())
        return report

    monkeypatch.setattr("karui.spaces.building.build.train", count)
    cache = StageCache(tmp_path / "cache")
    builders = [Builder(tiny_task, SETTINGS, tmp_path / place, cache=cache) for place in ("one", "two")]
    candidates = Candidate(removed_channels=0.5), Candidate(removed_channels=0.5, weight_bits=4)
    artifacts: dict[int, Artifact] = {}

    def build(index: int) -> None:
        artifacts[index] = builders[index].build(candidates[index])

    threads = [threading.Thread(target=build, args=(index,)) for index in range(2)]
    threads[0].start()
    started.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(trained) == 2, "one training began and ended"
    assert [stage.cached for stage in artifacts[0].stages] == [False] * 4
    waited = artifacts[1].stages[0]
    assert (waited.stage, waited.cached) == ("network", True)


@pytest.fixture
def make_network(tiny_network: nn.Module) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(99)
            return type(tiny_network)()

    return make


def test_fewer_bits_make_smaller_files(builder: Builder) -> None:
    sizes = [
        builder.build(Candidate(weight_bits=bits, activation_bits=8)).path.stat().st_size for bits in (2, 3, 4, 5, 6, 8)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] < builder.build(Candidate()).path.stat().st_size


def test_half_the_channels_are_a_quarter_of_the_weights(builder: Builder) -> None:
    def weights(artifact_path: Path) -> int:
        return sum(int(np.prod(item.dims)) for item in onnx.load(artifact_path).graph.initializer)

    whole, half = (weights(builder.build(Candidate(removed_channels=share)).path) for share in (0.0, 0.5))
    assert 0.2 < half / whole < 0.3


class _Diverges:
    """A loss that is not a number from the second call on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if self.calls > 1 else 1.0)


def test_a_diverging_candidate_fails_in_recovery_and_leaves_no_file(tiny_task: Task, tmp_path: Path) -> None:
    builder = Builder(replace(tiny_task, loss=_Diverges()), SETTINGS, tmp_path)
    with pytest.raises(CandidateFailure, match=r"recovery: .*nan"):
        builder.build(CANDIDATES["fewer channels"])
    assert list(tmp_path.rglob("*.onnx")) == []
    assert list((tmp_path / "cache" / "entries").iterdir()) == []


def test_a_network_that_cannot_lose_channels_fails_with_its_stage(tiny_task: Task, tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.head = nn.Linear(8 * 8 * 8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.head(self.conv(inputs).reshape(-1, 8 * 8 * 8))
            return outputs

    builder = Builder(replace(tiny_task, model=Fixed()), SETTINGS, tmp_path)
    with pytest.raises(CandidateFailure, match="sparsity: conv: the network does not run without some of its channels"):
        builder.build(CANDIDATES["fewer channels"])


class TestBaseline:
    def test_a_trained_model_is_left_as_it_is(self, tiny_task: Task, tmp_path: Path) -> None:
        before = network_digest(tiny_task.model)
        artifact = prepare_baseline(tiny_task, SETTINGS, tmp_path)
        assert network_digest(tiny_task.model) == before
        assert artifact.digest == file_digest(artifact.path)
        assert not list(tmp_path.glob("*.safetensors"))

    def test_an_untrained_model_is_trained_once_and_kept(
        self, tiny_task: Task, tmp_path: Path, make_network: Callable[[], nn.Module]
    ) -> None:
        task = replace(tiny_task, baseline_epochs=2)
        epochs: list[int] = []
        first = prepare_baseline(task, SETTINGS, tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
        again = replace(task, model=make_network())
        second = prepare_baseline(again, SETTINGS, tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
        assert epochs == [1, 2]
        assert second.digest == first.digest
        assert network_digest(again.model) == network_digest(task.model)

    def test_weights_kept_for_another_training_are_not_taken(self, tiny_task: Task, tmp_path: Path) -> None:
        prepare_baseline(replace(tiny_task, baseline_epochs=1), SETTINGS, tmp_path)
        epochs: list[int] = []
        longer = replace(tiny_task, baseline_epochs=2)
        prepare_baseline(longer, SETTINGS, tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
        assert epochs == [1, 2]

    def test_another_study_of_the_same_task_finds_the_weights_and_another_task_does_not(
        self, tiny_task: Task, tmp_path: Path, make_network: Callable[[], nn.Module]
    ) -> None:
        cache, epochs = StageCache(tmp_path / "cache"), []

        def prepare(task: Task, place: str, seed: int = 0) -> Artifact:
            (tmp_path / place).mkdir()
            return prepare_baseline(
                task, SETTINGS, tmp_path / place, seed=seed, on_epoch=lambda *_: epochs.append(place), cache=cache
            )

        begun = replace(tiny_task, baseline_epochs=1, model=make_network())
        first = prepare(begun, "one")
        again = prepare(replace(begun, model=make_network()), "two")
        assert epochs == ["one"]
        assert again.digest == first.digest
        assert len(list((tmp_path / "two").glob("baseline-*.safetensors"))) == 1, "it goes on without the cache"
        other_start = make_network()
        with torch.no_grad():
            next(other_start.parameters()).mul_(1.01)
        prepare(replace(begun, model=other_start), "another start")
        prepare(replace(begun, model=make_network(), train=tiny_task.validation), "other data")
        prepare(replace(begun, model=make_network()), "another seed", seed=1)
        assert epochs == ["one", "another start", "other data", "another seed"]

    def test_broken_kept_weights_say_what_to_do(self, tiny_task: Task, tmp_path: Path) -> None:
        task = replace(tiny_task, baseline_epochs=1)
        prepare_baseline(task, SETTINGS, tmp_path)
        (kept,) = tmp_path.glob("*.safetensors")
        kept.write_bytes(b"not weights")
        with pytest.raises(OutputError, match="delete that file"):
            prepare_baseline(task, SETTINGS, tmp_path)

    def test_a_model_that_cannot_be_exported_is_the_tasks_fault(self, tiny_task: Task, tmp_path: Path) -> None:
        class NoTensor(nn.Module):
            def forward(self, inputs: Tensor) -> str:
                return str(inputs.shape)

        with pytest.raises(TaskError, match="cannot be exported"):
            prepare_baseline(replace(tiny_task, model=NoTensor()), SETTINGS, tmp_path)


class TestReach:
    def test_images_and_classes_are_within_reach_of_every_axis(self, tiny_task: Task) -> None:
        check_fit(SearchSpace(students=StudentsAxis(), cells=CellsAxis()), tiny_task)

    @pytest.mark.parametrize(
        ("space", "axis"),
        [
            (SearchSpace(cells=CellsAxis()), "cells"),
            (SearchSpace(students=StudentsAxis(families=("resnet18",))), "students"),
        ],
    )
    def test_vectors_are_beyond_students_and_cells(self, space: SearchSpace, axis: str) -> None:
        vectors = torch.utils.data.TensorDataset(torch.randn(8, 5), torch.zeros(8, dtype=torch.long))
        task = Task(nn.Linear(5, 2), vectors, vectors, vectors)
        with pytest.raises(SpaceError, match=rf"the axis \[{axis}\] cannot make networks"):
            check_fit(space, task)
        check_fit(SearchSpace(students=StudentsAxis(families=("shallower",))), task)

    def test_a_model_that_does_not_fit_its_data_is_named(self, tiny_task: Task) -> None:
        with pytest.raises(TaskError, match="does not run on the task's data"):
            check_fit(SearchSpace(), replace(tiny_task, model=nn.Linear(5, 2)))

    def test_a_model_that_gives_no_row_per_input_is_named(self, tiny_task: Task) -> None:
        class Sum(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return inputs.sum()

        with pytest.raises(TaskError, match="one row of outputs for each input"):
            check_fit(SearchSpace(), replace(tiny_task, model=Sum()))


def test_candidates_cover_every_kind_of_architecture() -> None:
    kinds = {type(candidate.architecture) for candidate in CANDIDATES.values()}
    assert kinds == {Baseline, Student, CellNetwork, StageNetwork}


@pytest.mark.parametrize("stage", ["export", "quantization"])
def test_a_full_disk_is_no_fault_of_the_candidate(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    place = {
        "export": "torch.onnx.export",
        "quantization": "karui.spaces.formats.onnx.quantization.quantize.write_model",
    }[stage]
    monkeypatch.setattr(place, full)
    with pytest.raises(OSError, match="No space left"):
        builder.build(CANDIDATES["int8"])


def test_what_is_told_while_a_network_is_made_is_told_of_every_file_of_it(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = network_factory.make_network

    def telling(candidate: Candidate, materials: NetworkMaterials) -> nn.Module:
        materials.note("one group is spared")
        return real(candidate, materials)

    monkeypatch.setattr(network_factory, "make_network", telling)
    builder = Builder(tiny_task, SETTINGS, tmp_path)
    for bits in (32, 16):  # the second finds the network that the first has made
        assert builder.build(Candidate(weight_bits=bits)).notes == ("one group is spared",)
