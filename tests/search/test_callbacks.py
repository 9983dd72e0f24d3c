"""Callbacks and samplers of the caller's own in Optuna's loop as a search runs it."""

from __future__ import annotations

import threading
import time
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from karui.search.budget import Budget
from karui.search.executor import Executor, InProcess
from karui.search.outcome import Outcome, Result, UnexpectedError
from karui.search.runner import STOPPED_BY_CALLBACK
from karui.search.stopping.pruning_rules import PruningRules
from karui.spaces.candidate import Candidate

from .conftest import Log, MakeLoop, known_outcome


def stop_at(number: int) -> Any:
    def callback(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.number >= number:
            study.stop()

    return callback


def test_callbacks_are_called_after_each_trial_and_end_the_search(make_loop: MakeLoop) -> None:
    loop = make_loop()
    called: list[tuple[int, TrialState]] = []
    loop.callbacks = (lambda _, trial: called.append((trial.number, trial.state)), stop_at(4))
    assert loop.run(Budget(20), Log()) == STOPPED_BY_CALLBACK
    assert [number for number, _ in called] == [0, 1, 2, 3, 4]
    assert [state for _, state in called] == [trial.state for trial in loop.study.trials]


def test_optunas_own_callback_ends_the_search(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.callbacks = (optuna.study.MaxTrialsCallback(3, states=(TrialState.COMPLETE,)),)
    assert loop.run(Budget(20), Log()) == STOPPED_BY_CALLBACK
    assert len(loop.study.get_trials(states=(TrialState.COMPLETE,))) == 3


def test_a_callback_that_raises_ends_the_search_and_loses_nothing(make_loop: MakeLoop) -> None:
    def broken(study: optuna.Study, trial: FrozenTrial) -> None:
        raise ZeroDivisionError(trial.number)

    loop = make_loop()
    loop.callbacks = (broken,)
    with pytest.raises(ZeroDivisionError):
        loop.run(Budget(20), Log())
    assert [trial.state for trial in make_loop().study.trials] == [TrialState.COMPLETE]


def test_a_search_of_its_own_sampler_ends_with_its_grid(make_loop: MakeLoop) -> None:
    grid = {"sparsity.removed_channels": [0.0], "sparsity.zeroed_weights": [0.0, 0.5]}
    grid |= {"bits.weights": [4, 8], "bits.activations": [8]}
    loop = make_loop()
    loop.sampler = optuna.samplers.GridSampler(grid, seed=1)
    assert loop.run(Budget(20), Log()) == STOPPED_BY_CALLBACK
    asked = {tuple(sorted(trial.params.items())) for trial in loop.study.trials}
    assert len(asked) == len(loop.study.trials) == 4
    assert {dict(each)["bits.weights"] for each in asked} == {4, 8}


class ErrsFirst(InProcess):
    """Meets an error that is no candidate's in its first evaluation."""

    tried = 0

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        self.tried += 1
        if self.tried == 1:
            return UnexpectedError("training", "MemoryError: no memory", "", "memory")
        return super().run(number, candidate, gates)


def test_a_candidate_that_is_tried_again_has_its_callback_too(make_loop: MakeLoop) -> None:
    loop = make_loop(executor=ErrsFirst(lambda candidate, *_: known_outcome(candidate)))
    called: list[int] = []
    loop.callbacks = (lambda _, trial: called.append(trial.number), stop_at(0))
    assert loop.run(Budget(20), Log()) == STOPPED_BY_CALLBACK
    assert sorted(called) == [trial.number for trial in loop.study.trials]
    assert len(called) == 2  # the first was held while the second came through, and that one had ended the search
    assert all(trial.state == TrialState.COMPLETE for trial in loop.study.trials)


class Threads(Executor):
    """Evaluates in the threads of the search, two at a time."""

    size = 2
    is_here = False

    def __init__(self) -> None:
        self.on_stage = lambda number, stage: None

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Outcome:
        time.sleep(0.01)
        return known_outcome(candidate)

    def close(self) -> None:
        pass


def test_several_at_a_time_call_back_one_after_the_other(make_loop: MakeLoop) -> None:
    at_once, most = 0, 0
    threads = set()

    def callback(study: optuna.Study, trial: FrozenTrial) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        threads.add(threading.get_ident())
        time.sleep(0.005)
        at_once -= 1

    loop = make_loop(executor=Threads())
    loop.callbacks = (callback, stop_at(9))
    assert loop.run(Budget(20), Log()) == STOPPED_BY_CALLBACK
    assert most == 1
    assert len(threads) == 2
    assert len(loop.study.trials) in (10, 11)  # one may be in flight when the other ends the search


def test_a_search_that_was_stopped_promotes_as_ever(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.final_factor = 4
    loop.pruning_policy = None
    called: list[bool] = []
    loop.callbacks = (lambda _, trial: called.append("epochs_factor" in trial.user_attrs), stop_at(5))
    loop.run(Budget(20), Log())
    assert called[:6] == [False] * 6
    # stop_at stops after the first that is promoted, too.
    assert called[6:] == [True] * min(1, len(called[6:]))


def test_what_the_caller_has_queued_comes_before_what_everybody_tries_first(make_loop: MakeLoop) -> None:
    loop = make_loop()
    mine, first = {"bits.weights": 8, "sparsity.removed_channels": 0.5}, {"bits.weights": 4}
    loop.study.enqueue_trial(mine)
    loop.run(Budget(2), Log(), [first])
    assert [trial.system_attrs["fixed_params"] for trial in loop.study.trials] == [mine, first]
    assert [trial.params["bits.weights"] for trial in loop.study.trials] == [8, 4]
