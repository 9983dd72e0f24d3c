"""The objectives of a study as Optuna's storage keeps them: directions, and what dashboards call the values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna

from ...search.objectives import OBJECTIVES, Direction, Objective, objectives_named


def directions_of(objectives: Sequence[Objective]) -> list[Direction]:
    """Return the directions that a study with these objectives has."""
    return [objective.direction for objective in objectives]


def stored_objectives(study: optuna.Study) -> tuple[Objective, ...]:
    """Return the objectives of a study, without bounds.

    Raises:
        ValueError: Where they are none that a study of karui's can have.
    """
    # Studies of earlier versions have names as well; what has none yet is being made.
    objectives = objectives_named(study.metric_names or [objective.name for objective in OBJECTIVES])
    found = [direction.name.lower() for direction in study.directions]
    if found != directions_of(objectives):
        raise ValueError(f"the directions are {', '.join(found)}")
    return objectives


def name_values(study: optuna.Study, objectives: Sequence[Objective]) -> None:
    """Say in the storage what the values of a trial are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in objectives])
