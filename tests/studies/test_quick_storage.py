"""The faster way to read a study: what comes is what Optuna reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from karui.studies.storage.quick_storage import QuickStorage

CHOICES = ("none", 8, 0.5, None)
DISTRIBUTIONS = {
    "zeta": CategoricalDistribution(CHOICES),
    "alpha": FloatDistribution(1e-4, 1.0, log=True),
    "middle": IntDistribution(-3, 9, step=3),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def fill(url: str, name: str) -> optuna.Study:
    """Make a study with a trial of every state, and of all that one can hold."""
    study = optuna.create_study(storage=RDBStorage(url), study_name=name, directions=["minimize", "maximize"])
    for choice in CHOICES:
        parameters = {"zeta": choice, "alpha": 0.1, "middle": -3}
        attributes = {"note": {"name": name, "list": [1, None, "ü"]}, "b": 1, "a": 2}
        study.add_trial(
            create_trial(
                values=[1.5, float("inf")], params=parameters, distributions=DISTRIBUTIONS, user_attrs=attributes
            )
        )
    study.add_trial(create_trial(values=[float("-inf"), -0.0], user_attrs={"only": True}))
    study.add_trial(create_trial(state=TrialState.FAIL, system_attrs={"why": "broken"}))
    pruned = {1: 0.5, 0: float("nan"), 7: float("inf"), 8: float("-inf")}
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values=pruned))
    study.enqueue_trial({"zeta": 8}, user_attrs={"queued": 1})
    running = study.ask()
    running.suggest_int("middle", -3, 9, step=3)
    running.set_constraint("small", 0.25)
    study.enqueue_trial({"zeta": None})
    return study


def read(storage: RDBStorage, name: str) -> list[FrozenTrial]:
    return optuna.load_study(storage=storage, study_name=name).get_trials(deepcopy=False)


def everything_in(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Return all that trials hold, in a form in which NaN is itself."""
    return [
        vars(trial)
        | {
            "_params": list(trial.params.items()),
            "intermediate_values": repr(sorted(trial.intermediate_values.items())),
        }
        for trial in trials
    ]


def test_all_trials_are_as_optuna_reads_them(url: str) -> None:
    for name in ("one", "two"):
        fill(url, name)
    for name in ("one", "two"):
        trials, twins = read(QuickStorage(url), name), read(RDBStorage(url), name)
        assert {trial.state for trial in trials} == set(TrialState)
        assert everything_in(trials) == everything_in(twins)
        assert trials[0].user_attrs["note"]["name"] == name


def test_a_study_is_read_without_optunas_way_and_goes_on_with_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, asked = fill(url, "one"), []
    usual = RDBStorage._get_trials

    def noted(self: RDBStorage, *told: Any, **named: Any) -> list[FrozenTrial]:
        asked.append(named)
        return usual(self, *told, **named)

    monkeypatch.setattr(RDBStorage, "_get_trials", noted)
    again = optuna.load_study(storage=QuickStorage(url), study_name="one")
    before = len(again.get_trials(deepcopy=False))
    assert not asked
    study.add_trial(create_trial(values=[1, 2], user_attrs={"late": True}))
    study.tell(before - 2, state=TrialState.FAIL)  # the running one
    trials = again.get_trials(deepcopy=False)
    assert everything_in(trials) == everything_in(read(RDBStorage(url), "one"))
    assert trials[-1].user_attrs == {"late": True}
    assert asked


def test_trials_of_some_states_only_are_optunas_to_read(url: str) -> None:
    study = fill(url, "one")
    storage = QuickStorage(url)
    found = storage.get_all_trials(study._study_id, states=(TrialState.WAITING, TrialState.FAIL))
    assert {trial.state for trial in found} == {TrialState.WAITING, TrialState.FAIL}


def test_a_study_without_trials_has_none_and_a_missing_one_is_refused_as_optuna_does(url: str) -> None:
    study = optuna.create_study(storage=QuickStorage(url), study_name="empty")
    assert study.get_trials(deepcopy=False) == []
    with pytest.raises(KeyError):
        QuickStorage(url).get_all_trials(study._study_id + 1)
