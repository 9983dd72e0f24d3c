"""What the search is worth on a real task: karui, karui without its parts, plain Optuna, single axes, and no search.

All searches are variations of one bundled study, without its promotion at the end, have the same wall-clock time each,
and begin with nothing but the trained baseline: a cache of their own. Runs are interleaved: every method of one seed,
in an order of its own, before the next seed. What counts is the hypervolume of size, latency and accuracy (logarithms
of the first two; reference: the baseline's size and latency, its accuracy less ten points): over time by what each
search measured itself, and in the end with the front files of all methods of a seed measured again in one process, on
the test split, in alternation with the baseline. Trials that end after the time is up do not count.

Writes ``results/search_hypervolume.csv`` (a row per candidate), ``search_final.csv`` (a row per run), ``search.md`` and
``search.png``. What stands in the first is not run again, so that the benchmark can be stopped and goes on. Run as
``python benchmarks/search.py --task fashion --train-samples 10000 --minutes 30``; with three seeds that takes about 20
hours. ``--task fashion-small --train-samples 5000 --minutes 5`` takes three.

    --task NAME          digits, fashion or fashion-small (fashion)
    --train-samples N    training images (all)
    --baseline FILE      weights of a baseline that is trained already, on whatever (else trained on these images)
    --minutes M          wall-clock time of each search (30)
    --seeds N            how many seeds (3)
    --first-seed N       the first of them (0)
    --only REGEX         only the methods whose name holds a match
    --folder DIR         working folder (runs/search-<task>)
    --results DIR        where the results go (benchmarks/results)
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pandas as pd
from measuring import RESULTS  # type: ignore[import-not-found]
from search_methods import BASELINE, Lab, Made, Searched, made, searches  # type: ignore[import-not-found]
from search_report import write_report  # type: ignore[import-not-found]
from search_task import TASKS  # type: ignore[import-not-found]

from karui.search.objectives import OBJECTIVES
from karui.search.proposals import SAMPLERS
from karui.search.record import TrialRecord, read_records
from karui.search.statistics.front import hypervolume, pareto_mask
from karui.search.stopping.early_stopping import report_rules
from karui.spaces.artifact import file_digest
from karui.spaces.space import SearchSpace
from karui.studies.results.tables import OBJECTIVE_NAMES
from karui.studies.run import run_study
from karui.studies.storage.folder import RunFolder
from karui.studies.storage.store import open_study
from karui.studies.study_file.spec import StudySpec
from karui.studies.watching.watcher import Watcher

CURVE = ["method", "seed", "seconds", "trials", "hypervolume"]
FINAL = [
    "method", "seed", "hypervolume", "files", "seconds",
    "evaluated", "failed", "gates_stopped", "gates_tested", "gates_missed", "ungated_front_stopped",
]  # fmt: skip
Values = tuple[float, ...]


class SearchIsOverError(Exception):
    """Ends a run where it would measure its own front again: that is done for all methods together."""


class Recorder(Watcher):
    """Notes when each trial of a search ended, in seconds since it began."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.baseline: dict[str, float] = {}

    def searching(self, spec: StudySpec, baseline: dict[str, float], known: Sequence[TrialRecord]) -> None:
        """The search begins."""
        self._begin = time.monotonic()
        self.baseline = baseline

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended."""
        self.seconds[record.number] = time.monotonic() - self._begin

    def phase(self, text: str) -> None:
        """Something begins that takes a while."""
        if text.startswith("measuring the front again"):
            raise SearchIsOverError


def run_search(lab: Lab, method: Searched, folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Search once; return the curve, the front's files, and how the gates did."""
    spec, recorder = lab.study(method, folder, seed, minutes), Recorder()
    with _as_plain_as(method, spec), suppress(SearchIsOverError):
        run_study(spec, out=folder / "run", watcher=recorder)
    run = RunFolder(folder / "run")
    records = read_records(open_study(run.own_storage, spec.name, create=False))
    in_time = [record for record in records if recorder.seconds.get(record.number, 60 * minutes + 1) <= 60 * minutes]
    evaluated = sorted(
        (record for record in in_time if record.outcome is not None), key=lambda record: recorder.seconds[record.number]
    )
    baseline = [recorder.baseline[name] for name in OBJECTIVE_NAMES]
    values = [record.values(OBJECTIVE_NAMES) for record in evaluated]
    front = [evaluated[index] for index in _front(values, baseline)]
    gates = report_rules(in_time, spec.bounds.objectives())
    return {
        "curve": _curve([recorder.seconds[record.number] for record in evaluated], values, baseline),
        "files": [_kept(run.build / "files" / f"{record.key}.onnx", folder) for record in front],
        "front_keys": [record.key for record in front],
        "stopped_keys": [record.key for record in in_time if record.state == "stopped"],
        "seconds": 60 * minutes,
        "evaluated": len(evaluated),
        "failed": sum(record.state == "failed" for record in in_time),
        **{f"gates_{name}": sum(getattr(gate, name) for gate in gates) for name in ("stopped", "tested", "missed")},
    }


