"""Promotion: exactly the trained ones of the front, each once, on top of the budget and within the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from karui.errors import CandidateFailure
from karui.evaluators.measurement import Measurement
from karui.search.executor import Executor, InProcess, tell_nobody
from karui.search.heartbeat import Heartbeat
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES, Objective, with_bounds
from karui.search.outcome import Outcome, Result, Stop
from karui.search.promotion import MOST_RESERVED, MOST_WITHIN_NOISE, Promotion, without_replaced
from karui.search.proposals import OneSplitTPESampler, SamplerName
from karui.search.record import ATTEMPTS, PROMOTED, TrialRecord, read_records
from karui.search.stopping.early_stopping import PruningPolicy, RuleReport, report_rules
from karui.search.stopping.pruning_rules import PruningRules
from karui.search.trial_index import TrialIndex
from karui.search.trial_objective import TrialObjective
from karui.search.turns import Unordered
from karui.spaces.artifact import StageRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace
from karui.studies.workers.pool import Workers

from .conftest import BASELINE, Log, MakeLoop, known_outcome

EVERY = Budget(trials=1000)
FACTOR = 4
SPACE = SearchSpace(
    sparsity=SparsityAxis(removed_channels=(0.0, 0.25, 0.5), zeroed_weights=(0.0,)),
    bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)),
)
"""Three networks, of which the baseline's own is not trained."""


