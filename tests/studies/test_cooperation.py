"""Several searches on one storage: nothing twice, nothing lost, one budget; the dead are told from the living."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from karui.evaluators.measurement import Measurement
from karui.search.executor import InProcess
from karui.search.heartbeat import SILENT_SECONDS, Heartbeat, recover_stale
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES
from karui.search.outcome import Outcome
from karui.search.record import ATTEMPTS, read_records, write_candidate, write_end, write_outcome
from karui.search.trial_index import TrialIndex
from karui.search.turns import Alone, Turns, Unordered
from karui.spaces.artifact import StageRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace
from karui.studies.storage.storage_turns import FileTurns, turns_of
from karui.studies.storage.store import open_study
from karui.studies.watching.watcher import Watcher

SPACE = SearchSpace(
    sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.5)),
    bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)),
)
BASELINE = {"size_bytes": 32_000.0, "latency_ms": 32.0, "accuracy": 0.99}
NAMES = [objective.name for objective in OBJECTIVES]


def outcome_of(candidate: Candidate) -> Outcome:
    size = candidate.weight_bits * (1 - candidate.removed_channels) * (1 - candidate.zeroed_weights)
    values = {"size_bytes": size, "latency_ms": float(candidate.activation_bits), "accuracy": 1 - 1 / size}
    units = {"size_bytes": "bytes", "latency_ms": "ms", "accuracy": "1"}
    measured = {name: Measurement(name, value, units[name]) for name, value in values.items()}
    return Outcome(measured, candidate.key, (StageRecord("size", 0.5, cached=False),))


def loop_on(study: optuna.Study, turns: Turns, evaluate: Any = outcome_of, sampler: str = "random") -> SearchLoop:
    executor = InProcess(evaluate)
    return SearchLoop(study, SPACE, OBJECTIVES, BASELINE, executor, sampler=sampler, seed=3, turns=turns)  # type: ignore[arg-type]


SEARCH = """
import os, sys, time
sys.path.insert(0, {folder!r})
from test_cooperation import Budget, Watcher, loop_on, open_study, outcome_of, turns_of

