"""One study from its file to its front: the place where making, measuring, deciding and keeping are put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from ..errors import KaruiError
from ..evaluators.measurement import Measurement
from ..search.gatekeeper import Gatekeeper, GateReport, report_gates
from ..search.loop import Budget, SearchLoop
from ..search.record import TrialRecord, read_records
from ..spaces.artifact import Artifact
from ..spaces.stage_cache import StageCache
from .certify import certify, front_table, write_descriptions
from .folder import RunFolder, explain_cache_errors, explain_os_errors
from .spec import GatesSpec, StudySpec, change_spec, check_space, load_spec
from .store import check_meaning, explain_storage_errors, note_baseline, open_study, read_baseline, training_seed
from .tables import OBJECTIVE_NAMES, front_records, trials_table, write_csv
from .task_loading import load_task
from .watcher import Silence, Watcher

if TYPE_CHECKING:
    import pandas as pd

    from ..spaces.task import Task
    from .bench import Bench


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    Args:
        folder: The results folder.
        front: One row per point of the re-measured front, as in ``front.csv``.
        trials: One row per trial, as in ``trials.csv``.
        baseline: The baseline's measurements by name.
        ending: Why the search ended, in one sentence.
        nearest: Where no trial kept every bound: the evaluated trials that broke them least, best first.
        gates: How many candidates each gate stopped, and how often it was wrong.
    """

    folder: Path
    front: pd.DataFrame
    trials: pd.DataFrame
    baseline: dict[str, Measurement]
    ending: str
    nearest: tuple[TrialRecord, ...] = ()
    gates: tuple[GateReport, ...] = ()


