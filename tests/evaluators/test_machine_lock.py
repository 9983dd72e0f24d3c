"""The lock between workers of a machine: measuring is alone, does not starve, and is let go of by the dead."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from karui.evaluators.measurement import Measurement
from karui.evaluators.timing import machine_lock
from karui.evaluators.timing.exclusive_use import Elsewhere, Undisturbed
from karui.evaluators.timing.machine_lock import MachineLock
from karui.spaces import file_lock
from karui.spaces.artifact import Artifact
from karui.spaces.file_lock import ExclusiveOnly

WORKER = """
import os, sys, time
from pathlib import Path
from karui.evaluators.timing.machine_lock import MachineLock
from karui.spaces import file_lock
from karui.spaces.file_lock import ExclusiveOnly

folder, role, opener = sys.argv[1:]
if opener == "ExclusiveOnly":
    file_lock.open_lock = ExclusiveOnly
lock = MachineLock(Path(folder))
diary = os.open(Path(folder) / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
now = time.monotonic_ns  # the same clock for all processes of a machine

def note(what, begin):
    os.write(diary, f"{what} {begin} {now()}\\n".encode())

print("ready", flush=True)
sys.stdin.readline()
if role == "measure":
    for _ in range(15):
        with lock.measuring():
            begin = now()
            time.sleep(0.003)
            note("measured", begin)
        time.sleep(0.005)
elif role == "steady":
    with lock.working():
        print("works", flush=True)
        while not (Path(folder) / "stop").exists():
            time.sleep(0.002)
            lock.let_pass()
else:
    stop = Path(folder) / "stop"
    while not stop.exists():
        with lock.working():
            for _ in range(20):
                begin = now()
                time.sleep(0.002)
                note("worked", begin)
                lock.let_pass()
            with lock.measuring():
                begin = now()
                time.sleep(0.001)
                note("measured", begin)
"""


@pytest.fixture(params=[file_lock.open_lock, ExclusiveOnly], ids=["flock", "exclusive"])
def opener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(file_lock, "open_lock", request.param)
    found: type = request.param
    return found


StartProcess = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, opener: type) -> Iterator[StartProcess]:
    begun: list[subprocess.Popen[str]] = []

    def start(role: str, code: str = WORKER) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path), role, opener.__name__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_nobody_works_while_somebody_measures(tmp_path: Path, start: StartProcess) -> None:
    workers = [start("work") for _ in range(3)]
    measurers = [start("measure") for _ in range(2)]
    for process in (*workers, *measurers):
        go(process)
    for process in measurers:
        # However many work, whoever measures gets to the end.
        assert process.wait(timeout=120) == 0
    (tmp_path / "stop").touch()
    for process in workers:
        assert process.wait(timeout=120) == 0
    lines = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    spans = [(what, int(begin), int(end)) for what, begin, end in lines]
    measured = [span for span in spans if span[0] == "measured"]
    assert len(measured) > 30
    for index, (_, begin, end) in enumerate(measured):
        others = [span for span in spans if span[0] == "worked"] + measured[:index] + measured[index + 1 :]
        assert not [span for span in others if span[1] < end and begin < span[2]]


def test_whoever_trains_for_hours_lets_measuring_pass(tmp_path: Path, start: StartProcess) -> None:
    trains, measures = start("steady"), start("measure")
    go(trains)
    assert trains.stdout is not None
    assert trains.stdout.readline() == "works\n"
    go(measures)
    assert measures.wait(timeout=60) == 0
    assert trains.poll() is None
    (tmp_path / "stop").touch()
    assert trains.wait(timeout=60) == 0


HOLDER = """
import sys, time
from pathlib import Path
from karui.evaluators.timing.machine_lock import MachineLock
from karui.spaces import file_lock
from karui.spaces.file_lock import ExclusiveOnly

if sys.argv[3] == "ExclusiveOnly":
    file_lock.open_lock = ExclusiveOnly
with getattr(MachineLock(Path(sys.argv[1])), sys.argv[2])():
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("role", ["working", "measuring"])
def test_the_system_lets_go_for_the_dead(tmp_path: Path, start: StartProcess, role: str) -> None:
    lock = MachineLock(tmp_path)
    holder = start(role, HOLDER)
    waited: list[str] = []

    def waits() -> None:
        waited.append(role)
        holder.send_signal(signal.SIGKILL)

    with lock.measuring(waits):
        pass
    assert waited == [role]
    with lock.measuring(lambda: pytest.fail("nobody holds it any more")):
        pass


def test_several_work_at_a_time(tmp_path: Path) -> None:
    with MachineLock(tmp_path).working(), MachineLock(tmp_path).working():
        pass


def test_measuring_within_work_leaves_it_for_the_while(tmp_path: Path, opener: type) -> None:
    mine, other = MachineLock(tmp_path), MachineLock(tmp_path)

    def is_free() -> bool:
        waited: list[int] = []

        def waits() -> None:
            waited.append(1)
            raise InterruptedError

        try:
            with other.measuring(waits):
                return True
        except InterruptedError:
            return False

    assert is_free()
    with mine.working():
        assert not is_free()
        mine.let_pass()
        assert not is_free()
        with mine.working():
            assert not is_free()
        assert not is_free()
        with mine.measuring():
            assert not is_free()
        assert not is_free(), "work goes on, and is not to be measured beside"
    assert is_free()
    with pytest.raises(ZeroDivisionError, match="bug"), mine.working(), mine.measuring():
        raise ZeroDivisionError("bug")
    assert is_free()


def test_outside_of_work_nobody_has_to_be_let_pass(tmp_path: Path) -> None:
    lock, other = MachineLock(tmp_path), MachineLock(tmp_path)
    with other.measuring():
        lock.let_pass()


def test_a_long_wait_is_told_and_its_end_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_lock, "TELLS_AFTER_SECONDS", 0.1)
    lock, other, told = MachineLock(tmp_path), MachineLock(tmp_path), list[bool]()
    lock.told = told.append
    may_end = threading.Event()

    def measure() -> None:
        with other.measuring():
            may_end.wait(30)

    thread = threading.Thread(target=measure)
    with lock.working():
        assert told == []
        thread.start()
        while not is_closed(MachineLock(tmp_path)):
            time.sleep(0.01)
        threading.Timer(0.5, may_end.set).start()
        lock.let_pass()
        assert told == [True, False]
    thread.join()


