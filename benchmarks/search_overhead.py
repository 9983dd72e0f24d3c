"""What the search itself costs per trial, beside bare Optuna, and how long a large study takes to go on.

A study of ``known_world`` is filled by karui's loop with random candidates. Its first 100, 1,000 and 10,000 trials
are put into each storage; from there karui's loop goes on for a few trials, in alternation with bare Optuna (ask,
suggest, tell; no attributes, no records) on a second copy, opened the same way, with the same sampler, distributions
and values. Making and measuring take next to nothing here and are taken off. Followers are off: a follower's network
is not sampled, which would flatter karui. Going on is the time from opening the storage until the loop would ask for
its first trial; for bare Optuna, with a storage of its own, until all trials are read.

Writes ``results/search_overhead.csv``, a row per size, storage, sampler and side, and ``results/search_overhead.md``.
Run as ``python benchmarks/search_overhead.py``; takes about ten minutes on one quiet core.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from known_world import BASELINE, BOUNDED, SPACE, World  # type: ignore[import-not-found]
from measuring import RESULTS, processor, today  # type: ignore[import-not-found]
from numpy.typing import NDArray
from optuna.distributions import distribution_to_json
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from karui.search.executor import InProcess
from karui.search.loop import Budget, SearchLoop
from karui.search.proposals import SamplerName, make_sampler
from karui.search.record import Outcome, TrialRecord
from karui.search.runner import Runner
from karui.search.stopping.pruning_rules import PruningRules
from karui.search.trial_objective import TrialObjective
from karui.spaces.candidate import Candidate
from karui.studies.storage.store import open_study
from karui.studies.watching.watcher import Watcher

SIZES = (100, 1_000, 10_000)
STORAGES = ("memory", "journal", "sqlite")
SAMPLERS: tuple[SamplerName, ...] = ("random", "tpe")
TRIALS_IN_WINDOW = 30
LONGEST_WINDOW_S = 60.0
DIRECTIONS = [objective.direction for objective in BOUNDED]
NAME = "known"
SIDES = ("karui", "bare optuna")
Clocks = NDArray[np.float64]
"""Seconds of the wall clock, and of the processor."""


def now() -> Clocks:
    """Return the wall clock and the processor time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class TimedWorld:
    """The made-up world, which adds up how long it took itself."""

    def __init__(self) -> None:
        self._world = World(seed=0)
        self.seconds = np.zeros(2)

    def __call__(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        """Return the outcome of a candidate."""
        begin = now()
        outcome: Outcome = self._world(candidate)
        self.seconds = self.seconds + now() - begin
        return outcome


class WindowIsOverError(Exception):
    """Ends the loop where a window has taken long enough."""


@dataclass
class Alternation(Watcher):
    """A listener that times the loop, and runs a trial of bare Optuna after each of its trials."""

    bare: optuna.Study
    world: TimedWorld
    bare_world: TimedWorld = field(default_factory=TimedWorld)
    seconds: dict[str, list[Clocks]] = field(default_factory=lambda: {side: [] for side in SIDES})
    begun_at: Clocks | None = None

    def start(self) -> None:
        """Begin a trial."""
        self.world.seconds = np.zeros(2)
        self._last = now()
        if self.begun_at is None:
            self.begun_at = self._last

    def begun(self, number: int, candidate: Candidate) -> None:
        """Do nothing."""

    def ended(self, record: TrialRecord) -> None:
        """Note how long the loop's trial took, and run a bare one."""
        self.seconds["karui"].append(now() - self._last - self.world.seconds)
        self._run_bare()
        assert self.begun_at is not None
        if (now() - self.begun_at)[0] > LONGEST_WINDOW_S or len(self.seconds["karui"]) >= TRIALS_IN_WINDOW:
            raise WindowIsOverError
        self.start()

    def _run_bare(self) -> None:
        begin = now()
        self.bare_world.seconds = np.zeros(2)
        trial = self.bare.ask()
        outcome = self.bare_world(SPACE.suggest(trial))
        self.bare.tell(trial, [outcome.measurements[objective.name].value for objective in BOUNDED])
        self.seconds["bare optuna"].append(now() - begin - self.bare_world.seconds)


class TimedLoop(SearchLoop):
    """The loop, with its window begun when it has taken in what was there."""

    alternation: Alternation | None = None

    def _runner(self, objective: TrialObjective, budget: Budget, recover: Callable[[], object]) -> Runner:
        if self.alternation is not None:
            self.alternation.start()
        return super()._runner(objective, budget, recover)


def make_loop(study: optuna.Study, world: TimedWorld, sampler: SamplerName) -> TimedLoop:
    """Return karui's loop over the study."""
    return TimedLoop(study, SPACE, BOUNDED, BASELINE, InProcess(world), sampler=sampler, seed=1)


def filled_trials(count: int) -> list[FrozenTrial]:
    """Return trials as karui's loop leaves them."""
    study = optuna.create_study(directions=DIRECTIONS)
    SearchLoop(study, SPACE, BOUNDED, BASELINE, InProcess(World(seed=0)), sampler="random").run(
        Budget(count), Watcher()
    )
    return study.get_trials(deepcopy=False)[:count]


def fill(storage: str, path: Path, trials: Sequence[FrozenTrial]) -> None:
    """Put trials into a new storage of a kind; memory is filled when it is opened."""
    if storage == "sqlite":
        open_study(f"sqlite:///{path}", NAME, create=True)
        with closing(sqlite3.connect(path)) as database, database:
            _insert(database, trials)
        with closing(sqlite3.connect(path)) as database:
            # The file is copied next: everything must stand in it, nothing in the log beside it.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    elif storage == "journal":
        optuna.create_study(storage=_journal(path), study_name=NAME, directions=DIRECTIONS).add_trials(trials)


def _insert(database: sqlite3.Connection, trials: Sequence[FrozenTrial]) -> None:
    """Write trials as Optuna's schema has them, at once: one by one takes minutes."""
    for trial_id, trial in enumerate(trials, 1):
        times = str(trial.datetime_start), str(trial.datetime_complete)
        row: tuple[Any, ...] = (trial_id, trial.number, 1, trial.state.name, *times)
        database.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?)", row)
        for name, distribution in trial.distributions.items():
            inner = distribution.to_internal_repr(trial.params[name])
            row = (None, trial_id, name, inner, distribution_to_json(distribution))
            database.execute("INSERT INTO trial_params VALUES (?, ?, ?, ?, ?)", row)
        for objective, value in enumerate(trial.values or ()):
            row = (None, trial_id, objective, value, "FINITE")
            database.execute("INSERT INTO trial_values VALUES (?, ?, ?, ?, ?)", row)
        for table, attributes in (("user", trial.user_attrs), ("system", trial.system_attrs)):
            for key, value in attributes.items():
                row = (None, trial_id, key, json.dumps(value))
                database.execute(f"INSERT INTO trial_{table}_attributes VALUES (?, ?, ?, ?)", row)


