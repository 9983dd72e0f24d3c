"""Measuring again while workers train: which files and how often, what is left alone, and what the end makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from karui.errors import CandidateFailure, TargetUnavailable
from karui.evaluators.measurement import Measurement
from karui.evaluators.targets.command import CommandTarget
from karui.evaluators.targets.quarantine import Quarantine
from karui.evaluators.timing.alternating import TimingSettings
from karui.evaluators.timing.machine_lock import open_own_lock, shared_folder
from karui.search import runner
from karui.search.executor import InProcess
from karui.search.outcome import Outcome
from karui.search.record import TrialRecord
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.candidate import Candidate
from karui.studies.certifying import idle_measuring
from karui.studies.certifying.idle_measuring import AFTER_BUSY_SECONDS, AFTER_GONE_SECONDS, MOST_TIMES, IdleMeasuring
from karui.studies.certifying.remeasuring import ROUNDS, measure_with
from karui.studies.measuring.bench import Bench
from karui.studies.results.tables import TEST_ACCURACY
from karui.studies.run import run_study
from karui.studies.watching.log import read_log

from .conftest import make_record, write_study


class World:
    """A bench of files of known latencies: of the first two it is open which is faster, the third is far behind."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.asked: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.closed = 0
        self.tell: Callable[[str], None] | None = None
        self.error: Exception | None = None
        self.says = ""
        self.latencies = (5.0, 5.0, 9.0)
        self.files = []
        self.records = []
        for number, latency in enumerate(self.latencies):
            path = folder / f"{number}.onnx"
            path.write_bytes(bytes([number]))
            self.files.append(Artifact(path, file_digest(path)))
            record = make_record(number, 10.0 + number, latency, 0.9, digest=self.files[number].digest)
            self.records.append(replace(record, candidate=Candidate(weight_bits=2 + number)))

    @property
    def test_latency(self) -> World:
        return self

    @property
    def targets(self) -> World:
        return self

    def close(self) -> None:
        self.closed += 1

    def kept_artifact(self, record: TrialRecord) -> Artifact:
        return self.files[record.number]

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        number = self.files.index(artifact)
        self.asked.append(number)
        if self.says and self.tell is not None:
            self.tell(self.says)
        if self.error is not None:
            raise self.error
        return (Measurement("latency_ms", self.latencies[number], "ms", 0.1, 20),)

    def happened(self, event: str, **details: Any) -> None:
        assert event == "measured again while idle"
        self.events.append(details)

    def idle(self) -> IdleMeasuring:
        return IdleMeasuring(lambda: self.records, cast("Bench", self), self.happened, lambda: self.now)


def test_only_who_is_open_is_measured_and_only_a_few_times(tmp_path: Path) -> None:
    world = World(tmp_path)
    idle = world.idle()
    done = [idle() for _ in range(20)]
    # The smaller of two that are as fast is on the front for sure; of the larger one noise leaves it open.
    assert world.asked == [1] * MOST_TIMES
    assert done == [True] * MOST_TIMES + [False] * (20 - MOST_TIMES)
    assert world.closed == MOST_TIMES, "nothing stays in the device's memory"
    (taken,) = idle.taken.items()
    assert taken[0] == world.files[1].digest
    assert [details["times"] for details in world.events] == [1, 2, 3]
    assert world.events[0] == {"trial": 1, "latency_ms": 5.0, "latency_ms_spread": 0.1, "times": 1}


