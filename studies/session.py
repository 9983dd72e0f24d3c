"""One study from its file to its front: the place where making, measuring, deciding and keeping are put together."""

from __future__ import annotations

import math
import platform
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import optuna

from .. import __version__
from ..errors import CandidateFailure, KaruiError, describe_error
from ..evaluators.targets.telling import tell_nobody
from ..search.executor import Executor, InProcess
from ..search.heartbeat import this_machine
from ..search.loop import Budget, SearchLoop
from ..search.record import read_records
from ..search.stopping.early_stopping import PruningPolicy
from ..search.trial_objective import TrialObjective
from ..spaces.artifact import Artifact
from ..spaces.building.stage_cache import StageCache
from .certifying.finish_time import FinishTime
from .certifying.idle_measuring import IdleMeasuring
from .certifying.pairing import Pairing
from .certifying.remeasuring import NOTHING_EARLIER
from .finish import Finish
from .measuring.workbench import Workbench, begin_bench, cache_of, explained, prepare_task
from .results.result import StudyResult
from .results.tables import trials_table, write_csv
from .storage.folder import RunFolder, explain_cache_errors, explain_os_errors
from .storage.shared_baseline import SharedBaseline, agreed_baseline, check_same_baseline
from .storage.shared_files import SharedFiles
from .storage.storage_errors import explain_storage_errors
from .storage.storage_turns import alone_on_server, turns_of
from .storage.study_notes import agreed_float_operators, agreed_multiple, check_meaning, digest_begun, training_seed
from .study_file.spec import StudySpec
from .watching.watcher import WAITING_FOR_BASELINE, WAITING_FOR_MEASURING, WAITING_FOR_TURN, WAITING_FOR_TWIN, Watcher
from .workers.pool import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..evaluators.timing.machine_lock import MachineLock
    from ..search.runner import Callback
    from ..search.statistics.noise import Differences
    from ..search.turns import Turns
    from ..spaces.task import Task
    from .measuring.bench import Bench
    from .preflight.verdicts import Findings


