"""Whole small studies whose latency is measured on a device: this machine, behind a real sshd or a user's program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from karui.errors import TargetUnavailable
from karui.evaluators.targets import quarantine
from karui.search.faults import retry_queue
from karui.search.record import TrialRecord
from karui.studies.run import run_study
from karui.studies.watching.log import read_log
from karui.studies.watching.watcher import Watcher

from ..sshd import ALIAS, Sshd, sshd_server
from .conftest import write_study

AXES = """
[bits]
weights = [4, 8, 32]
activations = [8, 32]

[sparsity]
removed_channels = [0.0, 0.5]
zeroed_weights = [0.0]

[recovery]
epochs = 1
batch_size = 32

[latency]
max_seconds = 0.05
"""


def ssh_target(server: Sshd, name: str = "pi5") -> str:
    return (
        f'[[target]]\nname = "{name}"\nkind = "ssh"\nhost = "{ALIAS}"\n'
        f'python = "{sys.executable}"\nssh_config = "{server.config}"\n'
    )


PROGRAM = """#!/bin/sh
# As slow as the file is large, so that the answer is known: a microsecond a byte.
size=$(wc -c < "$2")
echo "{\\"latency_ms\\": $((size / 1000)).$((size % 1000 / 100))$((size % 100 / 10))$((size % 10))}"
"""


def program_target(folder: Path) -> str:
    path = folder / "measure"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return f'[[target]]\nname = "phone"\nkind = "command"\ncommand = ["{path}"]\n'


def study(folder: Path, targets: str, latency: str = "") -> Path:
    return write_study(folder, axes=AXES + latency + targets)


@pytest.mark.slow
def test_a_study_on_one_device_has_todays_names_and_the_devices_conditions(tmp_path: Path, sshd: Sshd) -> None:
    path = study(tmp_path, ssh_target(sshd))
    result = run_study(path, trials=4, out=tmp_path / "out")
    assert not [name for name in result.trials.columns if "@" in name]
    assert len(result.front)
    described = json.loads(next((tmp_path / "out" / "front").glob("*.json")).read_text())
    told = described["measurements"]["latency_ms"]["conditions"]
    assert (told["target"], told["provider"], told["threads"]) == ("pi5", "CPUExecutionProvider", 1)
    assert described["measurements"]["load_ms"]["conditions"]["target"] == "pi5"
    kept = {item.stem for item in (sshd.cache / "files").glob("*.onnx")}
    evaluated = result.trials[result.trials["state"] == "evaluated"]
    assert set(evaluated["sha256"]) <= kept, "what was measured is what was sent, by its digest"
    assert not sshd.measuring_processes()


def test_the_worst_of_two_targets_is_what_is_searched(tmp_path: Path, sshd: Sshd) -> None:
    path = study(tmp_path, ssh_target(sshd) + program_target(tmp_path), 'objective = "worst"\n')
    result = run_study(path, trials=5, out=tmp_path / "out")
    for table in (result.trials[result.trials["state"] == "evaluated"], result.front):
        ratios = table[["latency_ratio@pi5", "latency_ratio@phone"]]
        assert table["latency_ratio"].tolist() == ratios.max(axis=1).tolist()
        # The program's answer is known: as slow as the file is large, and the reference is the baseline's file.
        assert table["latency_ms@phone"].tolist() == pytest.approx((table["size_bytes"] / 1000).tolist(), rel=1e-3)
    baseline = result.baseline
    assert baseline["latency_ms"].value == baseline["latency_ms@pi5"].value
    front = pd.read_csv(tmp_path / "out" / "front.csv")
    assert {"latency_ms@pi5", "latency_ratio@phone", "latency_ms", "load_ms@pi5"} <= set(front.columns)
    assert "load_ms@phone" not in front.columns


class SwitchesOff(Watcher):
    """Switches the device off after so many evaluated trials."""

    def __init__(self, server: Sshd, after: int) -> None:
        self.server = server
        self.after = after

    def ended(self, record: TrialRecord) -> None:
        self.after -= record.state == "evaluated"
        if self.after == 0:
            self.server.stop()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "PAUSES_SECONDS", (0.01,))
    monkeypatch.setattr(quarantine, "FIRST_QUARANTINE_SECONDS", 0.05)
    monkeypatch.setattr(retry_queue, "LEAST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(retry_queue, "PATIENCE_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_device_that_is_switched_off_loses_nothing(tmp_path: Path) -> None:
    with sshd_server() as server:
        path = study(tmp_path, ssh_target(server))
        options: dict[str, Any] = {"trials": 6, "out": tmp_path / "out"}
        with pytest.raises(TargetUnavailable, match=r"(?s)target pi5 ended.*to be measured.*same command again"):
            run_study(path, watcher=SwitchesOff(server, after=2), **options)
        before = pd.read_csv(tmp_path / "out" / "trials.csv")
        assert sum(before["state"] == "evaluated") == 2
        assert not sum(before["state"] == "failed")
        interrupted = before[before["state"] == "interrupted"]
        assert len(interrupted) == 4, "all that the search had left to make was made, and waits"
        events = [event for event in read_log(tmp_path / "out" / "log.jsonl") if event["event"] == "target unavailable"]
        assert len(events) >= 4
        assert "pi5" in events[0]["reason"]
        server.start()
        result = run_study(path, **options)
    after = result.trials
    assert sum(after["state"] == "evaluated") == 6
    again = after[after["key"].isin(interrupted["key"]) & (after["state"] == "evaluated")]
    assert len(again) == 4
    assert "seconds_recovery" not in again.columns or not again["seconds_recovery"].sum(), "nothing was trained twice"
    assert len(result.front)
