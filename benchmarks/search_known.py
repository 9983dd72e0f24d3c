"""How many evaluations the search needs where the answer is known: the share of the true front it finds, per sampler.

karui's own loop searches ``known_world``, whose whole front is known by enumeration, with noisy latency and accuracy. What
counts is the noiseless hypervolume of the candidates evaluated so far, as a share of that of all candidates. Networks that
had to be trained are counted as well: they are what a night is spent on; a candidate that shares a network with one before
costs rounding and measuring only. Each variant is run with ten seeds (sampler and noise), two processes at a time.

Writes ``results/search_known.csv`` (a row per variant, seed and count of evaluations), ``.md`` and ``.png``. Run as
``python benchmarks/search_known.py``; takes about ten minutes on two quiet cores.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import optuna
import pandas as pd
from known_world import BASELINE, BOUNDED, OBJECTIVES, SPACE, World, every_candidate  # type: ignore[import-not-found]
from known_world import hypervolume_of, share_of, true_values
from measuring import RESULTS, processor, today  # type: ignore[import-not-found]

from karui.search.front import pareto_mask
from karui.search.loop import Budget, SearchLoop
from karui.search.record import TrialRecord
from karui.search.sampler import SAMPLERS, SamplerName
from karui.search.tpe import OneSplitTPESampler
from karui.spaces.build import network_of
from karui.spaces.candidate import Candidate

SEEDS = range(10)
GOAL_SHARE, GOAL_SPACE = 0.95, 0.02
STEP = 10
OWN = dict(SAMPLERS)
Factory = Callable[[int], optuna.samplers.BaseSampler]


def _jointly(seed: int) -> optuna.samplers.BaseSampler:
    return OneSplitTPESampler(multivariate=True, group=True, n_startup_trials=12, seed=seed)


def _nsga2(population: int) -> Factory:
    return lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=population)


@dataclass(frozen=True)
class Variant:
    """A way to search.

    Args:
        name: As it is shown.
        sampler: The sampler's name in a study file.
        followers: As in a study file; 2 is the default.
        evaluations: When a run ends.
        other: Makes the sampler, where it is not karui's own of that name.
    """

    name: str
    sampler: SamplerName
    followers: int
    evaluations: int
    other: Factory | None = field(default=None, compare=False)


VARIANTS = (
    Variant("tpe", "tpe", 2, 500),
    Variant("tpe, no followers", "tpe", 0, 500),
    Variant("random", "random", 2, 820),
    Variant("random, no followers", "random", 0, 820),
    Variant("nsga2", "nsga2", 2, 820),
    Variant("nsga2, no followers", "nsga2", 0, 820),
    Variant("nsga3", "nsga3", 2, 820),
    Variant("nsga3, no followers", "nsga3", 0, 820),
    Variant("nsga2, population 16", "nsga2", 2, 820, _nsga2(16)),
    Variant("nsga2, population 32", "nsga2", 2, 820, _nsga2(32)),
    Variant("tpe, jointly, no followers", "tpe", 0, 400, _jointly),
    Variant("tpe, jointly", "tpe", 2, 500, _jointly),
)


class Silence:
    """A listener that does nothing."""

    def begun(self, number: int, candidate: Candidate) -> None:
        """Do nothing."""

    def ended(self, record: TrialRecord) -> None:
        """Do nothing."""


def run(index: int, seed: int, whole: float) -> list[dict[str, Any]]:
    """Search once; return the share after every few evaluations and where the goal is reached."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    variant, world = VARIANTS[index], World(seed)
    SAMPLERS[variant.sampler] = variant.other or OWN[variant.sampler]
    study = optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])
    loop = SearchLoop(
        study, SPACE, BOUNDED, BASELINE, world, sampler=variant.sampler, seed=seed, followers=variant.followers
    )
    loop.run(Budget(variant.evaluations), Silence(), SPACE.landmarks())
    points = np.array(world.found)
    counts = sorted({*range(STEP, len(points) + 1, STEP), _first_at_goal(points, whole)})
    return [
        {
            "sampler": variant.name, "seed": seed, "evaluations": count, "trained_networks": world.trained[count - 1],
            "true_hypervolume_share": share_of(points[:count], whole),
        }
        for count in counts
    ]  # fmt: skip


def _first_at_goal(points: np.ndarray, whole: float) -> int:
    """Return after how many evaluations the share reaches the goal; the last count where it does not."""
    low, high = 1, len(points)
    while low < high:
        middle = (low + high) // 2
        if share_of(points[:middle], whole) >= GOAL_SHARE:
            high = middle
        else:
            low = middle + 1
    return low


def main() -> None:
    """Enumerate, search, write."""
    begin = time.perf_counter()
    every = every_candidate()
    values = np.array([true_values(candidate) for candidate in every])
    whole = hypervolume_of(values)
    facts = {
        "candidates": len(every),
        "networks": len({network_of(candidate) for candidate in every}),
        "front": int(pareto_mask(values, OBJECTIVES).sum()),
    }
    rows: list[dict[str, Any]] = []
    RESULTS.mkdir(exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        for index, variant in enumerate(VARIANTS):
            for found in pool.map(run, [index] * len(SEEDS), SEEDS, [whole] * len(SEEDS)):
                rows.extend(found)
            table = pd.DataFrame(rows)
            table.to_csv(RESULTS / "search_known.csv", index=False, float_format="%.5f")
            print(variant.name, f"{time.perf_counter() - begin:.0f} s", flush=True)
    _draw(table)
    text = "\n".join(_report(table, facts, time.perf_counter() - begin))
    (RESULTS / "search_known.md").write_text(text, encoding="utf-8")


def _report(table: pd.DataFrame, facts: dict[str, int], seconds: float) -> Iterator[str]:
    yield ""


def _draw(table: pd.DataFrame) -> None:
    pass


if __name__ == "__main__":
    main()
