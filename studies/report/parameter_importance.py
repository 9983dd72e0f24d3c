"""How much each parameter decided, objective by objective."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution

from ..results.tables import OBJECTIVE_NAMES
from .trial_axes import parameter_names

if TYPE_CHECKING:
    import pandas as pd

FEWEST_TRIALS = 20
"""Below that many, the best tenth is two trials or fewer and says nothing."""

MOST_TRIALS = 3000


@dataclass(frozen=True)
class Importances:
    """How much each parameter decided.

    Args:
        shares: By parameter, its share for size, latency and accuracy; those of one objective add up to 1.
        trials: How many trials it was computed from.
        problem: Why there is none, in one sentence; empty otherwise.
    """

    shares: dict[str, tuple[float, float, float]]
    trials: int
    problem: str = ""


def parameter_importances(evaluated: pd.DataFrame) -> Importances:
    """Return how much each parameter decided whether a trial was among the best tenth in size, latency and accuracy.

    Conditional parameters are compared within the trials that have them. Source: PED-ANOVA (Watanabe et al., IJCAI
    2023) as Optuna computes it.

    Args:
        evaluated: The trials with all three values; of many, those that are spread evenly over the search are taken.
    """
    names = [name for name in parameter_names(evaluated) if evaluated[name].nunique() > 1]
    if len(evaluated) < FEWEST_TRIALS or not names:
        few = f"{len(evaluated)} measured trials are too few to tell; it takes {FEWEST_TRIALS}."
        return Importances({}, len(evaluated), few if names or not len(evaluated) else "No parameter was varied.")
    if len(evaluated) > MOST_TRIALS:
        evaluated = evaluated.iloc[np.linspace(0, len(evaluated) - 1, MOST_TRIALS).astype(int)]
    study = _study(evaluated, names)
    by_objective = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that small targets count as good, which they do here
        for column in range(len(OBJECTIVE_NAMES)):
            try:
                found = optuna.importance.get_param_importances(study, params=names, target=_target(column))
            except (ValueError, RuntimeError) as error:
                return Importances({}, len(evaluated), f"Optuna cannot tell: {' '.join(str(error).split())}")
            by_objective.append(found)
    shares = {name: (by_objective[0][name], by_objective[1][name], by_objective[2][name]) for name in names}
    ordered = sorted(shares.items(), key=lambda item: -sum(item[1]))
    return Importances(dict(ordered), len(evaluated))


def _target(column: int) -> Any:
    sign = -1.0 if OBJECTIVE_NAMES[column] == "accuracy" else 1.0
    return lambda trial: sign * trial.values[column]


def _study(evaluated: pd.DataFrame, names: list[str]) -> optuna.Study:
    """Return a study in memory that holds these trials: the stored one would have to be read whole."""
    choices = {name: sorted(evaluated[name].dropna().unique().tolist(), key=str) for name in names}
    distributions = {name: CategoricalDistribution(found) for name, found in choices.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"])
    columns = {name: evaluated[name].tolist() for name in names}
    known = {name: evaluated[name].notna().tolist() for name in names}
    trials = []
    for index, values in enumerate(evaluated[list(OBJECTIVE_NAMES)].to_numpy(dtype=np.float64).tolist()):
        own = [name for name in names if known[name][index]]
        trials.append(
            optuna.trial.create_trial(
                values=values,
                params={name: columns[name][index] for name in own},
                distributions={name: distributions[name] for name in own},
            )
        )
    study.add_trials(trials)
    return study
