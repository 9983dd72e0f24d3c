"""A study, a sampler and callbacks of the caller's own in a whole search, and those that cannot work there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import karui
from karui.errors import KaruiError
from karui.search.objectives import OBJECTIVES

from .conftest import write_study

FEW = """
[bits]
weights = [4, 8, 32]
activations = [32]

[latency]
max_seconds = 0.02
"""

DIRECTIONS = [objective.direction for objective in OBJECTIVES]


class Asked(optuna.samplers.RandomSampler):
    """Counts how often it is asked."""

    asked = 0

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        self.asked += 1
        return super().infer_relative_search_space(study, trial)


def test_a_whole_search_runs_in_a_study_of_the_callers_own(tmp_path: Path) -> None:
    file = write_study(tmp_path, axes=FEW)
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    name = karui.load_spec(file).name
    sampler = Asked(seed=1)
    study = optuna.create_study(study_name=name, storage=storage, directions=DIRECTIONS, sampler=sampler)
    study.enqueue_trial({"bits.weights": 8, "bits.activations": 32})
    called: list[int] = []

    def search(**options: Any) -> karui.StudyResult:
        return karui.run_study(
            file, out=tmp_path / "results", storage=storage, study=study, workers=0, gates=False, **options
        )

    first = search(trials=1, callbacks=[lambda _, trial: called.append(trial.number)])
    (trial,) = study.get_trials(states=(TrialState.COMPLETE,))
    # What the caller has queued comes before what everybody tries first.
    assert trial.number == 0
    assert trial.user_attrs["candidate"]["weight_bits"] == 8
    assert called == [0]
    assert len(first.front) == 1
    assert (tmp_path / "results" / "front.csv").is_file()
    assert not (tmp_path / "results" / "study.db").exists()
    # The same call goes on with it, and its sampler is still the one that is asked.
    asked = sampler.asked
    again = search(trials=3, callbacks=[lambda _, trial: called.append(trial.number)])
    assert sampler.asked > asked
    evaluated = study.get_trials(states=(TrialState.COMPLETE,))
    assert sorted(trial.user_attrs["candidate"]["weight_bits"] for trial in evaluated) == [4, 8, 32]
    assert called == [trial.number for trial in study.trials if trial.state.is_finished()]
    assert list(again.trials["trial"]) == [trial.number for trial in study.trials]


def _study(name: str, storage: str, **options: Any) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage, **{"directions": DIRECTIONS, **options})


def _with_names(name: str, storage: str) -> optuna.Study:
    study = _study(name, storage)
    study.set_metric_names(["a", "b", "c"])
    return study


def _with_trials(name: str, storage: str) -> optuna.Study:
    study = _study(name, storage)
    study.optimize(lambda _: (1.0, 2.0, 3.0), n_trials=1)
    return study


def _with_sampler(sampler: object) -> Callable[[str, str], dict[str, object]]:
    return lambda _, __: {"study": None, "sampler": sampler}


REFUSED: dict[str, tuple[Callable[[str, str], Any], str]] = {
    "a file": (lambda name, _: f"{name}.toml", "no Optuna study.*comes first"),
    "in memory": (lambda name, _: optuna.create_study(study_name=name, directions=DIRECTIONS), "another storage"),
    "elsewhere": (lambda name, url: _study(name, url.replace("mine", "other")), "another storage"),
    "another name": (lambda _, url: _study("another", url), "another name.*study_name="),
    "directions": (lambda name, url: _study(name, url, directions=["minimize"] * 3), "other directions"),
    "one objective": (lambda name, url: _study(name, url, directions=["minimize"]), "other directions"),
    "a pruner": (lambda name, url: _study(name, url, pruner=optuna.pruners.HyperbandPruner()), "HyperbandPruner"),
    "names": (_with_names, "other names"),
    "other trials": (_with_trials, "not karui's alone"),
    "a sampler's name": (_with_sampler("nsga2"), "no Optuna sampler.*study file"),
    "a sampler's class": (_with_sampler(optuna.samplers.NSGAIISampler), "no Optuna sampler"),
    "for one objective": (_with_sampler(optuna.samplers.CmaEsSampler()), "cannot choose.*multi-objective"),
    "another grid": (_with_sampler(optuna.samplers.GridSampler({"x": [1, 2]})), "cannot choose.*not found"),
    "no callbacks": (lambda _, __: {"callbacks": print}, "no callbacks"),
    "callbacks that are none": (lambda _, __: {"callbacks": [1]}, "no callbacks"),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_work_is_refused_before_the_task_is_loaded(kind: str, tmp_path: Path) -> None:
    make, told = REFUSED[kind]
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    handed = make("mine", storage)
    options = handed if isinstance(handed, dict) else {"study": handed}
    spec = karui.StudySpec(name="mine", task="no_such_task.py:make", bits=karui.BitsAxis(weights=(4, 8)))
    with pytest.raises(KaruiError, match=f"(?s){told}"):
        karui.run_study(spec, out=tmp_path / "results", storage=storage, **options)
    study = options.get("study")
    if isinstance(study, optuna.Study):  # what is refused is left as it is
        assert study.study_name in {summary.study_name for summary in optuna.get_all_study_summaries(study._storage)}


def test_a_keyword_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="trails"):
        karui.run_study("digits", trails=3)  # type: ignore[call-arg]