@dataclass
class Session:
    """One run of one study.

    Args:
        spec: The study.
        folder: Its results folder.
        study: Optuna's.
        storage: URL of the storage that it lies in.
        watcher: Is told how it goes.
        files: Where files that several machines share are kept.
        sampler: The caller's own, instead of the one that the study names.
        callbacks: The caller's own, called after each trial.
    """

    spec: StudySpec
    folder: RunFolder
    study: optuna.Study
    storage: str
    watcher: Watcher
    files: SharedFiles | None = None
    sampler: optuna.samplers.BaseSampler | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        """Begin with what the study says, before a preflight settles what that leaves open."""
        self.recovery = self.spec.recovery
        self.quantization = self.spec.quantization
        self._saying = "starting"
        self._began = time.monotonic()
        self._loading_seconds = 0.0

    def run(self, task: Task | None) -> StudyResult:
        """Search and re-measure; see :func:`run_study`."""
        ending = "stopped"
        cache = cache_of(self.spec, self.folder)
        try:
            with (
                explain_storage_errors(self.storage),
                explain_os_errors(self.folder.path, task_runs=True),
                explain_cache_errors(cache.folder),
            ):
                self.watcher.happened("search begun", **self._conditions())
                result = self._run(task, cache)
            ending = result.ending
            return result
        except KaruiError as error:
            ending = str(error)
            raise
        except KeyboardInterrupt as error:
            ending = f"stopped by {error}" if str(error) else ending
            raise
        except Exception as error:
            ending = describe_error(error)
            raise
        finally:
            with suppress(OSError):  # a full disk, which is being told already
                self.watcher.happened("search ended", reason=ending)

    def objective(self, task: Task | None) -> TrialObjective:
        """Prepare all, and return the study as an Optuna objective that makes and measures in this process."""
        cache = cache_of(self.spec, self.folder)
        with (
            explain_storage_errors(self.storage),
            explain_os_errors(self.folder.path, task_runs=True),
            explain_cache_errors(cache.folder),
        ):
            bench, _ = self._begin(task, cache)
        bench.remember(read_records(self.study))
        return TrialObjective(executor=self._here(bench), listener=self.watcher, **self._decisions(bench))

    def _begin(self, task: Task | None, cache: StageCache) -> tuple[Bench, int]:
        """Return the bench, and the seed of all training, once no other search is at it."""

        def told() -> None:
            self.watcher.phase(WAITING_FOR_BASELINE)

        with (
            self.folder.alone("baseline", told),
            alone_on_server(self.storage, f"baseline of {self.spec.name}", told),
        ):
            check_meaning(self.study, self.spec.meaning(), self.spec.usual(), self.spec.name)
            cache.trim()  # before anything dear: what killed searches left goes, and a folder of no use is told
            return self._prepare(task, cache)

    def _run(self, task: Task | None, cache: StageCache) -> StudyResult:
        bench, seed = self._begin(task, cache)
        workbench = self._workbench(bench, seed, task)
        with closing(bench.targets):
            idle = self._idle(bench)
            try:
                ending = self._search(bench, self._executor(bench, workbench), idle)
            finally:
                self._write_trials()
            bench.announce, bench.tell, bench.lock.told = tell_nobody, self.watcher.phase, self._waits
            self._saying = "measuring the front again"
            waits = "waiting while another search measures the front again"
            with self.folder.alone("front", lambda: self.watcher.phase(waits)) as waited:
                earlier = NOTHING_EARLIER if idle is None else idle.taken
                finish = Finish(self.spec, self.folder, self.study, self.watcher, bench, earlier, self._left)
                return finish.run(workbench, ending, waited)

    def _left(self) -> float:
        """Return how many seconds this run has left, from its very begin to the last table."""
        if self.spec.hours is None:
            return math.inf
        return 3600 * self.spec.hours - (time.monotonic() - self._began)

    def _conditions(self) -> dict[str, Any]:
        names = ("torch", "onnxruntime", "optuna")
        return {
            "study": self.spec.name,
            "host": platform.node(),
            "machine": this_machine(),
            "seed": self.spec.seed,
            "workers": self.spec.workers,
            "trials": self.spec.trials,
            "hours": self.spec.hours,
            "versions": {"karui": __version__, "python": platform.python_version()}
            | {name: version(name) for name in names},
        }

    def _prepare(self, task: Task | None, cache: StageCache) -> tuple[Bench, int]:
        """Return the bench, and the seed of all training."""
        from ..evaluators.row_scores import RowStore
        from ..evaluators.timing.lock_folder import describe_folder
        from ..evaluators.timing.machine_lock import MachineLock
        from ..spaces.building.axis_coverage import describe_coverage
        from ..spaces.building.task_fit import check_fit
        from ..spaces.task_digest import unshared
        from .measuring.bench import Bench

        self._say("loading the task")
        if told := describe_folder():
            self.watcher.note(told)
        lock = MachineLock()
        lock.told = self._waits
        with lock.working():
            begin = time.monotonic()
            task = prepare_task(self.spec, task)
            self._loading_seconds = 5.0 + 2 * (time.monotonic() - begin)  # torch is loaded as well, by a new process
            check_fit(self.spec.space, task)
        self._say("preparing the baseline")
        seed = training_seed(self.study, self.spec.seed)
        artifact = self._baseline(task, seed, lock, cache)
        check_same_baseline(self.study, artifact, self.folder.path)  # before anything that takes long
        for sentence in describe_coverage(self.spec.space, task, artifact.path):
            self.watcher.note(sentence)
        bench = Bench(task, artifact, self.spec, lock, rows=RowStore(self.folder.rows))
        bench.tell = self.watcher.phase
        found = self._preflight(bench)
        self._say("measuring the baseline")
        _, known = agreed_baseline(self.study, artifact.digest, bench.measure_baseline, self._turns)
        check_same_baseline(self.study, artifact, self.folder.path)
        for told in bench.targets.differences(known):
            self.watcher.note(told)
        bench.targets.close()  # while workers measure, nothing of this process has to stay in a device's memory
        self._settle(found)
        begin_bench(bench, self.spec, self.recovery, self.quantization, self.folder, seed, known, self.files)
        if (told_once := unshared(task)) is not None:
            self.watcher.note(told_once)
        return bench, seed

    def _say(self, text: str) -> None:
        """Tell what takes a while now, and keep it for the time after a wait."""
        self._saying = text
        self.watcher.phase(text)

    def _waits(self, waits: bool) -> None:
        self.watcher.phase(WAITING_FOR_MEASURING if waits else self._saying)

    def _settle(self, found: Findings | None) -> None:
        """Put what the preflight found where the study leaves it to that."""
        if self.spec.recovery.channel_multiple == "auto":
            liked = self.spec.recovery.multiple if found is None else found.multiple
            multiple = agreed_multiple(self.study, liked, self._turns)
            self.recovery = self.spec.recovery.model_copy(update={"channel_multiple": multiple})
            self.watcher.note(f"channels are left in multiples of {multiple}")
        if self.spec.quantization.float_operators == "auto":
            faster = () if found is None else found.float_operators
            kinds = agreed_float_operators(self.study, faster, self._turns)
            self.quantization = self.spec.quantization.model_copy(update={"float_operators": kinds})
            if kinds:
                self.watcher.note(f"beside 8-bit activations these operators stay float32: {', '.join(kinds)}")

    def _preflight(self, bench: Bench) -> Findings | None:
        """Say what the axes that are searched cannot win here, and how candidates would train faster."""
        from .preflight.preflight import preflight_of
        from .preflight.preflight_sentences import sentences

        if not self.spec.preflight.layers:
            return None
        try:
            found = preflight_of(bench, self.spec, self.folder, lambda text: self._say(f"preflight: {text}"))
        except CandidateFailure as failure:
            self.watcher.note(f"no preflight: {failure.reason}")
            return None
        for sentence in sentences(found, self.spec):
            self.watcher.note(sentence)
        return found

    @cached_property
    def _turns(self) -> Turns:
        return turns_of(self.storage, self.spec.name, lambda: self.watcher.phase(WAITING_FOR_TURN))

    def _baseline(self, task: Task, seed: int, lock: MachineLock, cache: StageCache) -> Artifact:
        """Return the baseline's file, the task's model trained: by whichever machine did it first."""
        from ..spaces.building.baseline import weights_path

        path = weights_path(task, self.spec.recovery, self.folder.path, seed)
        if self.files is None or path is None:
            return self._own_baseline(task, seed, lock, cache)
        shared = SharedBaseline(self.study, self.files, path, self._turns)
        return shared.prepare(lambda: self._own_baseline(task, seed, lock, cache))

    def _own_baseline(self, task: Task, seed: int, lock: MachineLock, cache: StageCache) -> Artifact:
        """Return the baseline's file of the weights in this results folder, trained where there are none."""
        from ..spaces.building.baseline import prepare_baseline

        def wait() -> None:
            if self._saying != WAITING_FOR_TWIN:
                self._say(WAITING_FOR_TWIN)
            lock.let_pass()

        with lock.working():
            return prepare_baseline(
                task,
                self.spec.recovery,
                self.folder.path,
                seed=seed,
                cache=cache,
                began_with=digest_begun(self.study),
                note=self.watcher.note,
                on_epoch=lambda epoch, metric: self._say(
                    f"training the baseline, epoch {epoch} of {task.baseline_epochs}: {task.metric_name} {metric:.4f}"
                ),
                between_steps=lock.let_pass,
                while_waiting=wait,
            )

    def _workbench(self, bench: Bench, seed: int, task: Task | None) -> Workbench:
        import torch

        folder = RunFolder(self.folder.path.absolute())
        return Workbench(
            self.spec, self.recovery, self.quantization, folder, seed, bench.baseline, torch.get_num_threads(), task
        )

    def _executor(self, bench: Bench, workbench: Workbench) -> Executor:
        """Return who evaluates candidates: worker processes, or this very process where there are none."""
        if not self.spec.workers:
            return self._here(bench)
        workbench = replace(workbench, threads=max(1, workbench.threads // self.spec.workers))
        seconds = 60 * self.spec.candidate_minutes
        return Workers(self.spec.workers, workbench, candidate_seconds=seconds, output=self.folder.worker_output)

    def _here(self, bench: Bench) -> InProcess:
        executor = InProcess(explained(bench, self.spec, self.folder))
        bench.announce = executor.reach
        bench.tell = None
        bench.lock.told = bench.tell_wait
        return executor

    def _idle(self, bench: Bench) -> IdleMeasuring | None:
        """Return what measures while workers train; None where no device stands idle then."""
        if not self.spec.workers or not bench.targets.are_elsewhere:
            return None
        return IdleMeasuring(
            lambda: read_records(self.study),
            bench,
            self.watcher.happened,
            objectives=self.spec.objectives(),
            differences=self._differences,
        )

    @property
    def _differences(self) -> Differences:
        """What is known of the differences of files: which rows of validation each got right."""
        from ..evaluators.row_scores import RowStore

        return Pairing(RowStore(self.folder.rows)).among(self.spec.objectives())

    def _decisions(self, bench: Bench) -> dict[str, Any]:
        """Return what both a search and an objective of Optuna's decide by, as their arguments."""
        from ..spaces.building.equivalence import Equivalence

        objectives, limits, gates = self.spec.objectives(), self.spec.limits(), self.spec.gates
        baseline = {objective.name: bench.baseline[objective.name].value for objective in (*objectives, *limits)}
        with bench.lock.working():
            canonical = Equivalence(bench.task, self.spec.space, self.recovery.multiple)
        pruning_policy = None
        if gates.stop_at:
            pruning_policy = PruningPolicy(objectives, baseline, gates.stop_at, gates.audit, self.spec.seed)
        return {
            "space": self.spec.space,
            "objectives": objectives,
            "baseline": baseline,
            "limits": limits,
            "canonical": canonical,
            "pruning_policy": pruning_policy,
            "followers": self.spec.followers,
            "seed": self.spec.seed,
            "final_factor": self.spec.recovery.final_factor,
            "differences": self._differences,
        }

    def _search(self, bench: Bench, executor: Executor, idle: IdleMeasuring | None) -> str:
        decisions = self._decisions(bench)
        objectives, baseline = decisions["objectives"], decisions["baseline"]
        loop = SearchLoop(
            study=self.study,
            executor=executor,
            sampler=self.sampler or self.spec.sampler,
            turns=self._turns,
            idle=idle,
            callbacks=self.callbacks,
            **decisions,
        )
        known = read_records(self.study)
        bench.remember(known)
        shown = {objective.name: baseline[objective.name] for objective in objectives}
        self.watcher.searching(self.spec, shown, known)
        samples = [len(split) for split in (bench.task.test, bench.task.validation)]  # type: ignore[arg-type]
        finishing = FinishTime(
            lambda: read_records(self.study),
            objectives,
            samples[0] / max(1, samples[1]),
            self._loading_seconds,
            self._differences,
        )
        seconds = None if self.spec.hours is None else max(0.0, self._left())
        space = self.spec.space
        first = [*space.initial_design(), *space.trained_initial_design()]
        return loop.run(Budget(self.spec.trials, seconds, finishing), self.watcher, first)

    def _write_trials(self) -> None:
        write_csv(trials_table(read_records(self.study), self.spec.objectives()), self.folder.trials_csv)
