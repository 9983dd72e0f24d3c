"""The loop: nothing twice, nothing lost, every ending noted, and the right front in a world that is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from karui.errors import CandidateFailure
from karui.evaluators.measurement import Measurement
from karui.search.heartbeat import owner_is_gone
from karui.search.loop import Budget
from karui.search.objectives import OBJECTIVES, bounded_limits, with_bounds
from karui.search.outcome import Outcome
from karui.search.proposals import SAMPLERS
from karui.search.record import ATTEMPTS, read_records
from karui.search.statistics.front import pareto_mask
from karui.spaces.artifact import StageRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.exits.axis import ExitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace

from .conftest import Log, MakeLoop, known_outcome

NAMES = [objective.name for objective in OBJECTIVES]


@pytest.mark.parametrize("sampler", [pytest.param("gp", marks=pytest.mark.slow), *sorted(SAMPLERS.keys() - {"gp"})])
def test_every_sampler_exhausts_a_small_space_and_repeats_nothing(make_loop: MakeLoop, sampler: str) -> None:
    log = Log()
    loop = make_loop(sampler=sampler)
    assert loop.run(Budget(trials=1000), log) == "every candidate of the space has been tried"
    every = {candidate.key for _, candidate in loop.space.points()}
    assert sorted(log.begun_keys) == sorted(every)


def test_the_front_is_the_one_that_enumeration_finds(make_loop: MakeLoop) -> None:
    loop = make_loop(sampler="tpe")
    loop.run(Budget(trials=1000), Log())
    records = [record for record in read_records(loop.study) if record.outcome]
    mask = pareto_mask([record.values(NAMES) for record in records], OBJECTIVES)
    found = {record.values(NAMES) for record, kept in zip(records, mask, strict=True) if kept}
    everything = [
        tuple(known_outcome(candidate.canonical()).measurements[name].value for name in NAMES)
        for _, candidate in loop.space.points()
    ]
    expected = {
        point
        for point in everything
        if not any(
            other[0] <= point[0] and other[1] <= point[1] and other[2] >= point[2] and other != point
            for other in everything
        )
    }
    assert found == expected


def test_the_budget_counts_candidates_not_duplicates(make_loop: MakeLoop) -> None:
    log = Log()
    assert make_loop().run(Budget(trials=15), log) == "all trials are done"
    assert len(log.begun_keys) == len(set(log.begun_keys)) == 15
    assert {record.state for record in log.records} <= {"evaluated", "duplicate"}


def test_a_search_begins_with_what_is_given_first(make_loop: MakeLoop) -> None:
    log = Log()
    loop = make_loop()
    loop.run(Budget(trials=3), log, loop.space.initial_design())
    bits = [(r.candidate.weight_bits, r.candidate.activation_bits) for r in log.records if r.candidate]
    assert bits == [(32, 32), (7, 8), (4, 8)], "beside 8-bit activations weights have 7 bits"


@pytest.mark.parametrize("followers", [0, 1, 3])
def test_a_trained_network_is_followed_by_others_of_its_kind(make_loop: MakeLoop, followers: int) -> None:
    trained: set[float] = set()

    def evaluate(candidate: Candidate) -> Outcome:
        # One network per fraction of channels; only the first of each has to train.
        stages = () if candidate.removed_channels in trained else (StageRecord("recovery", 1.0, cached=False),)
        trained.add(candidate.removed_channels)
        return replace(known_outcome(candidate), stages=stages)

    space = SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0,)), bits=BitsAxis())
    log = Log()
    loop = make_loop(evaluate, space=space)
    loop.followers = followers
    loop.run(Budget(trials=1000), log, [{"sparsity.removed_channels": 0.5}])
    evaluated = [record.candidate for record in log.records if record.state == "evaluated" and record.candidate]
    first = evaluated[: 1 + followers]
    assert [candidate.removed_channels for candidate in first] == [0.5] * (1 + followers)
    # Bits that the sampler repeats are replaced by others: each follower is a candidate of its own.
    assert len({candidate.key for candidate in first}) == 1 + followers
    networks = {candidate.removed_channels for candidate in evaluated}
    assert networks == {0.0, 0.5}


def test_a_trained_network_is_followed_by_its_exits_where_bits_are_not_searched(make_loop: MakeLoop) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        stages = () if candidate.exit_depth else (StageRecord("recovery", 1.0, cached=False),)
        return replace(known_outcome(candidate), stages=stages)

    space = SearchSpace(
        sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0,)),
        exits=ExitsAxis(depths=(0.0, 0.3, 0.6), thresholds=(0.8, 0.9)),
    )
    log = Log()
    loop = make_loop(evaluate, space=space)
    loop.followers = 2
    loop.run(Budget(trials=3), log, [{"sparsity.removed_channels": 0.5, "exit.depth": 0.0}])
    found = [record.candidate for record in log.records if record.state == "evaluated" and record.candidate]
    assert [candidate.removed_channels for candidate in found] == [0.5] * 3
    assert [bool(candidate.exit_depth) for candidate in found] == [False, True, True]


def test_networks_that_another_study_has_trained_are_followed_alike(make_loop: MakeLoop) -> None:
    space = SearchSpace(
        sparsity=SparsityAxis(removed_channels=(0.0, 0.25, 0.5), zeroed_weights=(0.0,)),
        bits=BitsAxis(weights=(2, 3, 4, 5, 6)),
    )

    def course(trained_before: bool) -> list[str]:
        kept = {0.0, 0.25, 0.5} if trained_before else set()

        def evaluate(candidate: Candidate) -> Outcome:
            share = candidate.removed_channels
            made = "recovery" if share else "export"  # the baseline itself is exported, never trained
            stage = StageRecord("network" if share in kept else made, 1.0, cached=share in kept)
            kept.add(share)
            return replace(known_outcome(candidate), stages=(stage,))

        log = Log()
        for trials in (4, 12):
            loop = make_loop(evaluate, space=space)
            loop.followers = 2
            loop.run(Budget(trials=trials), log, [{"sparsity.removed_channels": 0.5}])
        optuna.delete_study(study_name="made-up", storage=loop.study._storage)
        return log.begun_keys

    assert course(trained_before=True) == course(trained_before=False)


class Clock:
    """Time that passes when a candidate is evaluated, and at no other time."""

    def __init__(self, seconds_of: Callable[[Candidate], float]) -> None:
        self.now = 100.0
        self._seconds_of = seconds_of

    def __call__(self) -> float:
        return self.now

    def evaluate(self, candidate: Candidate) -> Outcome:
        self.now += self._seconds_of(candidate)
        trained = (StageRecord("recovery", 1.0, cached=False),) if candidate.removed_channels else ()
        return replace(known_outcome(candidate), stages=trained)


@pytest.mark.parametrize(
    ("seconds", "finishing", "expected"), [(50.0, 0.0, 5), (59.0, 0.0, 5), (50.0, 15.0, 3), (9.0, 0.0, 1)]
)
def test_nothing_is_begun_that_cannot_end_in_time(
    make_loop: MakeLoop, seconds: float, finishing: float, expected: int
) -> None:
    clock, log = Clock(lambda _: 10.0), Log()
    budget = Budget(trials=1000, seconds=seconds, finishing=lambda: finishing)
    assert make_loop(clock.evaluate, clock=clock).run(budget, log) == "the time is up"
    # How long the first one takes nobody knows.
    assert sum(record.state == "evaluated" for record in log.records) == expected


def test_what_comes_after_a_search_has_half_of_its_time_at_most(make_loop: MakeLoop) -> None:
    clock, log = Clock(lambda _: 10.0), Log()
    make_loop(clock.evaluate, clock=clock).run(Budget(1000, 100.0, lambda: 1e9), log)
    assert sum(record.state == "evaluated" for record in log.records) == 5


def test_a_dear_candidate_is_left_to_the_next_run(make_loop: MakeLoop) -> None:
    trained: set[float] = set()

    def seconds_of(candidate: Candidate) -> float:
        is_new = bool(candidate.removed_channels) and candidate.zeroed_weights not in trained
        trained.add(candidate.zeroed_weights)
        return 40.0 if is_new else 1.0

    clock = Clock(seconds_of)
    first = [{"sparsity.removed_channels": 0.5, "sparsity.zeroed_weights": zeros} for zeros in (0.0, 0.5)]
    log, again = Log(), Log()
    loop = make_loop(clock.evaluate, clock=clock)
    assert loop.run(Budget(1000, seconds=60.0), log, first) == "the time is up"
    assert clock.now <= 160.0
    (left,) = [record for record in log.records if record.state == "interrupted"]
    assert left.reason == "no time was left for it"
    assert make_loop(clock.evaluate, clock=clock).run(Budget(1000), again) != "the time is up"
    keys = [record.key for record in (*log.records, *again.records) if record.state == "evaluated"]
    assert left.key in keys
    assert len(keys) == len(set(keys)) == 20


def test_a_failure_is_a_status_with_stage_and_reason(make_loop: MakeLoop) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        if candidate.weight_bits == 4:
            raise CandidateFailure("quantization", "four bits\nare   too few")
        return known_outcome(candidate)

    loop = make_loop(evaluate)
    loop.run(Budget(trials=1000), Log())
    by_state: dict[str, list[int]] = {}
    for record in read_records(loop.study):
        by_state.setdefault(record.state, []).append(record.number)
        if record.state == "failed":
            assert (record.stage, record.reason) == ("quantization", "four bits are too few")
            assert record.outcome is None
            with pytest.raises(ValueError, match="has no measurements"):
                record.values(NAMES)
    # 2 x 2 sparsities: 8 candidates of four bits, 8 of eight bits, 4 of float32.
    assert len(by_state["failed"]) == 8
    assert len(by_state["evaluated"]) == 12


def test_what_is_no_objective_may_have_a_bound(make_loop: MakeLoop) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        outcome = known_outcome(candidate)
        energy = Measurement("energy_mj", 2.0 * candidate.weight_bits, "mJ")
        return replace(outcome, measurements={**outcome.measurements, "energy_mj": energy})

    loop = make_loop(evaluate)
    loop.limits = bounded_limits({"energy_mj": "0.25x"})
    loop.baseline = {**loop.baseline, "energy_mj": 64.0}
    loop.run(Budget(trials=1000), Log())
    found = {
        (record.candidate.weight_bits, record.feasible)
        for record in read_records(loop.study)
        if record.outcome and record.candidate
    }
    assert {bits for bits, feasible in found if feasible} == {bits for bits, _ in found if bits <= 8}
    assert len({feasible for _, feasible in found}) == 2


def test_bounds_become_constraints(make_loop: MakeLoop) -> None:
    objectives = with_bounds({"size_bytes": "0.25x", "accuracy": 0.9})
    loop = make_loop(objectives=objectives)
    loop.run(Budget(trials=1000), Log())
    for record, trial in zip(read_records(loop.study), loop.study.get_trials(), strict=True):
        if record.outcome is None:
            continue
        size, _, accuracy = record.values(NAMES)
        assert record.feasible == (size <= 8000 and accuracy >= 0.9)
        assert set(trial.constraints) == {"size_bytes <= 8000", "accuracy >= 0.9"}
    assert all(trial.values[0] <= 8000 for trial in loop.study.best_trials)
    assert loop.study.best_trials


def test_impossible_cells_are_told_apart_and_cost_nothing(make_loop: MakeLoop) -> None:
    log = Log()
    space = SearchSpace(cells=CellsAxis(nodes=2, operations=("none", "skip"), channels=(8,), cells_per_stage=(1,)))
    make_loop(space=space).run(Budget(trials=100), log)
    impossible = [record for record in log.records if record.state == "impossible"]
    assert impossible
    assert all("no path" in record.reason for record in impossible)
    # The baseline and the cell that only skips are all that there is.
    assert len(log.begun_keys) == 2


def test_a_resumed_search_goes_on_and_repeats_nothing(make_loop: MakeLoop) -> None:
    first, second = Log(), Log()
    make_loop().run(Budget(trials=8), first)
    loop = make_loop()
    assert loop.run(Budget(trials=20), second) == "all trials are done"
    assert len(first.begun_keys) == 8
    assert len(second.begun_keys) == 12
    assert not set(first.begun_keys) & set(second.begun_keys)
    assert make_loop().run(Budget(trials=20), third := Log()) == "all trials are done"
    assert third.records == []


def test_an_interrupted_candidate_is_tried_again(make_loop: MakeLoop) -> None:
    def stop(candidate: Candidate) -> Outcome:
        raise KeyboardInterrupt

    for _ in range(ATTEMPTS + 1):
        with pytest.raises(KeyboardInterrupt):
            make_loop(stop).run(Budget(trials=5), Log(), [{"bits.weights": 8, "bits.activations": 8}])
    log = Log()
    loop = make_loop()
    loop.run(Budget(trials=1), log)
    assert [record.candidate.weight_bits for record in log.records if record.candidate] == [7]
    states = [record.state for record in read_records(loop.study)]
    assert states == ["interrupted"] * (ATTEMPTS + 1) + ["evaluated"]


def test_a_bug_propagates_and_leaves_no_trial_running(make_loop: MakeLoop) -> None:
    def broken(candidate: Candidate) -> Outcome:
        raise AttributeError("a bug")

    loop = make_loop(broken)
    with pytest.raises(AttributeError, match="a bug"):
        loop.run(Budget(trials=5), Log())
    assert not loop.study.get_trials(states=(TrialState.RUNNING,))


KILLED = """
import os, signal, sys
import optuna
sys.path.insert(0, {folder!r})
from conftest import BASELINE, Log, known_outcome
from karui.search.executor import InProcess
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.space import SearchSpace
from karui.spaces.axes.sparsity.axis import SparsityAxis

