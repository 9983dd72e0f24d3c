"""SIGTERM and SIGHUP end a search as Ctrl-C does: what is done stays, what is in flight pays nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from karui.search.record import read_records
from karui.studies.commands.signals import Terminated, ended_by_signals

SEARCH = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import optuna
from conftest import BASELINE, Log, known_outcome
from karui.search.executor import InProcess
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.space import SearchSpace
from karui.studies.commands.signals import Terminated, ended_by_signals

def evaluate(candidate):
    if candidate.weight_bits == 4 and {number}:
        os.kill(os.getpid(), {number})
        os.kill(os.getpid(), {number})  # whoever asks twice is not answered twice: the ending comes to its end
        time.sleep(60)
    return known_outcome(candidate)

study = optuna.create_study(storage={storage!r}, study_name="made-up", load_if_exists=True,
                            directions=[objective.direction for objective in OBJECTIVES])
space = SearchSpace(bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)))
loop = SearchLoop(study, space, OBJECTIVES, BASELINE, InProcess(evaluate), sampler="random", seed=3)
try:
    with ended_by_signals():
        loop.run(Budget(trials=100), Log())
except Terminated as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.parametrize(("number", "code", "times"), [(signal.SIGTERM, 143, 3), (signal.SIGHUP, 129, 1)])
def test_signals_give_up_no_sound_candidate(tmp_path: Path, number: int, code: int, times: int) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"

    def search(number: int) -> int:
        folder = str(Path(__file__).parents[1] / "search")
        text = SEARCH.format(folder=folder, storage=storage, number=int(number))
        return subprocess.run([sys.executable, "-c", text], check=False, timeout=120).returncode

    assert [search(number) for _ in range(times)] == [code] * times
    study = optuna.load_study(storage=storage, study_name="made-up")
    assert {record.state for record in read_records(study)} <= {"evaluated", "interrupted", "waiting", "duplicate"}
    assert search(0) == 0
    records = [record for record in read_records(study) if record.state == "evaluated"]
    assert len({record.key for record in records}) == len(records) == 5
    assert "failed" not in {record.state for record in read_records(study)}


def test_outside_a_search_signals_mean_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="SIGTERM") as caught, ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, kept)


LOSES_TERMINAL = """
import os, signal, sys
from karui.studies.commands.signals import Terminated, ended_by_signals
try:
    with ended_by_signals():
        os.write(1, b"begun")  # at once
        signal.pause()
except Terminated as ended:
    print("nobody reads this", flush=True)
    sys.exit(ended.exit_code)
"""


def test_a_terminal_that_is_gone_is_no_second_error() -> None:
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOSES_TERMINAL], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    assert b"begun" in os.read(mine, 100)
    os.close(mine)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (129, "")
