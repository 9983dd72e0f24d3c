"""How many evaluations the search needs where the answer is known: the share of the true front it finds, per sampler.

karui's own loop searches ``known_world``, whose whole front is known by enumeration, with noisy latency and accuracy.
What counts is the noiseless hypervolume of the candidates evaluated so far, as a share of that of all candidates.
Networks that had to be trained are counted as well: they are what a night is spent on; a candidate that shares a
network with one before costs rounding and measuring only. Each variant is run with ten seeds (sampler and noise), two
processes at a time.

Writes ``results/search_known.csv`` (a row per variant, seed and count of evaluations), ``.md`` and ``.png``. Run as
``python benchmarks/search_known.py``; takes about ten minutes on two quiet cores.
"""

from __future__ import annotations

import platform
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
from known_world import (  # type: ignore[import-not-found]
    BASELINE,
    BOUNDED,
    OBJECTIVES,
    SPACE,
    World,
    every_candidate,
    hypervolume_of,
    share_of,
    true_values,
)
from measuring import RESULTS, processor, today  # type: ignore[import-not-found]

from karui.search.executor import InProcess
from karui.search.loop import Budget, SearchLoop
from karui.search.proposals import SAMPLERS, OneSplitTPESampler, SamplerName
from karui.search.statistics.front import pareto_mask
from karui.spaces.candidate import network_of
from karui.studies.watching.watcher import Watcher

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
        followers: As in a study file.
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


def run(index: int, seed: int, whole: float) -> list[dict[str, Any]]:
    """Search once; return the share after every few evaluations and where the goal is reached."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    variant, world = VARIANTS[index], World(seed)
    SAMPLERS[variant.sampler] = variant.other or OWN[variant.sampler]
    study = optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])
    loop = SearchLoop(
        study,
        SPACE,
        BOUNDED,
        BASELINE,
        InProcess(world),
        sampler=variant.sampler,
        seed=seed,
        followers=variant.followers,
    )
    loop.run(Budget(variant.evaluations), Watcher(), SPACE.initial_design())
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
    goal = round(GOAL_SPACE * facts["candidates"])
    yield "# A search whose answer is known"
    yield ""
    yield (
        f"{facts['candidates']:,} candidates of {facts['networks']:,} networks, {facts['front']} of them on the true "
        f"front. Goal: {GOAL_SHARE:.0%} of the true hypervolume within {GOAL_SPACE:.0%} of the space, {goal} "
        "evaluations."
        " Median over the seeds, and in brackets the best and the worst; a run that ended before the goal counts as "
        "infinitely long. Shares are means."
    )
    yield ""
    yield (
        f"| variant | seeds | evaluations to {GOAL_SHARE:.0%} | of the space | networks trained to {GOAL_SHARE:.0%} "
        "| share after 100 | 200 | 400 evaluations | after 25 | 50 | 100 networks |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for variant in VARIANTS:
        runs = [each for _, each in table[table["sampler"] == variant.name].groupby("seed")]
        if runs:
            yield _row(variant, runs, facts["candidates"])
    yield ""
    yield (
        "GPSampler is left out: a trial takes it most of a second at 100 trials and more with each, ten runs of a few "
        "hundred would take a night. Followers (two after each newly trained network) cost evaluations "
        "and save networks: the columns by networks say what a night of training is worth."
    )
    yield ""
    yield (
        f"Conditions: python {platform.python_version()}, optuna {version('optuna')}, numpy {version('numpy')}; "
        f"{processor()}; storage in memory; first trials are the initial design that train nothing "
        f"(a study has some that train, too); the bound is accuracy >= "
        f"0.85, as in the study fashion; noise 2 % on latency, binomial of 5,000 images on accuracy; "
        f"{today()}; {seconds / 60:.0f} minutes in all (the machine was shared)."
    )
    yield ""


def _row(variant: Variant, runs: list[pd.DataFrame], candidates: int) -> str:
    reached = [run[run["true_hypervolume_share"] >= GOAL_SHARE].iloc[:1] for run in runs]
    lengths = {
        column: sorted(float(first[column].iloc[0]) if len(first) else np.inf for first in reached)
        for column in ("evaluations", "trained_networks")
    }
    median = float(np.median(lengths["evaluations"]))
    shares = [_share_at(runs, "evaluations", count) for count in (100, 200, 400)]
    shares += [_share_at(runs, "trained_networks", count) for count in (25, 50, 100)]
    cells = [variant.name, str(len(runs)), _spread(lengths["evaluations"])]
    cells += [f"{median / candidates:.2%}" if np.isfinite(median) else "-", _spread(lengths["trained_networks"])]
    return "| " + " | ".join([*cells, *shares]) + " |"


def _share_at(runs: list[pd.DataFrame], column: str, count: int) -> str:
    """Return the mean share when so much was spent; nothing where a run ended before."""
    if any(run[column].max() < count for run in runs):
        return "-"
    shares = [run[run[column] <= count]["true_hypervolume_share"].max() for run in runs]
    return f"{np.mean(shares):.1%}"


def _spread(lengths: list[float]) -> str:
    texts = [f"{length:.0f}" if np.isfinite(length) else "not reached" for length in lengths]
    middle = float(np.median(lengths))
    return f"{middle:.0f} ({texts[0]} to {texts[-1]})" if np.isfinite(middle) else f"not reached ({texts[0]} at best)"


def _draw(table: pd.DataFrame) -> None:
    """Plot the median share and its range over the seeds against evaluations and against trained networks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shown = [variant.name for variant in VARIANTS if variant.other is None or "jointly" in variant.name]
    for axis, column in zip(axes, ("evaluations", "trained_networks"), strict=True):
        for name in (name for name in shown if name in set(table["sampler"])):
            runs = [each for _, each in table[table["sampler"] == name].groupby("seed")]
            grid = np.arange(STEP, min(run[column].max() for run in runs) + 1, STEP)
            shares = np.array([[run[run[column] <= at]["true_hypervolume_share"].max() for at in grid] for run in runs])
            (line,) = axis.plot(grid, np.nanmedian(shares, axis=0), label=name)
            axis.fill_between(grid, shares.min(axis=0), shares.max(axis=0), color=line.get_color(), alpha=0.1, lw=0)
        axis.axhline(GOAL_SHARE, color="grey", lw=0.8, ls="--")
        axis.set_xlabel(column.replace("_", " "))
        axis.set_ylim(0.5, 1.0)
    axes[0].set_ylabel("share of the true hypervolume")
    axes[1].legend(loc="lower right", fontsize=8)
    figure.savefig(RESULTS / "search_known.png", dpi=130)


if __name__ == "__main__":
    main()
