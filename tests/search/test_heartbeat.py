"""Trials that a killed search left running: which kills count against a candidate."""

from __future__ import annotations

import socket
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from karui.search.heartbeat import (
    SILENT_SECONDS,
    Heartbeat,
    owner_is_gone,
    owner_mark,
    queue_again,
    recover_stale,
    this_machine,
)
from karui.search.record import ATTEMPTS, read_records, write_begin


@pytest.mark.parametrize("began", [True, False])
def test_only_a_candidate_that_had_begun_is_given_up_after_so_many_kills(began: bool) -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1})
    for _ in range(ATTEMPTS + 2):
        waiting = study.get_trials(states=(TrialState.WAITING,))
        if not waiting:
            break
        trial = study.ask()
        if began:
            write_begin(trial)
        queue_again(study, study.get_trials()[trial.number], killed=True)
    states = [record.state for record in read_records(study)]
    if began:
        assert states == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    else:
        assert states == ["interrupted"] * (ATTEMPTS + 2) + ["waiting"]
        assert {record.kills for record in read_records(study)} == {0}


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_two_machines_of_one_host_name_do_not_take_each_others_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = 4_000_000  # no process has that number
    study, now = optuna.create_study(), [1000.0]
    monkeypatch.setattr("karui.search.heartbeat.this_machine", lambda: f"{socket.gethostname()} another-boot 1")
    with Heartbeat(study, now=lambda: now[0]) as theirs:
        trial = study.ask()
        trial.set_user_attr("owner", {**theirs.mark, "pid": nobody})
    monkeypatch.undo()
    ours = Heartbeat(study, now=lambda: now[0])
    assert ours.mark["host"] == theirs.mark["host"]
    assert not owner_is_gone(trial.user_attrs["owner"]), "that number means nothing here"
    assert recover_stale(study, ours, []) == []
    now[0] += SILENT_SECONDS - 1
    assert recover_stale(study, ours, []) == []
    now[0] += SILENT_SECONDS
    assert [each.number for each in recover_stale(study, ours, [])] == [trial.number]


def test_a_dead_process_of_this_machine_is_known_at_once() -> None:
    assert owner_is_gone({**owner_mark(), "pid": 4_000_000})
    earlier = {name: value for name, value in owner_mark().items() if name != "machine"}
    assert owner_is_gone({**earlier, "pid": 4_000_000}), "as an earlier version noted it"


def test_containers_of_one_machine_are_told_apart_by_their_processes() -> None:
    name, boot, numbers = this_machine().split()
    assert name == socket.gethostname()
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"pid:[{numbers}]" == str(Path("/proc/self/ns/pid").readlink())