def _journal(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def open_again(storage: str, path: Path, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Open a filled storage as a new process would."""
    if storage == "sqlite":
        return open_study(f"sqlite:///{path}", NAME, create=True)
    if storage == "journal":
        return optuna.load_study(storage=_journal(path), study_name=NAME)
    study = optuna.create_study(directions=DIRECTIONS)
    study.add_trials(trials)
    return study


def open_bare(storage: str, path: Path, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Open a filled storage without karui."""
    if storage == "sqlite":
        return optuna.load_study(storage=f"sqlite:///{path}", study_name=NAME)
    return open_again(storage, path, trials)


def measure(storage: str, trials: Sequence[FrozenTrial], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one storage of one size: going on, then a window for each sampler."""
    kept = folder / f"{storage} {len(trials)}"
    fill(storage, kept, trials)
    for sampler in SAMPLERS:
        paths = {side: folder / f"{storage} {sampler} {side}" for side in SIDES}
        for path in paths.values():
            if kept.exists():
                shutil.copy(kept, path)
        world = TimedWorld()
        begin = now()
        study = open_again(storage, paths["karui"], trials)
        loop = make_loop(study, world, sampler)
        loop.run(Budget(0), Watcher())
        going_on = {"karui": now() - begin}
        begin = now()
        open_bare(storage, paths["bare optuna"], trials).get_trials(deepcopy=False)
        going_on["bare optuna"] = now() - begin
        bare = open_again(storage, paths["bare optuna"], trials)
        bare.sampler = make_sampler(sampler, 1)
        alternation = Alternation(bare, world)
        loop.alternation = alternation
        with suppress(WindowIsOverError):
            loop.run(Budget(10**9), alternation)
        for side in SIDES:
            wall, processor_time = np.median(alternation.seconds[side], axis=0)
            yield {
                "trials": len(trials), "storage": storage, "sampler": sampler, "what": side,
                "ms_per_trial": 1e3 * wall, "cpu_ms_per_trial": 1e3 * processor_time,
                "measured": len(alternation.seconds[side]),
                "resume_s": going_on[side][0] if storage != "memory" else float("nan"),
                "resume_cpu_s": going_on[side][1] if storage != "memory" else float("nan"),
            }  # fmt: skip


def main() -> None:
    """Fill, measure, write."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begin = time.perf_counter()
    trials = filled_trials(max(SIZES))
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for storage in STORAGES:
            with tempfile.TemporaryDirectory() as folder:
                for row in measure(storage, trials[:size], Path(folder)):
                    print(row, flush=True)
                    rows.append(row)
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "search_overhead.csv", index=False, float_format="%.5g")
    (RESULTS / "search_overhead.md").write_text(report(table, time.perf_counter() - begin), encoding="utf-8")


def report(table: pd.DataFrame, seconds: float) -> str:
    """Return the readable table: karui beside bare Optuna, wall clock and processor time."""
    lines = [
        "# What the search costs per trial",
        "",
        "Milliseconds per trial, median of the window: wall clock, and in brackets processor time. Goal: under 100 ms "
        "at 1,000 trials in SQLite (the default) and at most 20 ms above bare Optuna; going on at 10,000 under 5 s.",
        "",
        "| trials | storage | sampler | karui | bare Optuna | karui above it | going on, s: karui | bare Optuna |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (size, storage, sampler), rows in table.groupby(["trials", "storage", "sampler"], sort=False):
        karui, bare = (rows[rows["what"] == side].iloc[0] for side in SIDES)
        cells = [f"{size:,}", storage, sampler]
        cells += [f"{each['ms_per_trial']:.3g} ({each['cpu_ms_per_trial']:.3g})" for each in (karui, bare)]
        above = (karui["ms_per_trial"] - bare["ms_per_trial"], karui["cpu_ms_per_trial"] - bare["cpu_ms_per_trial"])
        cells.append(f"{above[0]:.3g} ({above[1]:.3g})")
        cells += [
            "-" if np.isnan(each["resume_s"]) else f"{each['resume_s']:.3g} ({each['resume_cpu_s']:.3g})"
            for each in (karui, bare)
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "## Goals", "", *_goals(table)]
    lines += [
        "",
        f"Conditions: optuna {version('optuna')}, sqlalchemy {version('sqlalchemy')}; {processor()}; at most "
        f"{TRIALS_IN_WINDOW} trials a window, in alternation; {today()}; {seconds / 60:.0f} minutes in all. "
        "The machine was shared: compare wall clocks within a row only, and trust processor time, which leaves out "
        "waiting for the disk.",
        "",
    ]
    return "\n".join(lines)


def _goals(table: pd.DataFrame) -> Iterator[str]:
    """Yield one line a goal: the sampler and the storage that a study has where it says nothing else."""
    own = table[(table["storage"] == "sqlite") & (table["sampler"] == "tpe")]
    karui, bare = (own[own["what"] == side].set_index("trials") for side in SIDES)
    ms, above = karui["ms_per_trial"], karui["ms_per_trial"] - bare["ms_per_trial"]
    yield f"- Under 100 ms at 1,000 trials: {_verdict(ms[1_000] < 100)}, {ms[1_000]:.0f} ms."
    yield f"- At most 20 ms of that above bare Optuna: {_verdict(above[1_000] <= 20)}, {above[1_000]:.0f} ms."
    times, bare_times = (float(each[10_000] / each[1_000]) for each in (ms, bare["ms_per_trial"]))
    yield (
        f"- Slower than linear growth from 1,000 to 10,000 trials, ten times as many: {_verdict(times < 10)}, "
        f"{times:.1f} times as long a trial (bare Optuna: {bare_times:.1f} times)."
    )
    seconds, bare_seconds = (float(each["resume_s"][10_000]) for each in (karui, bare))
    told = f"{seconds:.1f} s; Optuna's own reading of the file alone takes {bare_seconds:.1f} s"
    yield f"- Going on at 10,000 under 5 s: {_verdict(seconds < 5)}, {told}."


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


if __name__ == "__main__":
    main()
