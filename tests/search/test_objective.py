"""One trial as an Optuna objective: Optuna's own loop, its samplers and storages, and nothing of karui's around it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from karui.errors import CandidateFailure, CandidateStopped, KaruiError, TargetUnavailable
from karui.search.executor import InProcess
from karui.search.objectives import OBJECTIVES, with_bounds
from karui.search.outcome import Outcome
from karui.search.record import read_records
from karui.search.stopping.early_stopping import PruningPolicy
from karui.search.stopping.pruning_rules import PruningRules
from karui.search.trial_objective import TrialObjective
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace

from .conftest import BASELINE, known_outcome

NAMES = [objective.name for objective in OBJECTIVES]


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [objective.direction for objective in OBJECTIVES]
    return optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=3))


def here(evaluate: Callable[..., Outcome]) -> InProcess:
    return InProcess(evaluate)


def states(study: optuna.Study) -> Counter[str]:
    return Counter(record.state for record in read_records(study))


def test_a_few_lines_of_plain_optuna_search(study: optuna.Study, small_space: SearchSpace) -> None:
    objectives = with_bounds({"size_bytes": "0.25x"})
    study.optimize(TrialObjective(small_space, objectives, BASELINE, here(known_outcome)), n_trials=5)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert complete
    for trial, record in zip(study.get_trials(), read_records(study), strict=True):
        assert record.candidate is not None
        if trial.state == TrialState.COMPLETE:
            expected = known_outcome(record.candidate).measurements
            assert trial.values == [expected[name].value for name in NAMES]
            assert trial.constraints == {"size_bytes <= 8000": (trial.values[0] - 8000) / 8000}
            assert record.feasible == (trial.values[0] <= 8000)


def test_whatever_the_loop_a_candidate_is_tried_once(study: optuna.Study, small_space: SearchSpace) -> None:
    tried: list[str] = []

    def evaluate(candidate: Candidate) -> Outcome:
        tried.append(candidate.key)
        return known_outcome(candidate)

    objective = TrialObjective(small_space, OBJECTIVES, BASELINE, here(evaluate))
    study.optimize(objective, n_trials=40, n_jobs=3)
    study.optimize(TrialObjective(small_space, OBJECTIVES, BASELINE, here(evaluate)), n_trials=300)
    every = {candidate.canonical().key for _, candidate in small_space.points()}
    assert sorted(tried) == sorted(every)
    assert states(study).keys() == {"evaluated", "duplicate"}
    duplicates = [record for record in read_records(study) if record.state == "duplicate"]
    assert all(study.get_trials()[record.number].state == TrialState.PRUNED for record in duplicates)
    assert len(study.trials) < 300, "it stops where there is nothing left"


def test_what_comes_of_candidates_is_what_optuna_is_told(study: optuna.Study, small_space: SearchSpace) -> None:
    def evaluate(candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
        if candidate.weight_bits == 4:
            raise CandidateFailure("packing", "does not fit")
        if candidate.weight_bits == 32:
            raise CandidateStopped("size", "too large", 0.5)
        return known_outcome(candidate)

    keeper = PruningPolicy(OBJECTIVES, BASELINE)
    study.optimize(
        TrialObjective(small_space, OBJECTIVES, BASELINE, here(evaluate), pruning_policy=keeper), n_trials=300
    )
    told = {"evaluated": TrialState.COMPLETE, "failed": TrialState.FAIL, "stopped": TrialState.PRUNED}
    for record, trial in zip(read_records(study), study.get_trials(), strict=True):
        if record.state in told:
            assert trial.state == told[record.state]
            assert (record.state == "stopped") == (trial.constraints == {"size gate": 0.5})
    # 2 x 2 sparsities of 8 bits and of 4, each with 8 and 32 bits of activations; float32 weights have but one.
    seen = states(study)
    assert (seen["evaluated"], seen["failed"], seen["stopped"]) == (8, 8, 4)


@pytest.mark.parametrize(
    "error", [TargetUnavailable("gone: pi5"), MemoryError(), KeyError("a bug"), KeyboardInterrupt()], ids=repr
)
def test_what_is_no_candidates_fault_is_raised_and_its_candidate_queued_again(
    study: optuna.Study, small_space: SearchSpace, error: BaseException
) -> None:
    def broken(candidate: Candidate) -> Outcome:
        raise error

    study.enqueue_trial({"bits.weights": 8, "bits.activations": 8})
    with pytest.raises((type(error), KaruiError)):
        study.optimize(TrialObjective(small_space, OBJECTIVES, BASELINE, here(broken)), n_trials=5)
    first, again = study.get_trials()
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    study.optimize(TrialObjective(small_space, OBJECTIVES, BASELINE, here(known_outcome)), n_trials=1)
    assert study.get_trials()[1].params == first.params
    assert states(study) == {"interrupted": 1, "evaluated": 1}


def test_a_study_of_other_directions_is_refused(small_space: SearchSpace) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(KaruiError, match=r"other directions(?s:.*)latency_ms: minimize(?s:.*)minimize, maximize"):
        study.optimize(TrialObjective(small_space, OBJECTIVES, BASELINE, here(known_outcome)), n_trials=1)


class Meeting:
    """Two that suggest the same candidate at the same time: both have claimed it before either looks."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def at(self, look: Callable[[], None]) -> Callable[[], None]:
        looks = iter([False, True])  # the first look comes before the claim

        def met() -> None:
            if next(looks, False):
                self.barrier.wait(10.0)
            look()

        return met


def test_of_two_that_claim_the_same_at_once_one_tries_it(study: optuna.Study, small_space: SearchSpace) -> None:
    tried: list[str] = []

    def evaluate(candidate: Candidate) -> Outcome:
        tried.append(candidate.key)
        return known_outcome(candidate)

    meeting, threads = Meeting(), []
    for _ in range(2):
        study.enqueue_trial({"bits.weights": 32, "sparsity.removed_channels": 0.5, "sparsity.zeroed_weights": 0.5})
        objective = TrialObjective(small_space, OBJECTIVES, BASELINE, here(evaluate))
        objective.begin(study)
        objective.take_in = meeting.at(objective.take_in)  # type: ignore[method-assign]
        trial = study.ask()

        def run(objective: TrialObjective = objective, trial: optuna.Trial = trial) -> None:
            try:
                study.tell(trial, objective(trial))
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)

        threads.append(threading.Thread(target=run))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(tried) == 1
    assert states(study) == {"evaluated": 1, "duplicate": 1}
