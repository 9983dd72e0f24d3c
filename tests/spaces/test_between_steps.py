"""What is called between the steps of training, and while another process makes what is wanted here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.shared_stages import StageNetworks
from karui.spaces.axes.supernet.supernet_training import train_supernet
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.read_write_lock import read_write_lock
from karui.spaces.candidate import Candidate
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.task import Task
from karui.spaces.training.recovery import train
from karui.spaces.training.training_settings import TrainingSettings

EPOCHS, BATCH = 2, 64
STEPS_OF_EPOCH = 3
"""192 samples in batches of 64."""
SETTINGS = BuildSettings(epochs=EPOCHS, epochs_aware=1, batch_size=BATCH)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_training_calls_it_after_each_step(tiny_task: Task) -> None:
    between = Counter()
    train(tiny_task.model, tiny_task, TrainingSettings(epochs=EPOCHS, batch_size=BATCH), between_steps=between)
    assert between.calls == EPOCHS * STEPS_OF_EPOCH


def test_a_supernet_calls_it_after_each_step(tiny_task: Task) -> None:
    between = Counter()
    axis = StagesAxis(channels=(4,), kernels=(3,), expansions=(1,), depths=(1,))
    networks, settings = StageNetworks(axis, (1, 8, 8), 3), TrainingSettings(epochs=EPOCHS, batch_size=BATCH)
    train_supernet(networks, tiny_task, settings, between_steps=between)
    assert between.calls == EPOCHS * STEPS_OF_EPOCH


def test_the_baseline_calls_it_after_each_step(tiny_task: Task, tmp_path: Path) -> None:
    between = Counter()
    prepare_baseline(replace(tiny_task, baseline_epochs=EPOCHS), SETTINGS, tmp_path, between_steps=between)
    assert between.calls == EPOCHS * STEPS_OF_EPOCH


def test_a_builder_calls_it_in_every_training_and_says_where_it_is(tiny_task: Task, tmp_path: Path) -> None:
    between = Counter()
    stages: list[str] = []
    quantization = QuantizationSettings(calibration_samples=32)
    builder = Builder(
        tiny_task, SETTINGS, tmp_path, quantization=quantization, between_steps=between, on_stage=stages.append
    )
    plain = Candidate(removed_channels=0.5, weight_bits=4)
    made = builder.build(plain)
    assert between.calls == EPOCHS * STEPS_OF_EPOCH
    assert stages == [stage.stage for stage in made.stages]
    builder.build(replace(plain, bit_training="aware"))
    assert between.calls == (EPOCHS + SETTINGS.epochs_aware) * STEPS_OF_EPOCH
    assert "aware training" in stages


HOLD = """
import sys
from pathlib import Path
from karui.spaces.building.read_write_lock import read_write_lock

with read_write_lock(Path(sys.argv[1] + ".lock")):
    print("held", flush=True)
    sys.stdin.read()
    Path(sys.argv[1]).write_text("made elsewhere")
"""


def test_who_waits_finds_what_the_other_made(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        waited = Counter()

        def while_waiting() -> None:
            waited()
            assert not path.exists()
            if waited.calls == 2:
                other.communicate()

        with read_write_lock(tmp_path / "network.onnx.lock", while_waiting=while_waiting):
            assert path.read_text() == "made elsewhere"
        assert waited.calls == 2


def test_the_right_to_make_is_let_go_of_when_making_fails(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            pytest.raises(ZeroDivisionError, match="bug"),
            read_write_lock(tmp_path / "network.onnx.lock", while_waiting=lambda: pytest.fail("nobody has it")),
        ):
            raise ZeroDivisionError("bug")
