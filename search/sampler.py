"""Samplers: Optuna's, chosen by name in the study file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import optuna

from .tpe import OneSplitTPESampler

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # Parameters one by one. Jointly (multivariate, grouped) is no better where followers are as many as pay: in ten
    # searches of a known front 92.8 % of it in 4,500 simulated seconds, instead of 94.0 % (standard errors 0.9 and 1.4;
    # benchmarks/search_cost.py). With two followers each it was ahead, 94.0 to 91.2 %; without any it trained more
    # networks to the same share, 110 instead of 86 (benchmarks/search_known.py).
    # constant_liar counts candidates in flight, this search's and others', as bad ones, so that what is asked for
    # meanwhile lies elsewhere; with one at a time it changes nothing.
    return OneSplitTPESampler(multivariate=False, constant_liar=True, n_startup_trials=12, seed=seed)


SAMPLERS: dict[SamplerName, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def make_sampler(name: SamplerName, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of that name.

    Args:
        name: ``tpe`` (parameters one by one), ``nsga2``, ``nsga3``, ``gp`` or ``random``.
        seed: Seeds the sampler's own random numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)