def longer_is_better(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
    """Training for longer wins half of what fewer channels and zeros have cost; odd shares of channels cost more."""
    outcome = known_outcome(candidate)
    odd = 0.3 if candidate.removed_channels % 0.25 else 0.0
    lost = 0.1 * candidate.removed_channels + 0.1 * candidate.zeroed_weights
    gain = lost / 2 if candidate.epochs_factor > 1 else 0.0
    accuracy = outcome.measurements["accuracy"]
    better = replace(accuracy, value=accuracy.value + gain - odd)
    return replace(outcome, measurements={**outcome.measurements, "accuracy": better})


def is_trained(candidate: Candidate) -> bool:
    return candidate.removed_channels > 0 or candidate.zeroed_weights > 0


def values(candidate: Candidate) -> tuple[float, float, float]:
    size, latency, accuracy = (item.value for item in longer_is_better(candidate).measurements.values())
    return size, latency, accuracy


def front_of(candidates: Sequence[Candidate], objectives: Sequence[Objective] = OBJECTIVES) -> set[Candidate]:
    """The candidates that keep the bounds and that no other one dominates, by looking at every pair."""
    bounded = objectives is not OBJECTIVES
    fitting = [one for one in candidates if not bounded or (values(one)[0] <= 8000 and values(one)[2] >= 0.87)]

    def beats(one: Candidate, other: Candidate) -> bool:
        (size, latency, accuracy), beaten = values(one), values(other)
        return (
            size <= beaten[0] and latency <= beaten[1] and accuracy >= beaten[2] and (size, latency, accuracy) != beaten
        )

    return {one for one in fitting if not any(beats(other, one) for other in fitting)}


def expected(candidates: Sequence[Candidate], objectives: Sequence[Objective] = OBJECTIVES) -> set[str]:
    """Keys of what is to be promoted, where these candidates were evaluated."""
    return {
        replace(candidate, epochs_factor=FACTOR).key
        for candidate in front_of(candidates, objectives)
        if is_trained(candidate)
    }


def everything(space: SearchSpace) -> list[Candidate]:
    return list({candidate.canonical(): None for _, candidate in space.points()})


def evaluated(loop: SearchLoop, *, promoted: bool) -> list[Candidate]:
    records = [record for record in read_records(loop.study) if record.state == "evaluated"]
    return [record.candidate for record in records if record.candidate and record.is_promoted == promoted]


def promoted_keys(loop: SearchLoop) -> list[str]:
    return [candidate.key for candidate in evaluated(loop, promoted=True)]


@pytest.fixture
def promoting(small_space: SearchSpace) -> MakeLoop:
    """Return a function that opens the same study again and again, with promotion; in memory, which takes no time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [objective.direction for objective in OBJECTIVES]
    storage = optuna.storages.InMemoryStorage()

    def make(
        evaluate: Callable[..., Outcome] = longer_is_better,
        *,
        factor: int = FACTOR,
        space: SearchSpace = small_space,
        objectives: tuple[Objective, ...] = OBJECTIVES,
        executor: Executor | None = None,
        **options: Any,
    ) -> SearchLoop:
        study = optuna.create_study(storage=storage, study_name="mine", directions=directions, load_if_exists=True)
        executor = executor or InProcess(evaluate)
        return SearchLoop(study, space, objectives, BASELINE, executor, "random", 3, final_factor=factor, **options)

    return make


# --- who --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [OBJECTIVES, with_bounds({"size_bytes": 8000, "accuracy": 0.87})])
def test_exactly_the_trained_ones_of_the_front_are_promoted(
    promoting: MakeLoop, objectives: tuple[Objective, ...]
) -> None:
    log = Log()
    loop = promoting(objectives=objectives)
    ending = loop.run(EVERY, log)
    keys = expected(everything(loop.space), objectives)
    assert len(keys) >= 2
    assert sorted(promoted_keys(loop)) == sorted(keys)
    assert log.events == [("promotion begun", {"candidates": len(keys), "epochs_factor": FACTOR})]
    told = f"{len(keys)} candidates of the front trained anew for 4 times the epochs"
    assert ending == f"every candidate of the space has been tried; {told}"
    for record in read_records(loop.study):
        if record.is_promoted:
            assert record.candidate is not None
            assert record.values([objective.name for objective in OBJECTIVES]) == values(record.candidate)
            twin = next(r for r in read_records(loop.study) if r.key == replace(record.candidate, epochs_factor=1).key)
            assert record.parameters == twin.parameters


def test_without_a_factor_nobody_is_promoted(promoting: MakeLoop) -> None:
    log = Log()
    loop = promoting(factor=1)
    assert loop.run(EVERY, log) == "every candidate of the space has been tried"
    assert len(log.begun_keys) == len(everything(loop.space))
    assert log.events == []


def test_a_larger_factor_later_trains_the_front_for_longer_still(promoting: MakeLoop) -> None:
    promoting(factor=1).run(EVERY, Log())
    for factor in (2, 4, 4):
        loop = promoting(factor=factor)
        loop.run(EVERY, Log())
    counts = [candidate.epochs_factor for candidate in evaluated(loop, promoted=True)]
    assert counts.count(2) == len(expected(everything(loop.space)))
    assert counts.count(4) >= counts.count(2)
    assert len(set(promoted_keys(loop))) == len(counts), "nothing twice"


def test_a_database_gives_the_same(make_loop: MakeLoop) -> None:
    space = SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0,)))
    for _ in range(2):
        loop = replace(make_loop(longer_is_better, space=space), final_factor=FACTOR)
        loop.run(EVERY, Log())
        assert promoted_keys(loop) == [Candidate(removed_channels=0.5, epochs_factor=FACTOR).key]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe"])
def test_with_every_sampler_the_same_are_promoted(promoting: MakeLoop, sampler: SamplerName) -> None:
    loop = replace(promoting(space=SPACE), sampler=sampler)
    loop.run(EVERY, Log())
    assert sorted(promoted_keys(loop)) == sorted(expected(everything(SPACE)))


def test_one_that_fails_is_told_and_not_tried_again(promoting: MakeLoop) -> None:
    def fail(candidate: Candidate) -> Outcome:
        if candidate.epochs_factor > 1:
            raise CandidateFailure("recovery", "the loss became nan")
        return known_outcome(candidate)

    for _ in range(2):
        loop = promoting(fail)
        loop.run(EVERY, Log())
    failed = [record.key for record in read_records(loop.study) if record.state == "failed"]
    assert sorted(failed) == sorted(expected(everything(loop.space)))


# --- within noise -----------------------------------------------------------------------------------------------------

NOISE = 0.04


def noisy(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
    """The same world, where accuracy is known by an interval only."""
    outcome = longer_is_better(candidate)
    accuracy = replace(outcome.measurements["accuracy"], spread=NOISE)
    return replace(outcome, measurements={**outcome.measurements, "accuracy": accuracy})


def dominated_within_noise(candidates: Sequence[Candidate]) -> set[Candidate]:
    """Who is dominated, but by nobody beyond noise, by looking at every pair; sizes and latencies are exact."""

    def beats(one: Candidate, other: Candidate) -> bool:
        (size, latency, accuracy), beaten = values(one), values(other)
        return size <= beaten[0] and latency <= beaten[1] and accuracy - beaten[2] >= NOISE * 2**0.5

    unbeaten = {one for one in candidates if not any(beats(other, one) for other in candidates)}
    return unbeaten - front_of(candidates)


def test_after_the_front_some_of_those_within_noise_are_promoted(promoting: MakeLoop) -> None:
    loop, log = promoting(noisy, space=WIDE), Log()
    ending = loop.run(EVERY, log)
    front = expected(everything(WIDE))
    open_to_doubt = {
        replace(one, epochs_factor=FACTOR).key for one in dominated_within_noise(everything(WIDE)) if is_trained(one)
    }
    assert len(open_to_doubt) > MOST_WITHIN_NOISE, "the number is what limits them"
    found = promoted_keys(loop)
    assert set(found[: len(front)]) == front, "the front first"
    assert len(found) == len(set(found)) == len(front) + MOST_WITHIN_NOISE
    assert set(found[len(front) :]) <= open_to_doubt
    told = (
        f"{len(found)} candidates of the front ({MOST_WITHIN_NOISE} within noise) trained anew for 4 times the epochs"
    )
    assert ending.endswith(told)
    assert log.events == [("promotion begun", {"candidates": len(found), "epochs_factor": FACTOR})]
    loop.run(EVERY, Log())
    assert promoted_keys(loop) == found, "no others when the search goes on"


def test_what_the_same_rows_tell_apart_is_not_promoted_for_noise(promoting: MakeLoop) -> None:
    def known(digests: Sequence[str]) -> np.ndarray:
        found = np.full((len(digests), len(digests), len(OBJECTIVES)), np.nan)
        found[:, :, [objective.name for objective in OBJECTIVES].index("accuracy")] = 0.0
        return found

    loop = promoting(noisy, space=WIDE, differences=known)
    loop.run(EVERY, Log())
    assert set(promoted_keys(loop)) == expected(everything(WIDE)), "the front alone: nobody else is open to doubt"


def test_one_within_noise_is_promoted_only_where_it_fits(promoting: MakeLoop) -> None:
    clock = Clock()
    loop = promoting(clock.evaluate, clock=clock, space=WIDE, factor=1)
    loop.run(EVERY, Log())
    index = TrialIndex(loop.study, Heartbeat(loop.study))
    index.take_in()
    exact, noisy = (Promotion(loop.study, OBJECTIVES, index, FACTOR) for _ in range(2))
    for record in read_records(loop.study):
        if record.outcome is None:
            continue
        exact.learn(record)
        accuracy = replace(record.outcome.measurements["accuracy"], spread=NOISE)
        outcome = replace(record.outcome, measurements={**record.outcome.measurements, "accuracy": accuracy})
        noisy.learn(replace(record, outcome=outcome))
    front = len(expected(everything(WIDE)))
    assert len(exact.missing()) == front
    # Each of the front and of those beside it trains for ten seconds times four, and takes a second beside that.
    whole = 10.0 * FACTOR + 1.0
    times = (0.0, whole - 0.1, whole)
    assert [len(exact.missing(seconds)) for seconds in times] == [0, 0, front]
    assert [len(noisy.missing(seconds)) for seconds in times] == [0, 0, front + MOST_WITHIN_NOISE]
    assert noisy.reserve(1, 1e9) == exact.reserve(1, 1e9), "no time is left for them"


# --- budget -----------------------------------------------------------------------------------------------------------


def test_promotion_comes_on_top_of_the_budget_and_newcomers_follow(promoting: MakeLoop) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        stage = StageRecord("recovery", 1.0, cached=False)  # as if each had trained: followers are queued, and wait
        return replace(longer_is_better(candidate), stages=(stage,))

    seen: list[str] = []
    for trials in (9, 9, 14):
        loop = promoting(evaluate)
        loop.followers = 2
        log = Log()
        assert loop.run(Budget(trials), log).startswith("all trials are done")
        plain = evaluated(loop, promoted=False)
        assert len(plain) == trials
        keys = expected(plain)
        new = [record.key for record in log.records if record.is_promoted]
        assert set(new) == keys - set(seen)
        seen += new
    assert promoted_keys(loop) == seen
    assert len(set(seen)) == len(seen)
    assert loop.study.get_trials(states=(TrialState.WAITING,)), "what waits for a larger budget is left in the queue"


# --- time -------------------------------------------------------------------------------------------------------------


class Clock:
    """A world with a clock: each network trains for ten seconds times its factor; all else takes one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.networks: set[tuple[float, float, int]] = set()

    def __call__(self) -> float:
        return self.now

    def evaluate(self, candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
        network = (candidate.removed_channels, candidate.zeroed_weights, candidate.epochs_factor)
        stages = [StageRecord("latency", 1.0, cached=False)]
        if is_trained(candidate) and network not in self.networks:
            stages.append(StageRecord("recovery", 10.0 * candidate.epochs_factor, cached=False))
        self.networks.add(network)
        self.now += sum(stage.seconds for stage in stages)
        return replace(longer_is_better(candidate), stages=tuple(stages))


WIDE = SearchSpace(
    sparsity=SparsityAxis(removed_channels=tuple(i / 20 for i in range(18)), zeroed_weights=(0.0,)),
    bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)),
)


