"""What a caller hands over of Optuna's to a whole search: a study, a sampler, callbacks, and which are refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import optuna
from optuna.trial import TrialState

from ..errors import KaruiError, OutputError
from ..search.objectives import Objective
from ..search.trial_objective import check_directions
from ..spaces.space import SearchSpace
from .storage.store import open_study
from .storage.stored_objectives import name_values

_WITHOUT_REPORTS = (optuna.pruners.MedianPruner, optuna.pruners.NopPruner)
"""What Optuna gives to every study, and what says that nothing is pruned."""

_MARK = "handed_over"


def check_study(study: optuna.Study, name: str, objectives: Sequence[Objective], storage: str) -> None:
    """Refuse an Optuna study in which a whole search cannot keep its trials.

    Args:
        study: The caller's.
        name: What the study file calls it: whoever reads the results later looks for that.
        objectives: What its values have to be.
        storage: SQLAlchemy URL of the storage in which whoever reads the results later looks for it.

    Raises:
        KaruiError: Where it is none, has other directions, values, another name or a pruner that karui never asks,
            holds trials of something else, or lies in another storage.
    """
    if not isinstance(study, optuna.Study):
        remedy = f"the study file comes first: run_study({str(study)!r})" if isinstance(study, (str, Path)) else None
        _refuse("that is no Optuna study", "study", "what optuna.create_study returns", repr(study)[:200], remedy)
    check_directions(study, objectives)
    names = [objective.name for objective in objectives]
    if study.metric_names not in (None, names):
        told = "leave set_metric_names out: karui names them"
        _refuse("its values have other names", "study", ", ".join(names), ", ".join(study.metric_names or ()), told)
    if study.study_name != name:
        told = f"make it with optuna.create_study(study_name={name!r}, ...)"
        _refuse("the Optuna study has another name than the study file", "study", name, study.study_name, told)
    if type(study.pruner) not in _WITHOUT_REPORTS:
        _refuse(
            "a pruner goes by what a trial reports on its way, which Optuna has for one objective alone",
            "study",
            "a study without a pruner",
            type(study.pruner).__name__,
            "leave the pruner out: the study file's [gates] say which candidates are stopped early",
        )
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    strange = [trial.number for trial in completed if "candidate" not in trial.user_attrs]
    if strange:
        told = "trials of something else: " + ", ".join(map(str, strange[:10]))
        _refuse("the Optuna study is not karui's alone", "study", "no trials, or karui's", told, "make another study")
    if study.metric_names is None:
        name_values(study, objectives)
    check_storage(study, storage)


def check_storage(study: optuna.Study, storage: str) -> None:
    """Refuse an Optuna study that does not lie in a storage.

    Raises:
        KaruiError: Where it lies in another one, or in memory.
    """
    if not _lies_in(study, storage):
        raise KaruiError(
            "the Optuna study lies in another storage than its results are looked for in",
            where=f"study {study.study_name!r}",
            expected=f"a study in {storage}",
            got="one in memory, or in another storage",
            remedy=f"make it with optuna.create_study(study_name={study.study_name!r}, storage=URL, directions=...), "
            "and give the same URL here, as storage=URL",
        )


def _lies_in(study: optuna.Study, storage: str) -> bool:
    """Say whether a study lies in a storage: by a mark that is written here and read there."""
    mark = uuid4().hex
    study.set_user_attr(_MARK, mark)
    try:
        return open_study(storage, study.study_name, create=False).user_attrs.get(_MARK) == mark
    except OutputError:  # no such study, or nothing that can be opened
        return False


def check_sampler(sampler: optuna.samplers.BaseSampler, space: SearchSpace, objectives: Sequence[Objective]) -> None:
    """Refuse a sampler that cannot choose a candidate of this space for these objectives.

    Raises:
        KaruiError: Where it is none, or raises something when it is asked for a first candidate.
    """
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        told = 'one of karui\'s own goes by its name in the study file: sampler = "nsga2"'
        got = repr(sampler)[:200]
        _refuse("that is no Optuna sampler", "sampler", "such as optuna.samplers.NSGAIISampler(seed=1)", got, told)
    try:
        own = copy.deepcopy(sampler)  # so that the search's begins as it was handed over
    except Exception:  # whatever a sampler of somebody's holds: then the search itself asks it first
        return
    trial_study = optuna.create_study(directions=[objective.direction for objective in objectives], sampler=own)
    try:
        space.suggest(trial_study.ask())
    except Exception as error:
        raise KaruiError(
            "the sampler cannot choose a candidate of this study",
            where=f"run_study(sampler={type(sampler).__name__}(...))",
            expected=f"a sampler for {len(objectives)} objectives and choices such as this study's",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            remedy="take another one, such as optuna.samplers.TPESampler or NSGAIISampler",
        ) from error


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that cannot be called.

    Raises:
        KaruiError: Where they are no sequence of functions.
    """
    is_sequence = isinstance(callbacks, Sequence) and not isinstance(callbacks, str)
    if not is_sequence or not all(map(callable, callbacks)):
        expected = "a list of functions of (study, trial), as study.optimize takes them"
        _refuse("those are no callbacks", "callbacks", expected, repr(callbacks)[:200], None)


def _refuse(what: str, keyword: str, expected: str, got: str, remedy: str | None) -> NoReturn:
    raise KaruiError(what, where=f"run_study({keyword}=...)", expected=expected, got=got, remedy=remedy)