def evaluate(candidate):
    with open({diary!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{candidate.key}}\\n")
    time.sleep({seconds})
    return outcome_of(candidate)

study = open_study({storage!r}, "shared", create=True)
print("ready", flush=True)
sys.stdin.readline()
print(loop_on(study, turns_of({storage!r}), evaluate).run(Budget({trials}), Watcher(), []), flush=True)
"""


class Searches:
    """Searches of one storage, each in a process of its own."""

    def __init__(self, folder: Path, storage: str = "") -> None:
        self.storage = storage or f"sqlite:///{folder / 'study.db'}"
        self.diary = folder / "diary"
        self.study = open_study(self.storage, "shared", create=True)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, trials: int, seconds: float = 0.02, before: str = "") -> subprocess.Popen[str]:
        code = before + SEARCH.format(
            folder=str(Path(__file__).parent),
            diary=str(self.diary),
            seconds=seconds,
            storage=self.storage,
            trials=trials,
        ).replace("from test_cooperation", f"from {__name__}" if "." in __name__ else "from test_cooperation")
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def go(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def tried(self) -> list[str]:
        return [line.split()[1] for line in self.diary.read_text().splitlines()]


@pytest.fixture
def searches(tmp_path: Path) -> Iterator[Searches]:
    made = Searches(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_two_searches_try_everything_once(searches: Searches) -> None:
    first, second = searches.start(1000), searches.start(1000)
    searches.go()
    endings = [process.communicate(timeout=560)[0] for process in (first, second)]
    assert endings == ["every candidate of the space has been tried\n"] * 2
    every = {candidate.canonical().key for _, candidate in SPACE.points()}
    assert sorted(searches.tried()) == sorted(every)
    pids = [line.split()[0] for line in searches.diary.read_text().splitlines()]
    assert min(pids.count(str(process.pid)) for process in (first, second)) >= 3, "both had their share"
    records = read_records(searches.study)
    assert {record.state for record in records} <= {"evaluated", "duplicate", "waiting"}
    assert sorted(record.key for record in records if record.state == "evaluated") == sorted(every)


def test_two_searches_share_one_budget(searches: Searches) -> None:
    for _ in range(2):
        searches.start(12)
    searches.go()
    for process in searches.processes:
        assert process.communicate(timeout=120)[0] == "all trials are done\n"
    assert len(searches.tried()) == len(set(searches.tried())) == 12


def test_a_search_takes_up_what_another_left_when_it_was_killed(searches: Searches) -> None:
    first = searches.start(1000, seconds=600)
    searches.go()
    while not searches.diary.exists():
        time.sleep(0.05)
    (left,) = searches.tried()
    ending = loop_on(searches.study, turns_of(searches.storage)).run(Budget(5), Watcher(), [])
    assert ending == "all trials are done"
    states = {record.key: record.state for record in read_records(searches.study) if record.state != "duplicate"}
    assert states[left] == "running", "its process lives"
    assert list(states.values()).count("evaluated") == 4, "what is in flight elsewhere counts towards the budget"
    first.send_signal(signal.SIGKILL)
    first.wait()
    loop_on(searches.study, turns_of(searches.storage)).run(Budget(5), Watcher(), [])
    records = read_records(searches.study)
    states_of_left = [record.state for record in records if record.key == left and record.state != "duplicate"]
    assert states_of_left == ["interrupted", "evaluated"]
    assert not searches.study.get_trials(states=(TrialState.RUNNING,))


# --- who keeps a candidate --------------------------------------------------------------------------------------------


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])


def begin(
    study: optuna.Study, candidate: Candidate, heartbeat: Heartbeat | None, *, begun: bool = True
) -> optuna.Trial:
    trial = study.ask()
    if heartbeat is not None:
        trial.set_user_attr("owner", heartbeat.mark)
    write_candidate(trial, candidate)
    if begun:
        trial.set_user_attr("begun", "now")
    return trial


def test_of_two_at_the_same_time_the_lower_number_keeps_it(study: optuna.Study) -> None:
    one, other = Heartbeat(study), Heartbeat(study)
    with one, other:
        for number in (0, 1):
            begin(study, Candidate(weight_bits=4), (one, other)[number], begun=False)
        mine, yours = TrialIndex(study, one), TrialIndex(study, other)
        assert mine.take_in() == yours.take_in() == []
        key = Candidate(weight_bits=4).key
        assert mine.holder(key, 0) is None
        assert yours.holder(key, 1) == 0
        assert not mine.is_new(key)
        assert mine.promised == 0


def test_what_has_begun_is_kept_whatever_its_number(study: optuna.Study) -> None:
    one, other = Heartbeat(study), Heartbeat(study)
    with one, other:
        study.ask()
        begin(study, Candidate(weight_bits=4), other)
        trial_index = TrialIndex(study, one)
        trial_index.take_in()
        assert trial_index.holder(Candidate(weight_bits=4).key, 0) == 1
        assert trial_index.promised == 1


def test_trials_are_taken_in_once_each(study: optuna.Study) -> None:
    with Heartbeat(study) as heartbeat, Heartbeat(study) as other:
        trial_index = TrialIndex(study, heartbeat)
        for count, bits in enumerate((2, 3, 4), start=1):
            trial = begin(study, Candidate(weight_bits=bits), other)
            write_outcome(trial, outcome_of(Candidate(weight_bits=bits)))
            study.tell(trial, [1.0, 1.0, 1.0])
            assert [record.number for record in trial_index.take_in()] == [count - 1]
            assert trial_index.spent == trial_index.promised == count
        assert trial_index.take_in() == []
        assert set(trial_index.known.values()) == {0, 1, 2}


# --- the dead and the living ------------------------------------------------------------------------------------------


def far_away(study: optuna.Study, clock: list[float]) -> Heartbeat:
    heartbeat = Heartbeat(study, now=lambda: clock[0])
    heartbeat.mark |= {"host": "another-host", "machine": "another-host, booted once"}
    return heartbeat


def test_a_search_of_another_host_is_gone_when_it_is_silent(study: optuna.Study) -> None:
    clock = [1000.0]
    theirs, mine = far_away(study, clock), Heartbeat(study, now=lambda: clock[0])
    begin(study, Candidate(weight_bits=4), theirs)
    theirs.pulse()
    (trial,) = study.get_trials()
    for clock[0] in (1000.0, 1000.0 + SILENT_SECONDS):
        assert not mine.is_gone(trial)
    theirs.pulse()
    clock[0] += SILENT_SECONDS
    assert not mine.is_gone(trial)
    clock[0] += 1.0
    assert mine.is_gone(trial)
    clock[0] += 100.0
    theirs.pulse()
    clock[0] += 61.0
    assert not mine.is_gone(trial), "it was only slow"


def test_a_search_that_was_never_heard_of_is_given_time(study: optuna.Study) -> None:
    clock = [1000.0]
    begin(study, Candidate(weight_bits=4), far_away(study, clock))
    mine = Heartbeat(study, now=lambda: clock[0])
    (trial,) = study.get_trials()
    assert not mine.is_gone(trial)
    clock[0] += SILENT_SECONDS - 1
    assert not mine.is_gone(trial)
    clock[0] += 1
    assert mine.is_gone(trial)


def test_a_trial_that_was_just_asked_is_nobodys_only_where_searches_take_turns(study: optuna.Study) -> None:
    clock = [1000.0]
    study.ask()
    (trial,) = study.get_trials()
    assert Heartbeat(study, exclusive=True, now=lambda: clock[0]).is_gone(trial)
    unordered = Heartbeat(study, exclusive=False, now=lambda: clock[0])
    assert not unordered.is_gone(trial)
    clock[0] += 60.0
    assert unordered.is_gone(trial)


def test_a_pulse_keeps_those_of_others_and_forgets_the_old(study: optuna.Study) -> None:
    clock = [0.0]
    ancient, recent = far_away(study, clock), far_away(study, clock)
    ancient.pulse()
    clock[0] = 8 * 24 * 3600.0
    recent.pulse()
    mine = Heartbeat(study, now=lambda: clock[0])
    mine.pulse()
    assert sorted(study.user_attrs["pulses"]) == sorted([str(recent.mark["search"]), str(mine.mark["search"])])
    json.dumps(study.user_attrs["pulses"])


# --- what is found stale ----------------------------------------------------------------------------------------------


def test_what_was_measured_when_the_search_was_killed_is_not_measured_again(study: optuna.Study) -> None:
    candidate = Candidate(weight_bits=4)
    trial = begin(study, candidate, None)
    write_outcome(trial, outcome_of(candidate))
    assert [stale.number for stale in recover_stale(study, Heartbeat(study), NAMES)] == [0]
    (record,) = read_records(study)
    assert record.state == "evaluated"
    assert record.outcome == outcome_of(candidate)
    assert study.get_trials()[0].values == list(record.values(NAMES))


@pytest.mark.parametrize(("status", "state"), [("failed", TrialState.FAIL), ("duplicate", TrialState.PRUNED)])
def test_what_had_ended_when_the_search_was_killed_has_ended(
    study: optuna.Study, status: str, state: TrialState
) -> None:
    write_end(begin(study, Candidate(weight_bits=4), None), status, "packing", "too large")
    recover_stale(study, Heartbeat(study), NAMES)
    assert [trial.state for trial in study.get_trials()] == [state]
    (record,) = read_records(study)
    assert (record.state, record.stage, record.reason) == (status, "packing", "too large")


def test_everything_else_is_begun_again_so_many_times(study: optuna.Study) -> None:
    study.enqueue_trial({"bits.weights": 4, "bits.activations": 8})
    for attempt in range(ATTEMPTS):
        trial = study.ask()
        trial.set_user_attr("begun", "now")
        if attempt:  # the first time it is killed before it knows its own parameters
            SPACE.suggest(trial)
        assert len(recover_stale(study, Heartbeat(study), NAMES)) == 1
    states = [record.state for record in read_records(study)]
    assert states == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    assert {(t.params["bits.weights"], t.params["bits.activations"]) for t in study.get_trials()[1:]} == {(4, 8)}


def test_a_search_that_ends_leaves_nothing_of_one_that_was_killed_meanwhile(study: optuna.Study) -> None:
    killed = Heartbeat(study)

    def evaluate(candidate: Candidate) -> Outcome:
        if len(study.trials) == 1:
            with killed:
                trial = begin(study, Candidate(weight_bits=5), killed)
                write_outcome(trial, outcome_of(Candidate(weight_bits=5)))
                begin(study, Candidate(weight_bits=6), killed)
        return outcome_of(candidate)

    assert loop_on(study, Alone(), evaluate).run(Budget(2), Watcher(), []) == "all trials are done"
    found = {record.key: record.state for record in read_records(study)}
    assert found[Candidate(weight_bits=5).key] == "evaluated", "it was measured to its end"
    assert found[Candidate(weight_bits=6).key] == "interrupted"


def test_a_trial_that_was_taken_over_does_not_stop_the_search(study: optuna.Study) -> None:
    happened: list[str] = []

    class Told(Watcher):
        def happened(self, event: str, **details: Any) -> None:
            happened.append(event)

    def evaluate(candidate: Candidate) -> Outcome:
        if not happened and study.trials[-1].number == 0:
            study.tell(0, state=TrialState.FAIL)  # as a search elsewhere does that takes this one for gone
        return outcome_of(candidate)

    assert loop_on(study, Alone(), evaluate).run(Budget(5), Told(), []) == "all trials are done"
    assert happened == ["trial was taken over by another search"]
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_where_there_are_no_turns_the_first_to_end_is_kept(study: optuna.Study) -> None:
    elsewhere = Heartbeat(study, exclusive=False)

    def evaluate(candidate: Candidate) -> Outcome:
        if len(study.trials) == 1:  # a search elsewhere begins the same at the very moment, and is faster
            trial = begin(study, candidate, elsewhere)
            write_outcome(trial, outcome_of(candidate))
            study.tell(trial, [1.0, 1.0, 1.0])
        return outcome_of(candidate)

    assert loop_on(study, Unordered(), evaluate).run(Budget(3), Watcher(), []) == "all trials are done"
    records = [record for record in read_records(study) if record.state in ("evaluated", "duplicate")]
    first = [record for record in records if record.key == records[0].key][:2]
    assert [(record.number, record.state) for record in first] == [(0, "duplicate"), (1, "evaluated")]
    evaluated = [record.key for record in records if record.state == "evaluated"]
    assert len(evaluated) == len(set(evaluated)) == 3


def test_turns_are_by_a_file_beside_sqlites(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    one, other = turns_of(f"sqlite:///{path}"), turns_of(f"sqlite+pysqlite:///{path}")
    assert isinstance(one, FileTurns)
    assert isinstance(other, FileTurns)
    beside = FileLock(f"{path}.turns")
    with one():
        with pytest.raises(TimeoutError, match="could not be acquired"):
            beside.acquire(blocking=False)
        with one():
            pass
    with other():
        pass
    assert isinstance(turns_of("sqlite:///:memory:"), Alone)
    assert isinstance(turns_of("mysql://host/db"), Unordered)