@pytest.mark.parametrize("seconds", [220.0, 250.0, 333.0])
def test_promotion_has_its_time_within_that_of_the_run(promoting: MakeLoop, seconds: float) -> None:
    clock = Clock()
    loop = promoting(clock.evaluate, clock=clock, space=WIDE, factor=2)
    ending = loop.run(Budget(1000, seconds), Log())
    plain = evaluated(loop, promoted=False)
    keys = {replace(candidate, epochs_factor=2).key for candidate in front_of(plain) if is_trained(candidate)}
    assert set(promoted_keys(loop)) == keys
    assert keys
    assert "no time was left" not in ending
    assert ending.startswith("the time is up")
    # What was reserved was what was needed, but for one last candidate and its promotion.
    assert seconds - (11 + 22) <= clock.now <= seconds


def test_half_of_the_time_is_searched_whatever_promotion_needs(promoting: MakeLoop) -> None:
    clock = Clock()
    loop = promoting(clock.evaluate, clock=clock, space=WIDE, factor=30)
    ending = loop.run(Budget(1000, 360.0), Log())
    searched = sum(
        stage.seconds
        for record in read_records(loop.study)
        if record.outcome and not record.is_promoted
        for stage in record.outcome.stages
    )
    assert (1 - MOST_RESERVED) * 360 <= searched < (1 - MOST_RESERVED) * 360 + 11
    assert clock.now <= 360, "none is begun that takes 300 seconds"
    late = len(expected_at(evaluated(loop, promoted=False), 30)) - len(promoted_keys(loop))
    assert late > 0
    assert f"no time was left to train {late} candidates of the front anew" in ending
    # The same command given again goes on with them.
    clock.now = 0.0
    assert "no time" not in promoting(clock.evaluate, clock=clock, space=WIDE, factor=30).run(Budget(1), Log())