@contextmanager
def _as_plain_as(method: Searched, spec: StudySpec) -> Iterator[None]:
    """Search with Optuna's own sampler and no first trials, where the method is that plain."""
    if method.sampler is None:
        yield
        return
    with (
        patch.dict(SAMPLERS, {spec.sampler: method.sampler}),
        patch.object(SearchSpace, "initial design", lambda self: []),
        patch.object(SearchSpace, "trained_initial_design", lambda self: []),
    ):
        yield


def run_made(lab: Lab, method: Made, folder: Path, seed: int) -> dict[str, Any]:
    """Make and measure file after file; return the curve and the front's files."""
    reference = (lab.baseline.stat().st_size, 1.0, lab.validation.reference_accuracy)
    seconds: list[float] = []
    values: list[Values] = []
    paths: list[Path] = []
    begin = time.monotonic()
    for path in method.make(lab, folder, seed):
        values.append(lab.validation.values(path))
        seconds.append(time.monotonic() - begin)
        paths.append(path)
    return {
        "curve": _curve(seconds, values, reference),
        "files": [_kept(paths[index], folder) for index in _front(values, reference)],
        "seconds": time.monotonic() - begin,
        "evaluated": len(values),
    }


def _curve(seconds: Sequence[float], values: Sequence[Values], baseline: Sequence[float]) -> list[tuple[float, float]]:
    """Return after how many seconds the hypervolume of all values so far is how large."""
    return [(at, hypervolume(values[: index + 1], baseline)) for index, at in enumerate(seconds)]


def _front(values: Sequence[Values], baseline: Sequence[float]) -> list[int]:
    """Return which points are on the front and add something to its hypervolume."""
    mask = pareto_mask(values, OBJECTIVES)
    return [index for index, kept in enumerate(mask) if kept and hypervolume([values[index]], baseline) > 0]


def _kept(file: Path, folder: Path) -> str:
    """Keep a file of the front where the rest of the run's files is deleted."""
    kept = folder / "front" / file.name
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, kept)
    return str(kept)


