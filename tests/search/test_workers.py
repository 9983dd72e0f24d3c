"""Workers: whatever a candidate does to its process, it alone pays; and no process outlives the search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from karui.errors import CandidateFailure, KaruiError, TaskError
from karui.search.loop import Budget
from karui.search.outcome import Outcome, Result, UnexpectedError, WorkerLost
from karui.search.record import read_records
from karui.spaces.candidate import Candidate
from karui.studies.workers.pool import Workers

from .conftest import Log, MakeLoop, known_outcome

ODDITIES = '''
"""What a worker of a test runs: candidates tell by their bits what is to happen."""

import ctypes, os, signal, subprocess, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from karui.errors import CandidateFailure, TaskError
from karui.evaluators.measurement import Measurement
from karui.search.outcome import Outcome


def known_outcome(candidate):
    kept = 1.0 - candidate.removed_channels
    size = 1000.0 * candidate.weight_bits * kept * (1.0 - candidate.zeroed_weights)
    accuracy = 0.99 - 0.2 / candidate.weight_bits - 0.1 * candidate.removed_channels - 0.1 * candidate.zeroed_weights
    named = (("size_bytes", size, "bytes"), ("latency_ms", candidate.activation_bits * kept, "ms"),
             ("accuracy", accuracy, "1"))
    return Outcome({name: Measurement(name, value, unit) for name, value, unit in named}, digest=candidate.key)


@dataclass
class Factory:
    """Makes an evaluation in which candidates of these bits do what is named."""

    odd: dict = field(default_factory=dict)
    diary: str = ""
    at_start: str = ""

    def __call__(self, announce):
        self.announce = announce
        if self.at_start:
            getattr(self, self.at_start)()
        return self.evaluate

    def evaluate(self, candidate):
        if self.diary:
            with open(self.diary, "a") as file:
                file.write(f"{os.getpid()} {candidate.key}\\n")
        if getattr(self, "is_broken", False):
            raise CandidateFailure("recovery", "RuntimeError: CUDA error: unspecified launch failure")
        what = self.odd.get(candidate.weight_bits)
        if what:
            self.announce("strange")
            getattr(self, what)()
        return known_outcome(candidate)

    def exit(self):
        os._exit(7)

    def leave(self):
        sys.exit(3)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self):
        ctypes.string_at(0)

    def hang(self):
        child = subprocess.Popen(["sleep", "600"])
        Path(self.diary + ".pids").write_text(f"{os.getpid()} {child.pid}")
        while True:
            pass

    def hold(self):
        # whoever is called like this keeps the interpreter's lock: no other thread of the process runs
        child = subprocess.Popen(["sleep", "600"])
        Path(self.diary + ".pids").write_text(f"{os.getpid()} {child.pid}")
        ctypes.PyDLL(None).sleep(600)

    def terminate(self):
        if not Path(self.diary + ".ended").exists():
            Path(self.diary + ".ended").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    def accelerator(self):
        self.is_broken = True

    def sleep(self):
        time.sleep(0.2)

    def bug(self):
        {}["nothing"]

    def fail(self):
        raise CandidateFailure("packing", "does not fit")

    def data(self):
        raise TaskError("the data are broken", where="Task(train=...)[3]", got="nothing", remedy="mend them")

    def say(self):
        print("this goes where errors go", flush=True)
'''


@pytest.fixture
def make_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workers]]:
    (tmp_path / "oddities.py").write_text(ODDITIES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Workers] = []

    def make(size: int = 1, seconds: float = 60.0, **options: object) -> Workers:
        Factory = import_module("oddities").Factory  # noqa: N806

        diary = str(tmp_path / "diary")
        workers = Workers(
            size, Factory(diary=diary, **options), candidate_seconds=seconds, output=tmp_path / "workers.log"
        )
        made.append(workers)
        return workers

    yield make
    for workers in made:
        workers.close()
    sys.modules.pop("oddities", None)


MakeWorkers = Callable[..., Workers]


def ask(workers: Workers, *bits: int) -> dict[int, Result]:
    """Have one candidate of each of these bits evaluated, one after the other; by bits."""
    return {width: workers.run(width, Candidate(weight_bits=width)) for width in bits}


def lost(result: Result) -> tuple[str, str]:
    assert isinstance(result, WorkerLost)
    return result.stage, result.reason


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until_gone(*pids: int) -> None:
    for _ in range(300):
        if not any(map(is_there, pids)):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {[pid for pid in pids if is_there(pid)]}")


def test_a_candidate_that_ends_its_process_pays_alone(make_workers: MakeWorkers) -> None:
    workers = make_workers(odd={2: "exit", 3: "kill", 4: "crash", 5: "fail", 6: "bug", 7: "leave"})
    results = ask(workers, 32, 2, 3, 4, 5, 6, 7, 8)
    assert lost(results[2]) == ("strange", "its worker process ended by itself with exit code 7")
    assert lost(results[3])[1] == "its worker process was killed by SIGKILL, perhaps because memory ran out"
    assert lost(results[4])[1] == "its worker process ended by SIGSEGV, a segmentation fault in native code"
    failure = results[5]
    assert isinstance(failure, CandidateFailure)
    assert (failure.stage, failure.reason) == ("packing", "does not fit")
    bug, left = results[6], results[7]
    assert isinstance(bug, UnexpectedError)
    assert (bug.stage, bug.reason) == ("strange", "KeyError: 'nothing'")
    assert 'oddities.py", line' in bug.traceback
    assert isinstance(left, UnexpectedError)
    assert left.reason == "SystemExit: 3"
    for bits in (32, 8):
        assert results[bits] == known_outcome(Candidate(weight_bits=bits))


def test_a_worker_is_kept_until_it_dies_or_meets_an_error_that_is_no_candidates(
    make_workers: MakeWorkers, tmp_path: Path
) -> None:
    ask(make_workers(odd={3: "fail", 4: "exit", 6: "bug"}), 2, 3, 4, 5, 6, 7, 8)
    pids = [line.split()[0] for line in (tmp_path / "diary").read_text().splitlines()]
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 3, 3, 5, 5]


def test_a_candidate_that_hangs_is_stopped_with_all_that_it_started(make_workers: MakeWorkers, tmp_path: Path) -> None:
    workers = make_workers(seconds=3.0, odd={3: "hang"})
    results = ask(workers, 3, 8)
    assert lost(results[3]) == ("strange", "not done within 0.05 minutes, so its worker process was stopped")
    assert isinstance(results[8], Outcome)
    wait_until_gone(*map(int, (tmp_path / "diary.pids").read_text().split()))


def test_who_is_ended_from_outside_is_tried_again(make_workers: MakeWorkers, make_loop: MakeLoop) -> None:
    log = Log()
    loop = make_loop(executor=make_workers(odd={8: "terminate"}))
    loop.run(Budget(trials=1000), log)
    assert {record.state for record in log.records} <= {"evaluated", "duplicate"}
    (ended,) = [details for event, details in log.events if event == "unexpected error"]
    assert (ended["kind"], ended["reason"]) == ("signal", "its worker process ended by SIGTERM")


def test_a_new_process_takes_over_from_one_whose_accelerator_is_broken(
    make_workers: MakeWorkers, make_loop: MakeLoop
) -> None:
    log = Log()
    loop = make_loop(executor=make_workers(odd={4: "accelerator"}))
    loop.run(Budget(trials=12), log, loop.space.initial_design())
    assert {record.state for record in log.records} <= {"evaluated", "duplicate"}
    kinds = {details["kind"] for event, details in log.events if event == "unexpected error"}
    assert kinds == {"accelerator"}


def test_a_task_that_is_broken_is_told_once(make_workers: MakeWorkers) -> None:
    with pytest.raises(TaskError, match="the data are broken") as caught:
        ask(make_workers(at_start="data"), 8)
    assert caught.value.details() == [("where", "Task(train=...)[3]"), ("got", "nothing"), ("to do", "mend them")]
    with pytest.raises(TaskError, match="the data are broken"):
        ask(make_workers(odd={3: "data"}), 8, 3)


def test_a_start_that_goes_wrong_is_no_candidates_fault(make_workers: MakeWorkers) -> None:
    with pytest.raises(KaruiError, match=r"could not begin(?s:.*)KeyError: 'nothing'"):
        ask(make_workers(at_start="bug"), 8)
    with pytest.raises(KaruiError, match=r"die while they start, 3 in a row(?s:.*)exit code 7"):
        ask(make_workers(at_start="exit"), 8)
    with pytest.raises(KaruiError, match="has not begun in time"):
        ask(make_workers(at_start="hang", seconds=1.0), 8)


def test_what_cannot_be_pickled_is_told() -> None:
    with pytest.raises(KaruiError, match=r"cannot be handed to them(?s:.*)workers=0"):
        Workers(1, lambda announce: lambda candidate, gates=None: known_outcome(candidate), candidate_seconds=1.0)


def test_what_a_task_prints_does_not_get_between(make_workers: MakeWorkers, tmp_path: Path) -> None:
    assert isinstance(ask(make_workers(odd={3: "say"}), 3)[3], Outcome)
    assert (tmp_path / "workers.log").read_text() == "this goes where errors go\n"


SEARCH = """
import sys, time
sys.path.insert(0, {folder!r})
from oddities import Factory
from karui.studies.workers.pool import Workers
from karui.spaces.candidate import Candidate