def test_the_reserve_is_the_work_that_is_left() -> None:
    half, quarter, most = (Candidate(removed_channels=share) for share in (0.5, 0.25, 0.75))
    aware = replace(quarter, weight_bits=2, bit_training="aware")
    took = {
        half: (("recovery", 10.0), ("latency", 1.0)),
        replace(half, weight_bits=4): (("quantization", 2.0), ("latency", 1.0)),
        aware: (("draft", 5.0), ("recovery", 20.0), ("aware training", 40.0), ("latency", 1.0)),
        most: (("architecture", 0.0), ("latency", 1.0)),  # trained by another study
        Candidate(weight_bits=4): (("quantization", 2.0), ("latency", 1.0)),  # nothing to train
        replace(half, weight_bits=8): (("latency", 100.0),),  # not on the front
    }
    study = optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])
    promotion = Promotion(study, OBJECTIVES, TrialIndex(study, Heartbeat(study)), 3)
    for number, (candidate, stages) in enumerate(took.items()):
        point = (float(number), float(number), 0.9 - 0.1 * (number == 5) + 0.01 * number)
        named = zip((objective.name for objective in OBJECTIVES), point, strict=True)
        measured = {name: Measurement(name, value, "1") for name, value in named}
        waited = StageRecord("network", 50.0, cached=True)
        outcome = Outcome(measured, "00", (waited, *(StageRecord(stage, took, cached=False) for stage, took in stages)))
        promotion.learn(TrialRecord(number, "evaluated", "", "", {}, candidate, outcome, True, 1.0))
    # Three networks, of which that of another study counts as the mean of the two; and the aware training, of three
    # times the epochs; then all else. One more that is promoted: three times the mean of the two that trained.
    whole = 3 * (10 + 20 + 15 + 40) + 1 + 3 + 1 + 1
    last = 3 * (11 + 66) / 2
    assert promotion.reserve(1, 10_000.0) == pytest.approx(whole + last)
    assert promotion.reserve(2, 10_000.0) == pytest.approx(3 * (20 + 40) + 1 + last), "the longest one"
    assert promotion.reserve(1, 600.0) == 300.0
    assert promotion.reserve(1, None) == 0.0


