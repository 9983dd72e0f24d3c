"""What is made of the trials so far, the test of the gates themselves, and a search that they stop candidates in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from karui.errors import CandidateFailure
from karui.evaluators.measurement import Measurement
from karui.search.budget import STOPPED_PER_TRIAL
from karui.search.executor import InProcess
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import LIMITS, OBJECTIVES, Objective, with_bounds
from karui.search.outcome import LearningCurve, PastTraining, Stop
from karui.search.record import Outcome, TrialRecord, read_records
from karui.search.stopping.early_stopping import (
    EarlyStopping,
    PruningPolicy,
    RuleReport,
    describe_reports,
    report_rules,
)
from karui.search.stopping.pruning_rules import PruningRules, Rival, UntrainedProxy
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace

from .conftest import BASELINE, Log, MakeLoop, known_outcome

BOUNDED = with_bounds({"size_bytes": 8000})

CURVE = LearningCurve("warm", 2, (0.5, 0.7))


def record(
    number: int,
    values: tuple[float, float, float],
    *,
    feasible: bool = True,
    let_through: str = "",
    curves: tuple[LearningCurve, ...] = (),
    spread: float = 0.0,
) -> TrialRecord:
    named = zip(("size_bytes", "latency_ms", "accuracy"), values, (0.0, values[1] / 8, spread), strict=True)
    measured = {name: Measurement(name, value, "1", width) for name, value, width in named}
    stop = Stop(let_through, "too large", 0.5) if let_through else None
    outcome = Outcome(measured, "00", curves=curves, let_through=stop)
    return TrialRecord(number, "evaluated", "", "", {}, Candidate(), outcome, feasible, 1.0)


def stopped(number: int, gate: str) -> TrialRecord:
    return TrialRecord(number, "stopped", gate, "too large", {}, Candidate(), None, False, 1.0)


def test_where_there_are_further_objectives_gates_hold_bounds_only() -> None:
    def gates(*further: Objective) -> PruningRules:
        keeper = PruningPolicy((*BOUNDED, *further), BASELINE, audit=0.0)
        keeper.begin([record(0, (20.0, 2.0, 1.0)), record(1, (10.0, 3.0, 1.0))])
        return keeper.gates_for("")

    plain, more = gates(), gates(LIMITS[0])
    dominated = UntrainedProxy(100.0, 100.0, 0.0)
    assert plain.check_untrained_proxy(dominated) is not None
    assert more.check_untrained_proxy(dominated) is None, "its file may be the first to load"
    assert not more.wants_latency(100.0)
    assert more == replace(plain, front=())
    assert more.check_size(10_000.0) == plain.check_size(10_000.0) != None  # noqa: E711


def test_gates_hold_what_was_found_so_far() -> None:
    keeper = PruningPolicy(with_bounds({"size_bytes": "0.5x", "accuracy": 0.9}), BASELINE, audit=0.0)
    keeper.begin(
        [
            record(0, (20.0, 2.0, 0.95), spread=0.01),
            record(1, (10.0, 3.0, 0.995), spread=0.02),
            record(2, (30.0, 3.0, 0.90), spread=0.03, curves=(CURVE, LearningCurve("warm", 3, (0.1,)))),
            record(3, (1.0, 1.0, 0.1), spread=0.04, feasible=False),
            stopped(4, "front"),
        ]
    )
    gates = keeper.gates_for("key")
    rivals = {Rival(0, 20.0, 2.0, 0.95, 0.25, 0.01), Rival(1, 10.0, 3.0, 0.995, 0.375, 0.02)}
    assert set(gates.front) == rivals, "with the spreads of their latencies and accuracies"
    assert gates.hoped_accuracy == 0.995
    assert gates.accuracy_noise == pytest.approx(0.025)
    assert (gates.most_bytes, gates.most_ms, gates.least_accuracy) == (16_000.0, float("inf"), 0.9)
    # The file had 0.90, its training came to 0.70; what was cut off teaches nothing.
    assert gates.past == (PastTraining(CURVE, 0.9),)
    assert gates.tested == frozenset()
    keeper.begin([])
    assert keeper.gates_for("key") == replace(
        gates, front=(), hoped_accuracy=BASELINE["accuracy"], accuracy_noise=0.0, past=()
    )


def test_a_training_that_came_to_more_than_its_file_counts_by_its_own_metric() -> None:
    keeper = PruningPolicy(OBJECTIVES, BASELINE)
    keeper.learn(record(0, (1.0, 1.0, 0.4), curves=(CURVE,)))
    assert keeper.gates_for("key").past == (PastTraining(CURVE, 0.7),)


def test_the_first_at_each_gate_is_let_through_and_then_a_share_drawn_by_the_key() -> None:
    keeper = PruningPolicy(OBJECTIVES, BASELINE, audit=0.2)
    assert keeper.gates_for("any").tested == {"size", "latency", "front", "rung"}
    keeper.learn(record(0, (1.0, 1.0, 0.5), let_through="front"))
    keys = [f"key {number}" for number in range(2000)]
    drawn = [key for key in keys if "front" in keeper.gates_for(key).tested]
    # 2000 draws of 0.2: 400 with a standard deviation of 18.
    assert 310 < len(drawn) < 490
    again = PruningPolicy(OBJECTIVES, BASELINE, audit=0.2)
    again.learn(record(7, (1.0, 1.0, 0.5), let_through="front"))
    assert [key for key in keys if "front" in again.gates_for(key).tested] == drawn
    more = PruningPolicy(OBJECTIVES, BASELINE, audit=0.4)
    more.learn(record(7, (1.0, 1.0, 0.5), let_through="front"))
    assert set(drawn) < {key for key in keys if "front" in more.gates_for(key).tested}
    assert all("size" in keeper.gates_for(key).tested for key in keys[:20]), "none was tested at that gate yet"
    assert PruningPolicy(OBJECTIVES, BASELINE, audit=0.0).gates_for("any").tested == frozenset()


def test_how_often_gates_are_wrong_is_counted() -> None:
    records = [
        record(0, (20.0, 2.0, 0.95)),
        record(1, (10.0, 3.0, 0.95), let_through="front"),  # on the front: a miss
        record(2, (30.0, 3.0, 0.90), let_through="front"),  # dominated
        record(3, (5.0, 1.0, 0.99), let_through="size", feasible=False),  # breaks the bound, as the gate said
        stopped(4, "front"),
        stopped(5, "rung"),
        stopped(6, "front"),
    ]
    reports = report_rules(records, OBJECTIVES)
    assert reports == (RuleReport("size", 0, 1, 0), RuleReport("front", 2, 2, 1), RuleReport("rung", 1, 0, 0))
    assert describe_reports(reports) == (
        "gates stopped 3 candidates (front 2, rung 1); of 3 let through as a test, 1 reached the front"
    )
    assert report_rules(records[:1], OBJECTIVES) == ()
    assert describe_reports(()) == ""


# --- in a search ------------------------------------------------------------------------------------------------------


def gated(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
    """The made-up world: every candidate trains, its proxy is its file, and its metric is its accuracy throughout."""
    outcome = known_outcome(candidate)
    size, latency, accuracy = (outcome.measurements[name].value for name in BASELINE)
    early_stopping = EarlyStopping(gates)
    early_stopping.size(size)
    early_stopping.untrained_proxy(UntrainedProxy(size, latency, 0.0))
    for epoch in (1, 2):
        early_stopping.on_epoch("warm", 2, epoch, accuracy)
    return replace(outcome, curves=early_stopping.curves, let_through=early_stopping.let_through)


def new_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])


def loop_on(
    study: optuna.Study, space: SearchSpace, *, objectives: tuple[Objective, ...] = BOUNDED, audit: float | None = 0.0
) -> SearchLoop:
    """A search of the made-up world; without gates where the audit is None."""
    keeper = None if audit is None else PruningPolicy(objectives, BASELINE, audit=audit, seed=3)
    return SearchLoop(
        study, space, objectives, BASELINE, InProcess(gated), sampler="random", seed=3, pruning_policy=keeper
    )


def within(candidate: Candidate) -> bool:
    return known_outcome(candidate).measurements["size_bytes"].value * 0.9 <= 8000


def test_stopped_candidates_are_known_and_the_search_ends(small_space: SearchSpace) -> None:
    ending = loop_on(new_study(), small_space).run(Budget(trials=1000), log := Log())
    assert ending == "every candidate of the space has been tried"
    every = {candidate.canonical().key: candidate.canonical() for _, candidate in small_space.points()}
    assert sorted(log.begun_keys) == sorted(every), "each once, also the stopped ones"
    stopped_keys = {one.key for one in log.records if one.state == "stopped" and one.stage == "size"}
    assert stopped_keys == {key for key, candidate in every.items() if not within(candidate)}


def test_a_stopped_trial_says_by_which_gate_and_why_and_is_pruned_with_a_constraint(small_space: SearchSpace) -> None:
    loop = loop_on(new_study(), small_space)
    loop.run(Budget(trials=1000), Log())
    for one, trial in zip(read_records(loop.study), loop.study.get_trials(), strict=True):
        if one.state != "stopped" or one.candidate is None:
            continue
        assert trial.state == TrialState.PRUNED
        assert one.outcome is None
        assert not one.feasible
        (excess,) = trial.constraints.values()
        assert excess > 0
        if one.stage == "size":
            size = known_outcome(one.candidate).measurements["size_bytes"].value
            assert one.reason == f"an untrained proxy of {size / 1e3:.1f} KB, where at most 8.0 KB are allowed"
            assert trial.constraints == {"size gate": pytest.approx(0.9 * size / 8000 - 1)}


def test_stopped_candidates_do_not_count_towards_the_budget(small_space: SearchSpace) -> None:
    log = Log()
    assert loop_on(new_study(), small_space).run(Budget(trials=6), log) == "all trials are done"
    states = Counter(one.state for one in log.records)
    assert states["evaluated"] == 6
    assert states["stopped"] > 0


def test_a_resumed_search_knows_what_was_stopped_unless_gates_are_off(small_space: SearchSpace) -> None:
    study = new_study()
    first, second, third = Log(), Log(), Log()
    loop_on(study, small_space).run(Budget(trials=4), first)
    loop_on(study, small_space).run(Budget(trials=1000), second)
    assert not set(first.begun_keys) & set(second.begun_keys)
    stopped_keys = {one.key for one in [*first.records, *second.records] if one.state == "stopped"}
    loop_on(study, small_space, audit=None).run(Budget(trials=1000), third)
    assert set(third.begun_keys) == stopped_keys
    assert {one.state for one in third.records} <= {"evaluated", "duplicate"}


def test_what_is_let_through_is_marked_and_kept(small_space: SearchSpace) -> None:
    loop = loop_on(new_study(), small_space, audit=1.0)
    loop.run(Budget(trials=1000), Log())
    records = read_records(loop.study)
    assert not [one for one in records if one.state == "stopped"]
    tested = [one for one in records if one.outcome and one.outcome.let_through]
    assert {one.key for one in tested if one.stage == "size"} == {
        one.key for one in records if one.candidate and one.state == "evaluated" and not within(one.candidate)
    }
    assert all(one.reason.startswith("let through as a test of this gate: ") for one in tested)
    assert all(one.outcome.curves and one.outcome.curves[0].is_complete for one in tested if one.outcome)
    # The world is as the gates suppose: none of them was wrong.
    assert sum(report.missed for report in report_rules(records, loop.objectives)) == 0


def test_verdicts_and_curves_are_read_back_from_a_database(make_loop: MakeLoop) -> None:
    def evaluate(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
        return replace(known_outcome(candidate), curves=(CURVE,), let_through=Stop("front", "too large", 0.5))

    loop = make_loop(evaluate)
    loop.pruning_policy = PruningPolicy(OBJECTIVES, BASELINE)
    loop.run(Budget(trials=1), Log())
    (read,) = read_records(make_loop(evaluate).study)
    assert read.outcome is not None
    assert read.outcome.curves == (CURVE,)
    assert read.outcome.let_through == Stop("front", "too large", 0.5)


def test_a_search_in_which_all_is_stopped_ends(small_space: SearchSpace) -> None:
    loop = loop_on(new_study(), small_space, objectives=with_bounds({"size_bytes": 1}))
    ending = loop.run(Budget(trials=1), log := Log())
    assert ending == f"the gates stopped {STOPPED_PER_TRIAL} candidates, {STOPPED_PER_TRIAL} for each trial asked for"
    assert loop.run(Budget(trials=1), again := Log()) == ending
    assert (len(log.begun_keys), again.records) == (STOPPED_PER_TRIAL, [])


def test_a_failure_before_any_gate_stays_a_failure(small_space: SearchSpace) -> None:
    def broken(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
        assert gates is not None
        raise CandidateFailure("architecture", "does not run")

    loop = replace(loop_on(new_study(), small_space), executor=InProcess(broken))
    loop.run(Budget(trials=2), log := Log())
    assert [one.state for one in log.records if one.state != "duplicate"] == ["failed", "failed"]


def test_optuna_ranks_a_stopped_trial_below_all_that_keep_the_bounds() -> None:
    """What the loop relies on: without its constraint, a stopped trial would outrank evaluated infeasible ones."""
    from optuna.samplers._tpe.sampler import _split_trials

    study = new_study()
    for kind in (kinds := ["infeasible", "pruned", "stopped", "good"]):
        trial = study.ask()
        trial.suggest_categorical("kind", kinds)
        trial.set_user_attr("kind", kind)
        if kind in ("infeasible", "stopped"):
            trial.set_constraint("size", 0.5 if kind == "infeasible" else 0.7)
        if kind in ("pruned", "stopped"):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [1.0, 1.0, 1.0])
    best = [{trial.user_attrs["kind"] for trial in _split_trials(study, study.trials, n)[0]} for n in (1, 2, 3)]
    assert best == [{"good"}, {"good", "pruned"}, {"good", "pruned", "infeasible"}]
