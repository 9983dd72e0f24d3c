"""The untrained proxy is as large as the file that comes of it and runs the same operators; a training may be
stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from karui.errors import CandidateFailure, CandidateStopped
from karui.search.stopping.pruning_rules import SIZE_SLACK
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.students.choice import Student
from karui.spaces.building import build
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.candidate import Candidate
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.task import Task
from karui.spaces.training.recovery import train
from karui.spaces.training.training_settings import TrainingSettings

SETTINGS = BuildSettings(epochs=2, epochs_from_scratch=2, epochs_aware=1, channel_multiple=1)
CELL = CellNetwork(CellGenotype(3, ((0, 1, "conv3x3"), (0, 2, "skip"), (1, 2, "conv1x1"))), 8, 1)

TRAINED = {
    "fewer channels": Candidate(removed_channels=0.25),
    "2 bits": Candidate(removed_channels=0.25, weight_bits=2),
    "zeros": Candidate(zeroed_weights=0.8, weight_bits=4, activation_bits=8),
    "zeros at once": Candidate(removed_channels=0.25, zeroed_weights=0.8, zeroing="one_shot"),
    "pattern": Candidate(
        removed_channels=0.25, zeroed_weights=0.5, zero_pattern="2:4", zeroing="one_shot", weight_bits=4
    ),
    "budget": Candidate(removed_channels=0.25, weight_bits=3.5, bit_allocation="budget"),
    "shallower": Candidate(Student("shallower", 1.0, 0.5), weight_bits=3, activation_bits=8),
    "cell": Candidate(CELL, weight_bits=4, activation_bits=8),
    "aware": Candidate(weight_bits=3, activation_bits=8, bit_training="aware"),
}


@pytest.fixture
def builder(tiny_task: Task, tmp_path: Path) -> Builder:
    return Builder(tiny_task, SETTINGS, tmp_path, quantization=QuantizationSettings(calibration_samples=16))


def operators(path: Path) -> Counter[str]:
    """What is computed at every run: constant sub-graphs, such as those that unpack weights, left out."""
    graph = onnx.load(path).graph
    constant = {tensor.name for tensor in graph.initializer} | {""}
    counted: Counter[str] = Counter()
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
        else:
            counted[node.op_type] += 1
    return counted


@pytest.mark.parametrize("name", TRAINED)
def test_the_untrained_proxy_is_the_file_but_for_what_is_learnt(builder: Builder, tiny_task: Task, name: str) -> None:
    candidate = TRAINED[name]
    with builder.untrained_proxy(candidate) as proxy:
        assert proxy is not None
        session = onnxruntime.InferenceSession(str(proxy.path), providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {"input": tiny_task.calibration_batch(3).numpy()})
        assert outputs.shape == (3, 3)
        assert np.isfinite(outputs).all()
        drafted, proxy_bytes = operators(proxy.path), proxy.path.stat().st_size
    assert not proxy.path.exists()
    built = builder.build(candidate)
    assert drafted == operators(built.path)
    assert proxy_bytes * (1 - SIZE_SLACK) <= built.path.stat().st_size <= proxy_bytes * (1 + SIZE_SLACK)
    with builder.untrained_proxy(candidate) as again:
        assert again is None, "it is trained: there is nothing left to save"


@pytest.mark.parametrize(
    "candidate", [Candidate(), Candidate(weight_bits=4), Candidate(zeroed_weights=0.5, zeroing="one_shot")]
)
def test_what_needs_no_training_has_no_proxy(builder: Builder, candidate: Candidate) -> None:
    with builder.untrained_proxy(candidate) as proxy:
        assert proxy is None


def test_candidates_that_share_a_trained_network_have_no_draft_but_where_they_train_on(builder: Builder) -> None:
    builder.build(Candidate(removed_channels=0.5))
    with builder.untrained_proxy(Candidate(removed_channels=0.5, weight_bits=3)) as proxy:
        assert proxy is None
    with builder.untrained_proxy(Candidate(removed_channels=0.5, weight_bits=3, bit_training="aware")) as proxy:
        assert proxy is not None


def test_an_untrained_proxy_changes_nothing_of_what_is_built(tiny_task: Task, tmp_path: Path) -> None:
    candidate = TRAINED["zeros"]
    plain = Builder(tiny_task, SETTINGS, tmp_path / "plain").build(candidate)
    with_proxy = Builder(tiny_task, SETTINGS, tmp_path / "with_proxy")
    before = torch.get_rng_state()
    with with_proxy.untrained_proxy(candidate):
        pass
    assert torch.equal(torch.get_rng_state(), before)
    made = [path for path in (tmp_path / "with_proxy").rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert [path.name for path in made] == ["CACHEDIR.TAG"]
    assert with_proxy.build(candidate).digest == plain.digest


def test_where_no_draft_can_be_made_there_is_none_and_the_build_says_why(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CandidateFailure("export", "no such operator")

    monkeypatch.setattr(build, "write_untrained_proxy", fail)
    with builder.untrained_proxy(TRAINED["2 bits"]) as proxy:
        assert proxy is None


# --- training that is watched, and stopped ----------------------------------------------------------------------------


def test_every_epoch_is_told_with_its_kind(builder: Builder) -> None:
    told: list[tuple[str, int, int]] = []

    def listen(kind: str, epochs: int, epoch: int, metric: float) -> None:
        assert 0.0 <= metric <= 1.0
        told.append((kind, epochs, epoch))

    builder.build(Candidate(removed_channels=0.5, weight_bits=3, bit_training="aware"), listen)
    assert told == [("warm", 2, 1), ("warm", 2, 2), ("aware", 1, 1)]
    told.clear()
    builder.build(Candidate(CELL), listen)
    assert told == [("from scratch", 2, 1), ("from scratch", 2, 2)]
    told.clear()
    builder.build(Candidate(CELL, weight_bits=4), listen)
    assert told == []


def test_a_stopped_training_leaves_nothing_that_could_be_taken_for_trained(builder: Builder, tmp_path: Path) -> None:
    def stop(kind: str, epochs: int, epoch: int, metric: float) -> None:
        raise CandidateStopped("rung", f"after {epoch} of {epochs}", 0.1)

    with pytest.raises(CandidateStopped, match="rung: after 1 of 2"):
        builder.build(Candidate(CELL), stop)
    assert not list(tmp_path.rglob("*.onnx"))
    assert not list(tmp_path.rglob("*.safetensors"))
    epochs = []
    builder.build(Candidate(CELL), lambda kind, total, epoch, metric: epochs.append(epoch))
    assert epochs == [1, 2], "it begins from the start"


def test_training_that_is_stopped_leaves_the_network_on_the_cpu_in_evaluation_mode(
    tiny_task: Task, tiny_network: nn.Module
) -> None:
    def stop(epoch: int, metric: float) -> None:
        if epoch == 2:
            raise CandidateStopped("rung", "too little", 0.1)

    with pytest.raises(CandidateStopped, match="too little"):
        train(tiny_network, tiny_task, TrainingSettings(epochs=3), on_epoch=stop)
    assert not tiny_network.training
    assert {parameter.device.type for parameter in tiny_network.parameters()} == {"cpu"}