def resolve_spec(
    study: str | Path | StudySpec,
    *,
    trials: int | None = None,
    hours: float | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    gates: bool = True,
) -> StudySpec:
    """Read the study and put in what the caller gives instead of what the file says.

    Raises:
        StudyFileError: Where the study cannot be read, or what is given has no meaning.
    """
    spec = study if isinstance(study, StudySpec) else load_spec(study)
    given = {"trials": trials, "hours": hours, "seed": seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not gates:
        changes["gates"] = GatesSpec(stop_at=())
    if data is not None:
        changes["task_options"] = {**spec.task_options, "data_dir": str(data)}
    if cache is not None:
        changes["cache"] = {**spec.cache.model_dump(), "folder": str(Path(cache).absolute())}
    return change_spec(spec, changes, f"study {spec.name}, as it is called") if changes else spec


def run_study(
    study: str | Path | StudySpec,
    *,
    task: Task | None = None,
    trials: int | None = None,
    hours: float | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    gates: bool = True,
    watcher: Watcher | None = None,
) -> StudyResult:
    """Search a study, or go on with it, and re-measure its front.

    Args:
        study: Path of a study file, name of a bundled study, or a specification made in Python.
        task: The task itself, instead of the one that the study names.
        trials: Candidates to evaluate in all, instead of what the study says.
        hours: Longest time of this run, instead of what the study says.
        out: Results folder; ``runs/<name>`` where left out.
        storage: SQLAlchemy URL of Optuna's storage; ``study.db`` in the results folder where left out.
        seed: Seed, instead of what the study says.
        data: Folder of the data, handed to the task's function as ``data_dir``.
        cache: Folder of trained networks that studies share, instead of what the study says.
        gates: Whether candidates are stopped as the study says; False to evaluate every one to its end.
        watcher: Is told how it goes.

    Raises:
        KaruiError: On anything the user can put right; what was found before is kept.
        KeyboardInterrupt: When interrupted; the trials so far are kept and ``trials.csv`` is written.
    """
    spec = resolve_spec(study, trials=trials, hours=hours, seed=seed, data=data, cache=cache, gates=gates)
    check_space(spec, spec.name)
    watcher = watcher or Silence()
    folder = RunFolder(Path(out) if out is not None else Path("runs") / spec.name)
    folder.prepare()
    with folder.lock():
        storage = storage or folder.own_storage
        session = Session(spec, folder, open_study(storage, spec.name, create=True), storage, watcher)
        return session.run(task)


@dataclass
class Session:
    """One run of one study."""

    spec: StudySpec
    folder: RunFolder
    study: optuna.Study
    storage: str
    watcher: Watcher

    def run(self, task: Task | None) -> StudyResult:
        """Search and re-measure; see :func:`run_study`."""
        cache = cache_of(self.spec, self.folder)
        with (
            explain_storage_errors(self.storage),
            explain_os_errors(self.folder.path),
            explain_cache_errors(cache.folder),
        ):
            check_meaning(self.study, self.spec.meaning(), self.spec.name)
            cache.trim()  # before anything dear: what killed searches left goes, and a folder of no use is told
            bench = self._prepare(task, cache)
            try:
                ending = self._search(bench)
            finally:
                self._write_trials()
            return self._finish(bench, ending)

    def _prepare(self, task: Task | None, cache: StageCache) -> Bench:
        from ..spaces.axis_reach import describe_reach
        from ..spaces.baseline import prepare_baseline
        from ..spaces.build import Builder
        from ..spaces.reach import check_reach
        from .bench import Bench
        from .guard import guarded

        self.watcher.phase("loading the task")
        if task is None:
            task = load_task(self.spec.task, self.spec.folder, self.spec.task_options)
        task = guarded(task)
        task.model.cpu()  # wherever the user left it: training moves it, everything else runs here
        check_reach(self.spec.space, task)
        self.watcher.phase("preparing the baseline")
        seed = training_seed(self.study, self.spec.seed)
        artifact = prepare_baseline(
            task,
            self.spec.recovery,
            self.folder.path,
            seed=seed,
            cache=cache,
            on_epoch=lambda epoch, metric: self.watcher.phase(
                f"training the baseline, epoch {epoch} of {task.baseline_epochs}: {task.metric_name} {metric:.4f}"
            ),
        )
        for sentence in describe_reach(self.spec.space, task, artifact.path):
            self.watcher.note(sentence)
        bench = Bench(task, artifact, self.spec)
        self.watcher.phase("measuring the baseline")
        known = read_baseline(self.study)
        if known is None:
            note_baseline(self.study, artifact.digest, bench.measure_baseline())
            known = read_baseline(self.study)
        _check_same_baseline(known, artifact, self.folder)
        builder = Builder(
            task, self.spec.recovery, self.folder.build, seed, self.spec.quantization, self.spec.stages, cache
        )
        bench.begin(known[1] if known else {}, builder)
        return bench

    def _search(self, bench: Bench) -> str:
        from ..spaces.equivalence import Equivalence

        baseline = {name: bench.baseline[name].value for name in OBJECTIVE_NAMES}
        objectives, gates = self.spec.bounds.objectives(), self.spec.gates
        loop = SearchLoop(
            study=self.study,
            space=self.spec.space,
            objectives=objectives,
            baseline=baseline,
            evaluate=bench.evaluate,
            sampler=self.spec.sampler,
            seed=self.spec.seed,
            followers=self.spec.followers,
            canonical=Equivalence(bench.task, self.spec.space, self.spec.recovery.channel_multiple),
            gatekeeper=Gatekeeper(objectives, baseline, gates.stop_at, gates.audit, self.spec.seed)
            if gates.stop_at
            else None,
        )
        known = read_records(self.study)
        bench.remember(known)
        self.watcher.searching(self.spec, baseline, known)
        seconds = None if self.spec.hours is None else 3600 * self.spec.hours
        return loop.run(Budget(self.spec.trials, seconds), self.watcher, self.spec.space.landmarks())

    def _write_trials(self) -> None:
        write_csv(trials_table(read_records(self.study)), self.folder.trials_csv)

    def _finish(self, bench: Bench, ending: str) -> StudyResult:
        records = read_records(self.study)
        front = front_records(records)
        self.watcher.phase(f"measuring the front again, {len(front)} files, on the test split")
        bench.measure_baseline_on_test()
        note_baseline(self.study, bench.artifact.digest, bench.baseline)
        points, lost = certify(
            front, [bench.test_latency, bench.load, bench.test_accuracy], bench.find_artifact, self.folder
        )
        write_descriptions(points, self.spec.name, bench.baseline)
        table = front_table(points, bench.baseline)
        write_csv(table, self.folder.front_csv)
        trials = trials_table(records)
        self._plot(table, trials, bench)
        ending = "; ".join([ending, *lost])
        nearest = () if points else nearest_records(records, self.spec, bench.baseline)
        gates = report_gates(records, self.spec.bounds.objectives())
        return StudyResult(self.folder.path, table, trials, bench.baseline, ending, nearest, gates)

    def _plot(self, front: pd.DataFrame, trials: pd.DataFrame, bench: Bench) -> None:
        from .plots import front_numbers, save_front

        if len(front):
            values = {name: item.value for name, item in bench.baseline.items()}
            numbers = front_numbers(front, trials, values, bench.task.metric_name)
            title = (
                f"{self.spec.name}: {len(front)} files on the front, "
                f"up to {front['size_x'].max():.0f}x smaller and {front['speed_x'].max():.1f}x faster"
            )
            save_front(self.folder.front_png, numbers, title)


def cache_of(spec: StudySpec, folder: RunFolder) -> StageCache:
    """Return the cache of trained networks of a study with that results folder."""
    told = spec.cache.folder
    place = folder.cache if told is None else spec.folder / Path(told).expanduser()
    return StageCache(place, int(spec.cache.gigabytes * 1e9))


def nearest_records(
    records: Sequence[TrialRecord], spec: StudySpec, baseline: dict[str, Measurement], count: int = 3
) -> tuple[TrialRecord, ...]:
    """Return the evaluated trials that break the bounds least, by the sum of their relative violations."""

    def violation(record: TrialRecord) -> float:
        pairs = zip(spec.bounds.objectives(), record.values(OBJECTIVE_NAMES), strict=True)
        broken = (objective.violation(value, baseline[objective.name].value) for objective, value in pairs)
        return math.fsum(max(0.0, share) for share in broken if share is not None)

    evaluated = [record for record in records if record.outcome is not None]
    return tuple(sorted(evaluated, key=violation)[:count])


def describe_values(record: TrialRecord) -> str:
    """Return one line with a trial's candidate and its three values."""
    size, latency, accuracy = record.values(OBJECTIVE_NAMES)
    name = record.candidate.describe() if record.candidate else ""
    return f"trial {record.number}, {name}: {size / 1e3:.1f} KB, {latency:.4g} ms, accuracy {accuracy:.4f}"


def _check_same_baseline(known: tuple[str, Any] | None, artifact: Artifact, folder: RunFolder) -> None:
    if known is not None and known[0] != artifact.digest:
        raise KaruiError(
            "the task's model is not the one that this study began with",
            where=str(folder.path),
            expected=f"a baseline file of sha256 {known[0][:16]}…",
            got=f"sha256 {artifact.digest[:16]}…",
            remedy="restore the model, or start anew with another --out",
        )