def test_where_weights_were_taken_as_they_are_the_time_of_a_training_is_unknown_until_one_was_promoted() -> None:
    study = optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])
    promotion = Promotion(study, OBJECTIVES, TrialIndex(study, Heartbeat(study)), 3)

    def learn(number: int, candidate: Candidate, stage: str, seconds: float) -> None:
        point = (float(number), float(number), 0.9 + 0.01 * number)
        named = zip((objective.name for objective in OBJECTIVES), point, strict=True)
        measured = {name: Measurement(name, value, "1") for name, value in named}
        stages = (StageRecord(stage, seconds, cached=False), StageRecord("latency", 1.0, cached=False))
        promotion.learn(
            TrialRecord(number, "evaluated", "", "", {}, candidate, Outcome(measured, "00", stages), True, 1.0)
        )

    half, quarter = Candidate(removed_channels=0.5), Candidate(removed_channels=0.25)
    learn(0, half, "statistics", 0.5)
    learn(1, quarter, "statistics", 0.5)
    assert promotion.reserve(1, 10_000.0) == MOST_RESERVED * 10_000
    assert len(promotion.missing(100.0)) == 2, "the front is promoted whatever it takes"
    learn(2, replace(half, epochs_factor=3), "recovery", 60.0)
    # The other one takes as long; both were measured in a second. What is promoted stays missing in this empty index.
    assert promotion.reserve(1, 10_000.0) == pytest.approx(60.0 + 2 * 1.0)


def expected_at(candidates: Sequence[Candidate], factor: int) -> set[str]:
    return {replace(one, epochs_factor=factor).key for one in front_of(candidates) if is_trained(one)}


# --- killed and resumed -----------------------------------------------------------------------------------------------


def test_what_is_interrupted_goes_on_with_what_is_missing(promoting: MakeLoop) -> None:
    left = iter([True, False])

    def interrupted(candidate: Candidate) -> Outcome:
        if candidate.epochs_factor > 1 and not next(left):
            raise KeyboardInterrupt
        return longer_is_better(candidate)

    with pytest.raises(KeyboardInterrupt):
        promoting(interrupted).run(EVERY, Log())
    loop = promoting()
    assert len(promoted_keys(loop)) == 1
    assert not loop.study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    log = Log()
    loop.run(EVERY, log)
    keys = expected(everything(loop.space))
    assert sorted(promoted_keys(loop)) == sorted(keys)
    assert len(log.begun_keys) == len(keys) - 1, "and with nothing else"


class Killed(BaseException):
    """Ends a search without a word to the storage, as the end of its process does."""