workers = Workers(1, Factory({{3: {how!r}}}, diary={diary!r}), candidate_seconds=600.0)
workers.on_stage = lambda number, stage: print(stage, flush=True)
workers.run(0, Candidate(weight_bits=3))
"""


@pytest.mark.parametrize("how", ["hang", "hold"])
def test_workers_and_what_they_started_die_with_a_killed_search(
    make_workers: MakeWorkers, tmp_path: Path, how: str
) -> None:
    code = SEARCH.format(folder=str(tmp_path), diary=str(tmp_path / "diary"), how=how)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as search:
        assert search.stdout is not None
        assert "strange" in search.stdout.readline()
        pids = tmp_path / "diary.pids"
        while not pids.exists() or len(pids.read_text().split()) < 2:
            time.sleep(0.05)
        found = [int(pid) for pid in pids.read_text().split()]
        assert all(map(is_there, found))
        search.send_signal(signal.SIGKILL)
    wait_until_gone(*found)


KILLED = """
import random, sys, threading, os, signal
sys.path[:0] = [{folder!r}, {conftest!r}]
import optuna
from conftest import BASELINE, Log
from oddities import Factory
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES
from karui.studies.workers.pool import Workers
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.space import SearchSpace
from karui.spaces.axes.sparsity.axis import SparsityAxis