def test_what_is_measured_takes_the_place_of_what_the_search_saw(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.latencies = (5.0, 6.0, 9.0)  # the search was lucky with it
    idle = world.idle()
    assert [idle(), idle()] == [True, False]
    assert world.asked == [1], "once is enough to see that it is slower"


def test_newcomers_are_seen(tmp_path: Path) -> None:
    world = World(tmp_path)
    (*_, last) = records = world.records
    world.records = [last]
    idle = world.idle()
    assert not idle()
    world.records = records
    assert idle()


@pytest.mark.parametrize("retry_seconds", [0.0, 300.0])
def test_a_device_that_drops_is_left_alone_for_a_while(tmp_path: Path, retry_seconds: float) -> None:
    world = World(tmp_path)
    idle, gone = world.idle(), TargetUnavailable("gone: pi5")
    gone.retry_seconds, world.error = retry_seconds, gone
    assert not idle()
    pause = max(AFTER_GONE_SECONDS, retry_seconds)
    for world.now in (0.0, pause / 2, pause - 0.1):
        assert not idle()
    assert world.asked == [1]
    world.now, world.error = pause, None
    assert idle()
    assert world.events == [{"trial": 1, "latency_ms": 5.0, "latency_ms_spread": 0.1, "times": 1}]


def test_a_file_that_cannot_be_measured_or_has_changed_is_not_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.error = CandidateFailure("latency", "crashes")
    idle = world.idle()
    assert [idle(), idle()] == [True, False]
    assert world.asked == [1]
    changed = World(tmp_path)
    changed.files[1].path.write_bytes(b"other")
    idle = changed.idle()
    assert [idle(), idle()] == [True, False]
    assert changed.asked == []
    assert not idle.taken


def test_a_device_in_use_is_not_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    idle = world.idle()

    def told(text: str) -> None:
        raise AssertionError(text)

    world.tell, world.says = told, "waiting for device pi5"
    assert not idle()
    world.now = AFTER_BUSY_SECONDS / 2
    assert not idle()
    assert (world.asked, world.closed, world.tell) == ([1], 1, told)
    world.now, world.says = AFTER_BUSY_SECONDS, ""
    assert idle()


def test_a_real_target_lets_itself_be_refused_and_measures_later(tmp_path: Path) -> None:
    program = tmp_path / "measure"
    program.write_text('#!/bin/sh\necho "{\\"latency_ms\\": 1.5}"\n')
    program.chmod(0o755)

    class RefusedError(Exception):
        pass

    def refuse(text: str) -> None:
        raise RefusedError(text)

    command = CommandTarget([str(program)], "phone", tell=refuse)
    target = Quarantine(command, refuse)
    arguments = (program, program, np.zeros((1, 1)), TimingSettings(max_seconds=0.01))
    folder = shared_folder()
    folder.mkdir(parents=True, exist_ok=True)
    lock = open_own_lock(folder / command.lock_name)
    assert lock.take(shared=False, wait=False)
    with pytest.raises(RefusedError, match="waiting for device phone"):
        target.time_pair(*arguments)
    lock.let_go()
    assert target.time_pair(*arguments).candidate_ms == 1.5
    program.write_text("#!/bin/sh\nexit 75\n")
    with pytest.raises(RefusedError, match="does not answer"):
        target.time_pair(*arguments)


def test_at_the_end_they_are_averaged_with_what_is_measured_then(tmp_path: Path) -> None:
    world = World(tmp_path)

    def measure(candidate: Candidate, gates: Any = None, /) -> Outcome:
        latency = Measurement("latency_ms", 5.0, "ms", 0.2, 20)
        accuracy = Measurement(TEST_ACCURACY, 0.8, "1", 0.01, 150)
        return Outcome({item.name: item for item in (latency, accuracy)}, "00")

    earlier = {world.files[0].digest: [{"latency_ms": Measurement("latency_ms", 5.5, "ms", 0.1, 30)}]}
    wanted = [(world.records[0], world.files[0])]
    (found,) = measure_with(InProcess(measure), wanted, world.happened, earlier=earlier).found
    latency = found.measurements["latency_ms"]
    # Weights 1 / 0.2² and 1 / 0.1² are 25 and 100.
    assert latency.value == pytest.approx((25 * 5.0 + 100 * 5.5) / 125)
    assert (latency.count, latency.conditions["repeats"]) == (50, 2)
    assert found.measurements[TEST_ACCURACY].value == 0.8


# --- a real study -----------------------------------------------------------------------------------------------------

FEW = """
[bits]
weights = [8, 32]
activations = [8, 32]

[sparsity]
removed_channels = [0.0, 0.5]
zeroed_weights = [0.0, 0.5]

[recovery]
epochs = 2
batch_size = 32

[latency]
max_seconds = 0.05
"""

NOISY = """#!/bin/sh
# Whatever the file, about a millisecond, and never the same twice: of nobody is it known who is faster.
echo "{\\"latency_ms\\": 1.$(printf %09d $((1$(date +%N) % 1000000000)))}"
"""


def noisy_target(folder: Path) -> str:
    path = folder / "noisy"
    path.write_text(NOISY)
    path.chmod(0o755)
    return f'[[target]]\nname = "phone"\nkind = "command"\ncommand = ["{path}"]\n'


@pytest.mark.slow  # two processes load torch
@pytest.mark.alone  # the device has a moment to measure in only where the machine is quiet
def test_a_device_measures_while_a_worker_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The networks of tests train for a second.
    monkeypatch.setattr(runner, "_LOOKS_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(idle_measuring, "AFTER_BUSY_SECONDS", 0.01)
    study = write_study(tmp_path, function="slow_task", axes=FEW + noisy_target(tmp_path), workers=1)
    result = run_study(study, trials=8, out=tmp_path / "out")
    events = read_log(tmp_path / "out" / "log.jsonl")
    again = [event for event in events if event["event"] == "measured again while idle"]
    assert again
    times = pd.Series([event["trial"] for event in again]).value_counts()
    assert times.max() <= MOST_TIMES
    (searched,) = (
        number for number, event in enumerate(events) if str(event.get("text", "")).startswith("measuring the front")
    )
    assert all(event in events[:searched] for event in again), "before the end"
    # Whoever was measured again may have left the front by that: it was there for one low latency.
    for path in (tmp_path / "out" / "front").glob("*.json"):
        point = json.loads(path.read_text())
        repeats = point["measurements"]["latency_ms"]["conditions"].get("repeats", 1)
        earlier = int(times.get(point["trial"], 0))
        assert earlier + 1 <= repeats <= earlier + 1 + ROUNDS, "what was measured then is part of what is told"
    assert len(result.front)


def test_with_this_machine_as_target_nothing_is_measured_meanwhile(tmp_path: Path) -> None:
    from karui.evaluators.timing.machine_lock import MachineLock
    from karui.studies.measuring.bench_targets import BenchTargets
    from karui.studies.study_file.spec_reading import load_spec

    for targets, are_elsewhere in (
        ("", False),
        (noisy_target(tmp_path), True),
        (noisy_target(tmp_path) + '[[target]]\nname = "here"\nkind = "local"\n', False),
    ):
        spec = load_spec(write_study(tmp_path, axes=FEW + targets))
        bench = BenchTargets(spec, MachineLock(tmp_path / "lock"), lambda _: None, lambda: None)
        assert bench.are_elsewhere == are_elsewhere
