"""What followers are worth where training is dear: the share of a known front by simulated seconds, per ``followers``.

karui's own loop searches ``known_world`` with the default sampler, on a clock that only the world moves: a network that
has to be trained takes a minute, rounding and measuring take a second and a half. That is 40 to 1, as on real networks:
in ``results/compression.md`` two epochs of recovery took 197 and 246 seconds, rounding up to 5. What counts is the
noiseless hypervolume of the candidates evaluated so far, as a share of that of all candidates. All variants are run
with one seed (sampler and noise) before the next, two processes at a time.

Writes ``results/search_cost.csv`` (a row per variant, seed and evaluation that widened the front) and ``.md``. Run as
``python benchmarks/search_cost.py [SEEDS]``; takes about five minutes on two quiet cores.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
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
from karui.search.outcome import Outcome
from karui.search.stopping.pruning_rules import PruningRules
from karui.search.weight_sharing import Followers
from karui.spaces.artifact import StageRecord
from karui.spaces.candidate import Candidate
from karui.studies.watching.watcher import Watcher

SEEDS = 10
VARIANTS: tuple[Followers, ...] = (0, 2, 3, "auto")
BESIDE = 2
"""What the others are compared with: the default before there was ``auto``."""

TRAINING_SECONDS, MEASURING_SECONDS = 60.0, 1.5
LONGEST_SECONDS = 4500.0
GOALS = (0.8, 0.9, 0.95)
TIMES_SECONDS = (1500.0, 3000.0, 4500.0)


@dataclass
class ClockedWorld(World):  # type: ignore[misc]
    """The world with a clock that it moves by what each candidate would have taken.

    Attributes:
        now_seconds: What the clock shows.
    """

    now_seconds: float = 0.0

    def __call__(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        """Return the outcome of a candidate, its stages with their simulated seconds."""
        outcome: Outcome = super().__call__(candidate)
        stages = [replace(stage, seconds=TRAINING_SECONDS) for stage in outcome.stages]
        stages.append(StageRecord("latency", MEASURING_SECONDS, cached=False))
        self.now_seconds += sum(stage.seconds for stage in stages)
        return replace(outcome, stages=tuple(stages))

    def clock(self) -> float:
        """Return the simulated seconds."""
        return self.now_seconds


@dataclass
class Diary(Watcher):
    """A listener that notes when each candidate was done.

    Args:
        world: Has the clock.
    """

    world: ClockedWorld

    def __post_init__(self) -> None:
        self.seconds: list[float] = []

    def ended(self, record: Any) -> None:
        """Note the time of an evaluation."""
        if record.state == "evaluated":
            self.seconds.append(self.world.now_seconds)


def run(followers: Followers, seed: int, whole: float) -> list[dict[str, Any]]:
    """Search once; return the share after every evaluation that widened the true front, and after the last."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    world = ClockedWorld(seed)
    diary = Diary(world)
    loop = SearchLoop(
        optuna.create_study(directions=[objective.direction for objective in OBJECTIVES]),
        SPACE,
        BOUNDED,
        BASELINE,
        InProcess(world),
        seed=seed,
        followers=followers,
        clock=world.clock,
    )
    loop.run(Budget(trials=100_000, seconds=LONGEST_SECONDS), diary, SPACE.initial_design())
    points, rows, best = np.array(world.found), [], -1.0
    for count, seconds in enumerate(diary.seconds, start=1):
        share = share_of(points[:count], whole)
        if share > best or count == len(points):
            best = share
            rows.append(
                {
                    "followers": followers, "seed": seed, "simulated_seconds": seconds, "evaluations": count,
                    "trained_networks": world.trained[count - 1], "true_hypervolume_share": share,
                }
            )  # fmt: skip
    return rows