study = optuna.load_study(storage={storage!r}, study_name="made-up")
space = SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.5)),
                    bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)))
workers = Workers(2, Factory(dict.fromkeys((4, 7, 8, 32), "sleep"), {diary!r}), candidate_seconds=60.0)
chance = random.Random({seed})

class Doomed(Log):
    left = chance.randrange(1, 12)
    def note(self):
        self.left -= 1
        if not self.left:
            # At some moment after something was told, whatever the search does then.
            threading.Timer(chance.random() * 0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    def begun(self, *told): self.note()
    def reached(self, *told): self.note()
    def ended(self, *told): self.note()

SearchLoop(study, space, OBJECTIVES, BASELINE, workers, sampler="random", seed=3).run(Budget(trials=1000), Doomed())
"""


@pytest.mark.slow
def test_a_search_that_is_killed_at_any_moment_loses_nothing(
    make_workers: MakeWorkers, make_loop: MakeLoop, tmp_path: Path
) -> None:
    loop = make_loop(executor=make_workers(2))
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    kills = 0
    for seed in range(8):
        code = KILLED.format(
            folder=str(tmp_path), conftest=str(Path(__file__).parent), storage=storage,
            diary=str(tmp_path / "diary"), seed=seed,
        )  # fmt: skip
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        kills += ended.returncode != 0
        wait_until_gone(*{int(line.split()[0]) for line in (tmp_path / "diary").read_text().splitlines()})
    assert kills >= 3
    loop.run(Budget(trials=1000), Log())
    records = read_records(loop.study)
    ended_keys = [record.key for record in records if record.state in ("evaluated", "failed")]
    assert len(ended_keys) == len(set(ended_keys)) == 20
    assert {record.state for record in records} <= {"evaluated", "failed", "duplicate", "interrupted"}
    # Begun again is only what was in flight: two candidates a kill.
    assert len((tmp_path / "diary").read_text().splitlines()) <= 20 + 2 * kills


# --- in the loop ------------------------------------------------------------------------------------------------------


def test_as_many_workers_as_one_likes_give_the_same(make_workers: MakeWorkers, make_loop: MakeLoop) -> None:
    loop = make_loop(executor=make_workers(3, odd={8: "sleep"}))
    log = Log()
    assert loop.run(Budget(trials=1000), log) == "every candidate of the space has been tried"
    expected = {key: known_outcome(candidate) for _, candidate in loop.space.points() if (key := candidate.key)}
    found = {record.key: record.outcome for record in log.records if record.state == "evaluated"}
    assert {key: outcome.measurements for key, outcome in found.items() if outcome} == {
        candidate.canonical().key: known_outcome(candidate.canonical()).measurements
        for _, candidate in loop.space.points()
    }
    assert set(found) <= set(expected)
    assert len(log.begun_keys) == len(set(log.begun_keys)) == 20


def test_one_worker_asks_for_what_the_search_itself_would(
    make_workers: MakeWorkers, make_loop: MakeLoop, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    for executor in (None, make_workers(1)):
        log = Log()
        make_loop(executor=executor, sampler="tpe").run(Budget(trials=14), log)
        asked.append(log.begun_keys)
        optuna.delete_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="made-up")
    assert asked[0] == asked[1]


def test_several_are_in_flight_and_the_budget_is_kept(
    make_workers: MakeWorkers, make_loop: MakeLoop, tmp_path: Path
) -> None:
    log = Log()
    loop = make_loop(executor=make_workers(3, odd=dict.fromkeys((7, 8, 4, 32), "sleep")))
    assert loop.run(Budget(trials=10), log) == "all trials are done"
    assert len(log.begun_keys) == len(set(log.begun_keys)) == 10
    pids = {line.split()[0] for line in (tmp_path / "diary").read_text().splitlines()}
    assert len(pids) == 3


def test_every_ending_is_noted(make_workers: MakeWorkers, make_loop: MakeLoop) -> None:
    loop = make_loop(executor=make_workers(2, odd={4: "exit", 7: "bug"}))
    log = Log()
    loop.run(Budget(trials=1000), log, loop.space.initial_design())
    states = {
        (r.candidate.weight_bits, r.state, r.stage) for r in log.records if r.candidate and r.state != "duplicate"
    }
    assert states == {
        (4, "failed", "strange"),
        (7, "failed", "strange"),
        (8, "evaluated", ""),
        (32, "evaluated", ""),
    }
    kinds = {event for event, _ in log.events}
    assert kinds == {"worker lost", "unexpected error"}
    # what might have been the process's own fault is tried again; what ended the process costs the candidate at once
    faulty = {record.number: (record.reason, record.candidate) for record in log.records if record.state == "failed"}
    tried = [details["trial"] for event, details in log.events if event == "unexpected error"]
    for number, (reason, candidate) in faulty.items():
        # three times with another coming through in between; a try before any has come through does not count
        is_tried_again = candidate is not None and candidate.weight_bits == 7
        assert tried.count(number) >= 3 if is_tried_again else tried.count(number) == 0
        assert ("3 times, while others came through" in reason) == is_tried_again
    assert all("KeyError" in details["traceback"] for event, details in log.events if event == "unexpected error")


def test_a_bug_that_hits_everything_ends_the_search(make_workers: MakeWorkers, make_loop: MakeLoop) -> None:
    loop = make_loop(executor=make_workers(odd=dict.fromkeys(range(33), "bug")))
    with pytest.raises(
        KaruiError, match=r"3 times in a row(?s:.*)KeyError: 'nothing'(?s:.*)tries the candidates again"
    ):
        loop.run(Budget(trials=1000), Log())
    states = {record.state for record in read_records(loop.study) if record.candidate}
    assert states <= {"interrupted", "waiting", "duplicate"}, "no candidate pays for it"
    assert not loop.study.get_trials(states=(TrialState.RUNNING,))


def test_an_error_of_the_task_ends_the_search_and_costs_nothing(make_workers: MakeWorkers, make_loop: MakeLoop) -> None:
    log = Log()
    loop = make_loop(executor=make_workers(2, odd={4: "data", 8: "sleep", 32: "sleep", 7: "sleep"}))
    with pytest.raises(TaskError, match="the data are broken"):
        loop.run(Budget(trials=1000), log)
    states = [record.state for record in read_records(loop.study)]
    assert "running" not in states
    assert "failed" not in states
    again = Log()
    loop = make_loop()
    assert loop.run(Budget(trials=1000), again) == "every candidate of the space has been tried"
    evaluated = [record.key for record in (*log.records, *again.records) if record.state == "evaluated"]
    assert len(evaluated) == len(set(evaluated)) == 20


def test_ctrl_c_ends_the_workers_and_queues_what_was_in_flight(
    make_workers: MakeWorkers, make_loop: MakeLoop, tmp_path: Path
) -> None:
    class Impatient(Log):
        def reached(self, number: int, stage: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    loop = make_loop(executor=make_workers(2, odd=dict.fromkeys((4, 7, 8, 32), "sleep")))
    log = Impatient()
    with pytest.raises(KeyboardInterrupt):
        loop.run(Budget(trials=1000), log)
    records = read_records(loop.study)
    states = [record.state for record in records]
    stopped = [record.number for record in records if record.state == "interrupted"]
    assert sorted(details["trial"] for _, details in log.events) == stopped
    assert {event for event, _ in log.events} == {"trial interrupted"}
    assert "running" not in states
    assert states.count("interrupted") == states.count("waiting") >= 1
    wait_until_gone(*{int(line.split()[0]) for line in (tmp_path / "diary").read_text().splitlines()})