class Runs:
    """Runs that are done, in the results' files and the working folder.

    Args:
        lab: Makes the runs.
        folder: Working folder.
        results: Where the results go.
    """

    def __init__(self, lab: Lab, folder: Path, results: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._curve_csv = results / "search_hypervolume.csv"
        self._final_csv = results / "search_final.csv"

    def run(self, method: Searched | Made, seed: int, minutes: float) -> None:
        """Run a method with a seed, unless its result stands in the table."""
        if method.name in self.done(seed):
            return
        folder = self._place(method.name, seed)
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped in the middle has no meaning
        folder.mkdir(parents=True)
        if isinstance(method, Searched):
            found = run_search(self._lab, method, folder, seed, minutes)
        else:
            found = run_made(self._lab, method, folder, seed)
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
        for rest in ("run", "cache", "build"):
            shutil.rmtree(folder / rest, ignore_errors=True)
        rows = [(method.name, seed, at, count, value) for count, (at, value) in enumerate(found["curve"], start=1)]
        table = pd.DataFrame(rows or [(method.name, seed, found["seconds"], 0, 0.0)], columns=CURVE)
        _add(table, self._curve_csv)
        print(f"{method.name}, seed {seed}: {len(rows)} candidates, {table['hypervolume'].iloc[-1]:.3f}", flush=True)

    def done(self, seed: int) -> set[str]:
        """Return the methods that were run with a seed."""
        return _methods(self._curve_csv, seed)

    def remeasure(self, seed: int) -> None:
        """Measure the front files of all methods of a seed again, in one go, unless that was done."""
        methods = sorted(self.done(seed))
        if not methods or set(methods) == _methods(self._final_csv, seed):
            return
        found = {name: json.loads((self._place(name, seed) / "found.json").read_text()) for name in methods}
        digests = {file: file_digest(Path(file)) for name in methods for file in found[name]["files"]}
        files = {digest: file for file, digest in digests.items()}
        order = sorted(files)
        random.Random(seed).shuffle(order)
        ruler = self._lab.ruler()
        values = {digest: ruler.values(Path(files[digest])) for digest in order}
        reference = (self._lab.baseline.stat().st_size, 1.0, ruler.reference_accuracy)
        stopped = set(found.get("karui", {}).get("stopped_keys", ()))
        rows = []
        for name, run in found.items():
            final = hypervolume([values[digests[file]] for file in run["files"]], reference)
            lost = len(stopped.intersection(run["front_keys"])) if name == "karui, no gates" else None
            row = {"method": name, "seed": seed, "hypervolume": final, "files": len(run["files"])}
            rows.append({**run, **row, "ungated_front_stopped": lost})
        table = pd.DataFrame(rows).reindex(columns=FINAL)
        _add(table, self._final_csv, instead_of=seed)
        print(f"seed {seed}: {len(files)} files measured again", flush=True)

    def _place(self, name: str, seed: int) -> Path:
        return self._folder / f"seed{seed}" / re.sub(r"\W+", "_", name)


def _methods(csv: Path, seed: int) -> set[str]:
    if not csv.exists():
        return set()
    table = pd.read_csv(csv)
    return set(table[table["seed"] == seed]["method"])


def _add(table: pd.DataFrame, csv: Path, instead_of: int | None = None) -> None:
    """Add rows to a table on disk, whole or not at all; instead of those of a seed where one is given."""
    if csv.exists():
        before = pd.read_csv(csv)
        before = before[before["seed"] != instead_of]
        table = pd.concat([before, table]) if len(before) else table
    unfinished = csv.with_suffix(".unfinished")
    table.to_csv(unfinished, index=False, float_format="%.6g")
    unfinished.replace(csv)


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on in a folder whose runs were made otherwise."""
    kept = folder / "settings.json"
    if kept.exists() and (before := json.loads(kept.read_text())) != settings:
        raise SystemExit(f"{folder} holds runs of {before}, not of {settings}: name another --folder and --results")
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings), encoding="utf-8")


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="fashion")
    parser.add_argument("--train-samples", type=int)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = (told.folder or Path("runs") / f"search-{told.task}").absolute()
    settings = {name: getattr(told, name) for name in ("task", "train_samples", "minutes")}
    _check_same(folder, {**settings, "baseline": None if told.baseline is None else file_digest(told.baseline)})
    told.results.mkdir(parents=True, exist_ok=True)
    if told.baseline is not None:
        shutil.copyfile(told.baseline, folder / BASELINE)
    lab = Lab(folder, told.task, told.train_samples)
    runs = Runs(lab, folder, told.results)
    methods = [method for method in (*searches(), *made()) if re.search(told.only, method.name)]
    for seed in range(told.first_seed, told.first_seed + told.seeds):
        order = methods.copy()
        random.Random(seed).shuffle(order)
        for method in order:
            runs.run(method, seed, told.minutes)
        runs.remeasure(seed)
    names = [method.name for method in (*searches(), *made())]
    samples = "all" if told.train_samples is None else f"{told.train_samples:,}"
    own = "" if told.baseline is None else ", of a baseline trained beforehand on all"
    write_report(told.results, names, f"{told.task}, {samples} training images{own}", told.minutes)


if __name__ == "__main__":
    main()
