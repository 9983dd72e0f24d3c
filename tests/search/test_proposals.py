"""The quicker TPE suggests what Optuna's own does, whether parameters are conditional, bounded or twins."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest

from karui.search.proposals import OneSplitTPESampler
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.space import SearchSpace

from .conftest import known_outcome

SPACE = SearchSpace(cells=CellsAxis(nodes=2), bits=BitsAxis())


def suggestions(kind: type[optuna.samplers.TPESampler], **arguments: Any) -> list[dict[str, Any]]:
    """Return the parameters of forty trials, some of which break a bound and some of which end early."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=["minimize", "minimize", "maximize"], sampler=kind(n_startup_trials=8, seed=1, **arguments)
        )
        for _ in range(40):
            trial = study.ask()
            outcome = known_outcome(SPACE.suggest(trial))
            size, latency, accuracy = (item.value for item in outcome.measurements.values())
            trial.set_constraint("size", size - 7000.0)
            if trial.number % 7 == 3:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, [size, latency, accuracy])
    return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"multivariate": True, "group": True}, {"constant_liar": False}, {"multivariate": True}],
    ids=lambda arguments: " ".join(arguments) or "one by one",
)
def test_it_suggests_what_optunas_own_sampler_suggests(arguments: dict[str, Any]) -> None:
    mine = suggestions(OneSplitTPESampler, **arguments)
    assert mine == suggestions(optuna.samplers.TPESampler, **arguments)
    assert len({str(parameters) for parameters in mine}) > 10


def test_running_trials_of_others_count_as_bad_while_they_run() -> None:
    drawn = []
    for kind in (OneSplitTPESampler, optuna.samplers.TPESampler):
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=kind(n_startup_trials=4, seed=2))
        running = []
        for number in range(24):
            trial = study.ask()
            value = trial.suggest_categorical("x", range(12))
            drawn.append((number, value))
            if number % 3:
                study.tell(trial, [float(value), float(value % 5)])
            else:
                running.append(trial)
    assert drawn[:24] == drawn[24:]


def test_it_is_optunas_own_where_optuna_has_moved_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.delattr("optuna.samplers._tpe.sampler._split_trials")

    def sample(*arguments: object) -> dict[str, int]:
        calls.append(arguments)
        return {"x": 1}

    monkeypatch.setattr(optuna.samplers.TPESampler, "_sample", sample)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=OneSplitTPESampler(n_startup_trials=0))
    assert study.ask().suggest_categorical("x", (0, 1)) == 1
    assert len(calls) == 1