def test_one_that_searches_are_killed_on_is_given_up(promoting: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    doomed = Candidate(removed_channels=0.5, zeroed_weights=0.5, weight_bits=4, activation_bits=8, epochs_factor=FACTOR)

    def kill(candidate: Candidate) -> Outcome:
        if candidate.key == doomed.key:
            raise Killed
        return longer_is_better(candidate)

    # Killed, a search has no time to end what it has in flight.
    with monkeypatch.context() as patch:
        patch.setattr(TrialObjective, "interrupt", lambda self, trial, *, told: None)
        for _ in range(ATTEMPTS):
            with pytest.raises(Killed):
                promoting(kill).run(EVERY, Log())
    loop = promoting(kill)
    loop.run(EVERY, Log())
    found = [record.state for record in read_records(loop.study) if record.key == doomed.key]
    assert found == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    assert sorted([*promoted_keys(loop), doomed.key]) == sorted(expected(everything(loop.space)))


# --- several at a time ------------------------------------------------------------------------------------------------


class Pair:
    """Two candidates at a time; notes what was in flight together, and the gates.

    Args:
        promoted: How many promoted candidates are begun before the first of them ends.
    """

    size, is_here = 2, False

    def __init__(self, promoted: int = 1) -> None:
        self.promoted = self.to_promote = promoted
        self.all_begun = threading.Event()
        self.on_stage: Callable[[int, str], None] = tell_nobody
        self.flying: dict[int, Candidate] = {}
        self.together: list[tuple[Candidate, Candidate]] = []
        self.gates: list[tuple[Candidate, PruningRules | None]] = []
        self.lock = threading.Lock()

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        with self.lock:
            self.together += [(other, candidate) for other in self.flying.values()]
            self.flying[number] = candidate
            self.gates.append((candidate, gates))
            is_promoted = candidate.epochs_factor > 1
            is_first = is_promoted and self.promoted == self.to_promote
            self.to_promote -= is_promoted
            if self.to_promote <= 0:
                self.all_begun.set()
        time.sleep(0.01)
        if is_first:
            self.all_begun.wait(10.0)
        with self.lock:
            del self.flying[number]
        return longer_is_better(candidate)

    def close(self) -> None:
        self.flying.clear()


def test_two_at_a_time_promote_the_same_and_do_not_wait_for_one_network(promoting: MakeLoop) -> None:
    pair = Pair(len(expected(everything(SPACE))))
    loop = promoting(executor=pair, space=SPACE)
    loop.run(EVERY, Log())
    assert sorted(promoted_keys(loop)) == sorted(expected(everything(SPACE)))
    pairs = [pair for pair in pair.together if pair[0].epochs_factor > 1]
    assert all(one.epochs_factor == other.epochs_factor for one, other in pair.together), "not before all have ended"
    assert pairs[0][0].removed_channels != pairs[0][1].removed_channels, "one of each network first"
    # The first of the pair stays in flight to the end: whoever shares its network comes last.
    waiting = [other.removed_channels == pairs[0][0].removed_channels for _, other in pairs]
    assert waiting == sorted(waiting)
    assert True in waiting


def test_what_is_promoted_meets_no_gates_and_makes_none(promoting: MakeLoop) -> None:
    pair = Pair()
    keeper = PruningPolicy(OBJECTIVES, BASELINE, audit=0.0)
    loop = replace(promoting(executor=pair), pruning_policy=keeper)
    loop.run(EVERY, Log())
    assert {candidate.epochs_factor for candidate, gates in pair.gates if gates is None} == {FACTOR}
    assert {candidate.epochs_factor for candidate, gates in pair.gates if gates is not None} == {1}
    rivals = {(rival.size_bytes, rival.latency_ms, rival.accuracy) for rival in keeper.gates_for("key").front}
    assert rivals == {values(candidate) for candidate in front_of(everything(loop.space))}


def test_a_gate_is_judged_by_the_front_that_it_saw() -> None:
    def record(number: int, candidate: Candidate, accuracy: float, stop: Stop | None = None) -> TrialRecord:
        named = (("size_bytes", 10.0), ("latency_ms", 10.0), ("accuracy", accuracy))
        outcome = Outcome({name: Measurement(name, value, "1") for name, value in named}, "00", let_through=stop)
        return TrialRecord(number, "evaluated", "", "", {}, candidate, outcome, True, 1.0)

    short = Candidate(removed_channels=0.5)
    records = [record(0, short, 0.8, Stop("rung", "too little", 0.1)), record(1, replace(short, epochs_factor=4), 0.9)]
    assert report_rules(records, OBJECTIVES) == (RuleReport("rung", stopped=0, tested=1, missed=1),)


SHORT = Candidate(removed_channels=0.5, weight_bits=4)


@pytest.mark.parametrize(
    ("candidate", "accuracy", "feasible", "left"),
    [
        (replace(SHORT, epochs_factor=4), 0.9, True, [1]),
        (replace(SHORT, epochs_factor=4), 0.8, True, [1]),
        (replace(SHORT, epochs_factor=4), 0.79, True, [0, 1]),
        (replace(SHORT, epochs_factor=4), 0.9, False, [0, 1]),
        (replace(SHORT, epochs_factor=4, weight_bits=8), 0.9, True, [0, 1]),
        (SHORT, 0.9, True, [0, 1]),
    ],
    ids=["better", "as good", "worse", "breaks a bound", "another", "no more epochs"],
)
def test_who_is_promoted_takes_the_place_where_it_is_as_good(
    candidate: Candidate, accuracy: float, feasible: bool, left: list[int]
) -> None:
    def record(number: int, candidate: Candidate, accuracy: float, feasible: bool) -> TrialRecord:
        # each is larger and slower than the one before, and so never dominates it
        named = (("size_bytes", 10.0 + number), ("latency_ms", 10.0 + number), ("accuracy", accuracy))
        outcome = Outcome({name: Measurement(name, value, "1") for name, value in named}, "00")
        return TrialRecord(number, "evaluated", "", "", {}, candidate, outcome, feasible, 1.0)

    records = [record(0, SHORT, 0.8, True), record(1, candidate, accuracy, feasible)]
    assert [one.number for one in without_replaced(records)] == left


class Nested(InProcess):
    """Runs another search to its end in the middle of its first promoted candidate."""

    def __init__(self, other: Callable[[], None]) -> None:
        super().__init__(longer_is_better)
        self.other: Iterator[Callable[[], None]] = iter([other])

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        if candidate.epochs_factor > 1:
            with suppress(StopIteration):
                next(self.other)()
        return super().run(number, candidate, gates)


@pytest.mark.parametrize("turns", ["alone", "unordered"])
def test_searches_of_one_study_share_the_promotion(promoting: MakeLoop, turns: str) -> None:
    mine, yours = Log(), Log()
    endings: list[str] = []

    def other() -> None:
        loop = promoting()
        loop = replace(loop, turns=Unordered()) if turns == "unordered" else loop
        endings.append(loop.run(EVERY, yours))

    loop = promoting(executor=Nested(other))
    loop = replace(loop, turns=Unordered()) if turns == "unordered" else loop
    endings.append(loop.run(EVERY, mine))
    keys = expected(everything(loop.space))
    assert sorted(promoted_keys(loop)) == sorted(keys)
    assert len(yours.begun_keys) == len(keys) - 1, "the one that is in flight is left to the other search"
    assert not set(yours.begun_keys) & set(mine.begun_keys)
    assert f"{len(keys) - 1} candidates of the front trained anew" in endings[0]
    assert "1 candidate of the front trained anew" in endings[1]


def test_a_longer_training_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    class Idle:
        def begin(self, candidate: Candidate, gates: PruningRules | None, seconds: float) -> None:
            given.append(seconds)

    monkeypatch.setattr(Workers, "_worker", lambda self: Idle())
    monkeypatch.setattr(Workers, "_follow", lambda self, worker, number, seconds: known_outcome(Candidate()))
    workers = Workers(2, known_outcome, candidate_seconds=60.0)  # type: ignore[arg-type]
    for factor in (1, 3):
        workers.run(0, Candidate(removed_channels=0.5, epochs_factor=factor))
    assert given == [60.0, 180.0]


# --- the sampler ------------------------------------------------------------------------------------------------------


def suggested(added: dict[str, Any] | None) -> dict[str, Any]:
    """What TPE suggests after twenty trials, and five more of known parameters and better values."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [objective.direction for objective in OBJECTIVES]
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, values(SPACE.suggest(trial).canonical()))
    for known in study.get_trials()[:5] if added is not None else ():
        known.user_attrs.update(added or {})
        known.values = [known.values[0], known.values[1], known.values[2] + 0.5]
        study.add_trial(known)
    study.sampler = OneSplitTPESampler(multivariate=False, constant_liar=True, n_startup_trials=12, seed=1)
    found: dict[str, Any] = {}
    trials = [study.ask() for _ in range(6)]
    for trial in trials:
        SPACE.suggest(trial)
        found |= {f"{trial.number - trials[0].number} {name}": value for name, value in trial.params.items()}
    return found


def test_tpe_asks_for_the_same_whether_or_not_others_were_promoted() -> None:
    assert suggested({PROMOTED: FACTOR}) == suggested(None)
    assert suggested({}) != suggested(None), "without the attribute it would not"