def evaluate(candidate):
    if candidate.weight_bits == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return known_outcome(candidate)

study = optuna.create_study(storage={storage!r}, study_name="made-up", load_if_exists=True,
                            directions=[objective.direction for objective in OBJECTIVES])
space = SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.5)),
                    bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)))
SearchLoop(study, space, OBJECTIVES, BASELINE, InProcess(evaluate), sampler="random", seed=3).run(
    Budget(trials=100), Log())
"""


def test_a_killed_search_loses_only_the_candidate_in_flight(make_loop: MakeLoop, tmp_path: Path) -> None:
    code = KILLED.format(folder=str(Path(__file__).parent), storage=f"sqlite:///{tmp_path / 'study.db'}")
    kills = 0
    measured: list[int] = []
    while kills < ATTEMPTS:
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode == -9, ended.stderr
        kills += 1
        study = optuna.load_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="made-up")
        done = [record.number for record in read_records(study) if record.state == "evaluated"]
        assert done[: len(measured)] == measured, "what was measured stays"
        measured = done
        assert len(study.get_trials(states=(TrialState.RUNNING,))) == 1
    log = Log()
    loop = make_loop()
    loop.recover_stale()
    records = read_records(loop.study)
    assert "running" not in {record.state for record in records}
    killers = [record for record in records if record.candidate and record.candidate.weight_bits == 4]
    # The same candidate is begun again each time, and given up after the last attempt.
    assert len({record.key for record in killers}) == 1
    assert [record.state for record in killers] == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    loop.run(Budget(trials=1000), log)
    assert killers[0].key not in log.begun_keys


MARK = """
import json, os, sys
os.getpid = lambda: int(sys.argv[1])
from karui.search.heartbeat import owner_mark
print(json.dumps(owner_mark()))
"""


def test_a_trial_of_a_living_process_is_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    said = subprocess.run([sys.executable, "-c", MARK, str(other.pid)], capture_output=True, text=True, check=True)
    mark = json.loads(said.stdout)
    assert not owner_is_gone(mark)
    assert owner_is_gone(mark | {"started": "1"}), "its number was given to another process since"
    other.communicate()
    assert owner_is_gone(mark)


def test_a_trial_of_another_host_is_left_alone() -> None:
    assert not owner_is_gone({"host": "another-host", "pid": 1})
    assert owner_is_gone(None)
