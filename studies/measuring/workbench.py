"""The bench of a study set up from its file: in the search's own process and in each of its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluators.measurement import Measurement
from ...search.executor import Evaluate
from ...search.outcome import Outcome
from ...search.stopping.pruning_rules import PruningRules
from ...spaces.building.stage_cache import StageCache
from ..storage.folder import RunFolder, explain_cache_errors, explain_os_errors
from ..storage.shared_files import SharedFiles, open_shared_files
from ..study_file.spec import StudySpec
from ..study_file.task_loading import load_task
from ..watching.watcher import WAITING_FOR_BASELINE, WAITING_FOR_MEASURING

_LOADING = "loading the task"

if TYPE_CHECKING:
    from ...evaluators.timing.machine_lock import MachineLock
    from ...spaces.building.build import Builder
    from ...spaces.building.build_settings import BuildSettings
    from ...spaces.candidate import Candidate
    from ...spaces.rounding.settings import QuantizationSettings
    from ...spaces.task import Task
    from .bench import Bench


@dataclass(frozen=True)
class Workbench:
    """Makes, within a worker process, what makes and measures candidates; see
    :data:`karui.studies.workers.process.Factory`.

    Args:
        spec: The study.
        recovery: How its candidates are made, with what a preflight settled.
        quantization: How they are rounded, likewise.
        folder: Its results folder.
        seed: Seed of all training.
        baseline: The baseline's measurements, by name.
        threads: Threads of torch.
        task: The task itself, where the study does not name it.
    """

    spec: StudySpec
    recovery: BuildSettings
    quantization: QuantizationSettings
    folder: RunFolder
    seed: int
    baseline: dict[str, Measurement]
    threads: int
    task: Task | None = None

    def __call__(self, announce: Callable[[str], None]) -> Evaluate:
        """Load the task, set the bench up, and return what evaluates candidates on it.

        Raises:
            KaruiError: Where the task cannot be loaded any more.
        """
        return explained(self.open(announce), self.spec, self.folder)

    def open(self, announce: Callable[[str], None]) -> Bench:
        """Load the task and set the bench up.

        Args:
            announce: Told of each stage that a candidate reaches.

        Raises:
            KaruiError: Where the task cannot be loaded any more.
        """
        from ...evaluators.timing.machine_lock import MachineLock

        with explain_os_errors(self.folder.path, task_runs=True):
            lock = MachineLock()
            lock.told = lambda waits: announce(WAITING_FOR_MEASURING if waits else _LOADING)
            # Loading torch and the task is work as well. Never waits for the folder while it works: who holds the
            # folder may be waiting to measure.
            with lock.working():
                import torch

                torch.set_num_threads(self.threads)
                task = prepare_task(self.spec, self.task)
            with self.folder.alone("baseline", lambda: announce(WAITING_FOR_BASELINE)), lock.working():
                bench = self._bench(task, lock, announce)
            lock.told = bench.tell_wait
            return bench

    def _bench(self, task: Task, lock: MachineLock, announce: Callable[[str], None]) -> Bench:
        from ...evaluators.row_scores import RowStore
        from ...spaces.building.baseline import prepare_baseline
        from .bench import Bench

        begun = str(self.baseline["latency_ms"].conditions.get("reference_digest", ""))
        artifact = prepare_baseline(task, self.recovery, self.folder.path, seed=self.seed, began_with=begun)
        files = open_shared_files(self.spec.artifacts, self.spec.folder)
        bench = Bench(task, artifact, self.spec, lock, announce, RowStore(self.folder.rows))
        begin_bench(bench, self.spec, self.recovery, self.quantization, self.folder, self.seed, self.baseline, files)
        return bench


def explained(bench: Bench, spec: StudySpec, folder: RunFolder) -> Evaluate:
    """Return how a bench evaluates, what the disk lacks told as such: a full one is no fault of the candidate."""
    cache = cache_of(spec, folder).folder

    def evaluate(candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        with explain_os_errors(folder.path, task_runs=True), explain_cache_errors(cache):
            return bench.evaluate(candidate, gates)

    return evaluate


def prepare_task(spec: StudySpec, task: Task | None) -> Task:
    """Return the task, or load the one that the study names, with its data and functions guarded.

    Raises:
        TaskError: Where it cannot be loaded.
        KaruiError: Where a runtime of the study cannot read the files that it makes.
    """
    from .guard import guarded

    _check_runtimes(spec)
    if task is None:
        task = load_task(spec.task, spec.folder, spec.task_options)
    task = guarded(task)
    task.model.cpu()  # wherever the user left it: training moves it, everything else runs here
    return task


def _check_runtimes(spec: StudySpec) -> None:
    from ...evaluators.runtimes.runtime import check_reads
    from ...spaces.artifact import USUAL_FORMAT

    check_reads(spec.latency.runtime, USUAL_FORMAT, where="runtime in [latency]")
    for target in spec.target or ():
        if target.runtime is not None:
            check_reads(target.runtime, USUAL_FORMAT, where=f"runtime of the target {target.name!r}")


def cache_of(spec: StudySpec, folder: RunFolder) -> StageCache:
    """Return the cache of trained networks of a study with that results folder."""
    told = spec.cache.folder
    place = folder.cache if told is None else spec.folder / Path(told).expanduser()
    return StageCache(place, int(spec.cache.gigabytes * 1e9))


def begin_bench(
    bench: Bench,
    spec: StudySpec,
    recovery: BuildSettings,
    quantization: QuantizationSettings,
    folder: RunFolder,
    seed: int,
    baseline: dict[str, Measurement],
    files: SharedFiles | None,
) -> None:
    """Give the bench what it needs to make and measure candidates."""
    bench.begin(baseline, _builder(bench, spec, recovery, quantization, folder, seed), folder.outcomes, files)


def _builder(
    bench: Bench,
    spec: StudySpec,
    recovery: BuildSettings,
    quantization: QuantizationSettings,
    folder: RunFolder,
    seed: int,
) -> Builder:
    from ...spaces.building.build import Builder

    return Builder(
        bench.task,
        recovery,
        folder.build,
        seed,
        quantization,
        axes=spec.space.axes,
        cache=cache_of(spec, folder),
        between_steps=bench.lock.let_pass,
        on_stage=bench.reach,
    )