def main(seeds: int) -> None:
    """Enumerate, search, write."""
    begin = time.perf_counter()
    whole = hypervolume_of(np.array([true_values(candidate) for candidate in every_candidate()]))
    RESULTS.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    runs = [(followers, seed) for seed, followers in product(range(seeds), VARIANTS)]
    with ProcessPoolExecutor(2) as pool:
        found = pool.map(run, *zip(*runs, strict=True), [whole] * len(runs))
        for (followers, seed), each in zip(runs, found, strict=True):
            rows.extend(each)
            print(f"seed {seed}, followers {followers}: {time.perf_counter() - begin:.0f} s", flush=True)
            if followers == VARIANTS[-1]:
                table = pd.DataFrame(rows)
                table.to_csv(RESULTS / "search_cost.csv", index=False, float_format="%.5f")
                (RESULTS / "search_cost.md").write_text("\n".join(_report(table)), encoding="utf-8")


def _report(table: pd.DataFrame) -> Iterator[str]:
    yield "# What followers are worth where training is dear"
    yield ""
    yield (
        f"A trained network takes {TRAINING_SECONDS:g} simulated seconds, rounding and measuring a candidate "
        f"{MEASURING_SECONDS:g}. Seconds to a share of the true hypervolume are medians over the seeds, in brackets "
        "the best and the worst; a run that ended before counts as infinitely long. Shares at a time are means, with "
        f"the standard error; the last column is the mean difference, seed by seed, to {BESIDE} followers at the end."
    )
    yield ""
    goals = " | ".join(f"seconds to {goal:.0%}" for goal in GOALS)
    times = " | ".join(f"share at {seconds:g} s" for seconds in TIMES_SECONDS)
    yield f"| followers | seeds | {goals} | {times} | evaluations | networks | beside {BESIDE} |"
    yield "|---" * (6 + len(GOALS) + len(TIMES_SECONDS) - 1) + "|"
    plain = _shares(table, BESIDE)
    for followers in VARIANTS:
        yield _row(table, followers, plain)
    yield ""
    yield (
        f"Conditions: python {platform.python_version()}, optuna {version('optuna')}, numpy {version('numpy')}, "
        f"{processor()}; storage in memory; one candidate at a time; first the initial design that trains nothing "
        f"no gates; the bound is accuracy >= 0.85, as in the study fashion; noise 2 % on latency, binomial of 5,000 "
        f"images on accuracy; runs end after {LONGEST_SECONDS:g} simulated seconds; {today()}."
    )
    yield ""


def _row(table: pd.DataFrame, followers: Followers, plain: np.ndarray) -> str:
    runs = [each for _, each in table[table["followers"] == followers].groupby("seed")]
    cells = [str(followers), str(len(runs))]
    cells += [_spread(sorted(_seconds_to(each, goal) for each in runs)) for goal in GOALS]
    shares = _shares(table, followers)
    cells += [_mean_text(column) for column in shares.T]
    cells += [f"{np.mean([each[name].max() for each in runs]):.0f}" for name in ("evaluations", "trained_networks")]
    cells.append("" if followers == BESIDE else _mean_text((shares - plain)[:, -1], sign="+"))
    return "| " + " | ".join(cells) + " |"


def _shares(table: pd.DataFrame, followers: Followers) -> np.ndarray:
    """Return the shares at the fixed times, shape (n_seeds, n_times)."""
    runs = [each for _, each in table[table["followers"] == followers].groupby("seed")]
    return np.array([[_share_at(each, seconds) for seconds in TIMES_SECONDS] for each in runs])


def _share_at(run: pd.DataFrame, seconds: float) -> float:
    return float(run[run["simulated_seconds"] <= seconds]["true_hypervolume_share"].max())


def _seconds_to(run: pd.DataFrame, goal: float) -> float:
    reached = run[run["true_hypervolume_share"] >= goal]["simulated_seconds"]
    return float(reached.iloc[0]) if len(reached) else np.inf


def _mean_text(values: np.ndarray, sign: str = "") -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{100 * np.mean(values):{sign}.1f} ± {100 * error:.1f} %"


def _spread(seconds: list[float]) -> str:
    texts = [f"{each:.0f}" if np.isfinite(each) else "not reached" for each in (*seconds, float(np.median(seconds)))]
    return f"{texts[-1]} ({texts[0]} to {texts[-2]})"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