def is_closed(lock: MachineLock) -> bool:
    """Say whether somebody who wants to measure has closed the turnstile."""
    free = lock._turnstile.take(shared=True, wait=False)
    if free:
        lock._turnstile.let_go()
    return not free


def test_who_measures_for_minutes_lets_others_work_in_between(tmp_path: Path) -> None:
    lock, other = MachineLock(tmp_path), MachineLock(tmp_path)
    worked = threading.Event()

    def work() -> None:
        with other.working():
            worked.set()

    lock.let_work()  # nothing to let go of
    thread = threading.Thread(target=work)
    with lock.measuring():
        thread.start()
        time.sleep(0.1)
        assert not worked.is_set()
        for _ in range(50):
            if worked.is_set():
                break
            lock.let_work()
        assert worked.is_set()
        with pytest.raises(InterruptedError), other.measuring(raise_interrupted):
            pytest.fail("it is measured here again")
    thread.join()


def raise_interrupted() -> None:
    raise InterruptedError("in use")


def test_an_evaluator_measures_undisturbed(tmp_path: Path) -> None:
    lock, other = MachineLock(tmp_path), MachineLock(tmp_path)
    told: list[str] = []

    class Inner:
        name = "latency"

        def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
            with pytest.raises(InterruptedError, match="in use"), other.measuring(waits):
                pass
            return (Measurement("latency_ms", 3.0, "ms"),)

    def waits() -> None:
        told.append("waits")
        raise InterruptedError("in use")

    evaluator = Undisturbed(Inner(), lock, lambda: pytest.fail("nobody is in the way"))
    assert evaluator.name == "latency"
    assert evaluator.measure(Artifact(tmp_path / "x.onnx", "00")) == (Measurement("latency_ms", 3.0, "ms"),)
    assert told == ["waits"]


def test_an_evaluator_that_measures_elsewhere_leaves_the_machine_to_others(tmp_path: Path) -> None:
    lock, other = MachineLock(tmp_path), MachineLock(tmp_path)

    class Inner:
        name = "latency"

        def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
            with other.measuring(lambda: pytest.fail("nobody is in the way")):
                return (Measurement("latency_ms", 3.0, "ms"),)

    def waits() -> None:
        raise InterruptedError("in use")

    evaluator = Elsewhere(Inner(), lock)
    assert evaluator.name == "latency"
    with lock.working():
        assert evaluator.measure(Artifact(tmp_path / "x.onnx", "00")) == (Measurement("latency_ms", 3.0, "ms"),)
        with pytest.raises(InterruptedError, match="in use"), other.measuring(waits):
            pass
