"""The bench: the evaluators of a study around its task, on which candidates are made and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError, TargetUnavailable, TaskError
from ...evaluators.accuracy import AccuracyEvaluator
from ...evaluators.energy import EnergyEvaluator
from ...evaluators.latency import LatencyEvaluator, measure_reference
from ...evaluators.latency_over_inputs import LatencyOverInputsEvaluator, measure_reference_over_inputs
from ...evaluators.loading import LoadEvaluator
from ...evaluators.machine_lock import MachineLock
from ...evaluators.measurement import Evaluator, Measurement
from ...evaluators.memory import MemoryEvaluator
from ...evaluators.size import SizeEvaluator
from ...evaluators.targets import Target
from ...evaluators.timing import TimingSettings
from ...search.gates import Draft, Gates
from ...search.objectives import LIMITS
from ...search.passage import Passage
from ...search.record import Outcome, TrialRecord
from ...spaces.artifact import Artifact, StageRecord, file_digest
from ...spaces.build import Builder
from ...spaces.candidate import Candidate
from ...spaces.task import Pairs, Task, spread_batch
from ..certifying.certify import TEST_ACCURACY
from ..storage.shared_files import SharedFiles
from ..study_file.spec import StudySpec
from ..watching.watcher import WAITING
from .bench_targets import LATENCY, BenchTargets
from .kept_outcomes import KeptOutcomes

_LIMITS = frozenset(limit.name for limit in LIMITS)


def tell_nobody(stage: str) -> None:
    """Announce nothing."""


TIMED_INPUTS = 300
"""Inputs of a split over which latency is measured where it depends on the input."""


class Bench:
    """The evaluators of a study and what they need: makes and measures candidates for the search.

    Args:
        task: The task, its model trained.
        artifact: The baseline's file.
        spec: The study.
        lock: Keeps work and measuring on this machine apart.
        announce: Told of each stage that a candidate reaches, and where it waits.
        files: Where other machines find the files made here, and this one theirs; None where there are none.
    """

    def __init__(
        self,
        task: Task,
        artifact: Artifact,
        spec: StudySpec,
        lock: MachineLock,
        announce: Callable[[str], None] = tell_nobody,
        files: SharedFiles | None = None,
    ) -> None:
        self.task = task
        self.lock = lock
        self.announce = announce
        self._files = files
        self._spec = spec
        self.artifact = artifact
        self.baseline: dict[str, Measurement] = {}
        self.tell: Callable[[str], None] | None = None
        """Is told what a target waits for; the one who is told of stages where it is None."""
        self.targets = BenchTargets(spec, lock, self._tell, lambda: self.announce(WAITING))
        self.timing: TimingSettings = replace(TimingSettings(), max_seconds=spec.latency.max_seconds)
        # Where some candidates answer some inputs sooner, all are timed alike: over many inputs.
        self._over_inputs = spec.exits is not None
        self.inputs = self._like_the_study(
            _timed_inputs(task.validation)
            if self._over_inputs
            else task.calibration_batch(spec.latency.batch_size).numpy()
        )
        shared = (task.metric, task.metric_name)
        self.size: Evaluator = SizeEvaluator()
        runtime = spec.latency.runtime
        self.accuracy: Evaluator = AccuracyEvaluator(task.validation, *shared, "validation", runtime=runtime)
        self.test_accuracy: Evaluator = AccuracyEvaluator(task.test, *shared, "test", TEST_ACCURACY, runtime=runtime)
        self.load: Evaluator = self.targets.evaluator(
            lambda _, target: LoadEvaluator(target, artifact, self.timing), "load_ratio"
        )
        self._searched = (*spec.objectives(), *spec.limits())
        self.limited: tuple[Evaluator, ...] = tuple(
            self._evaluator_of(limit.name) for limit in self._searched if limit.name in _LIMITS
        )
        self.latency: Evaluator
        self._draft_latency: Evaluator
        self.test_latency: Evaluator
        self._builder: Builder
        self._outcomes: KeptOutcomes

    def measure_baseline(self) -> dict[str, Measurement]:
        """Measure the baseline: size, latency against itself, validation accuracy.

        Raises:
            TargetUnavailable: Where a target does not answer.
            TaskError: Where its accuracy has no meaning.
        """
        latency = self.targets.measure_references(self._measure_reference)
        accuracy = self._measure_accuracy(self.accuracy)
        limited = (item for evaluator in self.limited for item in evaluator.measure(self.artifact))
        found = {item.name: item for item in (*self.size.measure(self.artifact), *latency, *accuracy, *limited)}
        if (missing := self._missing(found)) is not None:
            raise KaruiError(
                f"{missing} is searched for or has a bound, and cannot be measured on this study's target",
                where=f"study {self._spec.name}",
                expected="a target that tells it, such as this machine or one that ssh reaches",
                got="no such number for the baseline",
                remedy=f"take what stands for {missing} out of further_objectives and out of [bounds]",
            )
        return found

    def measure_baseline_on_test(self) -> None:
        """Measure the baseline on the test split, when the front is: not before.

        Raises:
            TaskError: Where its accuracy has no meaning.
        """
        self.baseline |= {item.name: item for item in self._measure_accuracy(self.test_accuracy)}

    def _measure_accuracy(self, evaluator: Evaluator) -> tuple[Measurement, ...]:
        try:
            return evaluator.measure(self.artifact)
        except CandidateFailure as failure:
            raise TaskError(
                "the baseline's accuracy cannot be measured",
                where="Task(model=..., metric=...)",
                expected="a metric that gives a finite number for the task's own model",
                got=failure.reason,
                remedy="check the metric, the data and the model",
            ) from failure

    def begin(self, baseline: dict[str, Measurement], builder: Builder, outcomes: Path) -> None:
        """Take up the baseline's measurements, against which every candidate is timed.

        Args:
            baseline: By name.
            builder: Makes files.
            outcomes: Folder in which is kept what was measured of them.
        """
        self.baseline = baseline
        self._builder = builder
        reference_ms = self.targets.reference_ms(baseline)
        self.latency = self._timing_of(self.inputs, "validation", reference_ms)
        self._draft_latency = (
            self._timing_of(self.inputs, "validation", reference_ms, only_objective=True)
            if self.targets.has_several
            else self.latency
        )
        self.test_latency = (
            self._timing_of(self._like_the_study(_timed_inputs(self.task.test)), "test", reference_ms)
            if self._over_inputs
            else self.latency
        )
        known_ms = reference_ms if self.targets.has_several else baseline[LATENCY].value
        settings = {"baseline": self.artifact.digest, "ms": known_ms, "study": self._spec.meaning()}
        self._outcomes = KeptOutcomes(outcomes, settings, self.targets.fingerprint(baseline))

    def _evaluator_of(self, name: str) -> Evaluator:
        """Return what measures one of the things that a study may bound or search for beside the usual three."""
        if name == "load_ms":
            return self.load
        batch = self.inputs[:1] if self._over_inputs else self.inputs
        if name == "session_peak_bytes":
            return self.targets.evaluator(lambda _, target: MemoryEvaluator(target, batch), "session_peak_ratio")
        return self.targets.evaluator(
            lambda _, target: EnergyEvaluator(target, self.artifact, batch, self.timing), "energy_ratio"
        )

    def _like_the_study(self, real: NDArray[Any]) -> NDArray[Any]:
        """Return the inputs that the study wants latency to be measured with."""
        if self._spec.latency.inputs == "real":
            return real
        drawn: NDArray[Any] = np.random.default_rng(0).normal(size=real.shape).astype(real.dtype)
        return drawn

    def _timing_of(
        self, inputs: NDArray[Any], split_name: str, reference_ms: Mapping[str, float], *, only_objective: bool = False
    ) -> Evaluator:
        """Return what measures latency on all targets."""

        def make(name: str, target: Target) -> Evaluator:
            ms = reference_ms[name]
            if self._over_inputs:
                return LatencyOverInputsEvaluator(target, self.artifact, inputs, split_name, self.timing, ms)
            return LatencyEvaluator(target, self.artifact, inputs, self.timing, ms)

        return self.targets.evaluator(make, "latency_ratio", only_objective=only_objective)

    def _measure_reference(self, target: Target) -> Measurement:
        if self._over_inputs:
            return measure_reference_over_inputs(target, self.artifact, self.inputs, "validation", self.timing)
        return measure_reference(target, self.artifact, self.inputs, self.timing)

    def _tell(self, text: str) -> None:
        (self.tell or self.announce)(text)

    def remember(self, records: Sequence[TrialRecord]) -> None:
        """Take up what was measured in earlier runs, so that no file is measured twice."""
        for record in records:
            if record.outcome:
                self._outcomes.keep(record.outcome)

    def evaluate(self, candidate: Candidate, gates: Gates | None = None, /) -> Outcome:
        """Make and measure a candidate; see :class:`karui.search.outcome.Evaluate`."""
        with self.lock.working():
            return self._evaluate(candidate, gates)

    def _evaluate(self, candidate: Candidate, gates: Gates | None) -> Outcome:
        passage = Passage(gates)
        stages = [] if gates is None else self._pass_draft(candidate, gates, passage)
        artifact = self._builder.build(candidate, passage.on_epoch)
        stages += artifact.stages
        found = self._outcomes.get(artifact.digest)
        if found is None:
            found = self._measure(artifact, stages)
        if self._files is not None:  # before the trial is told: what the study knows, every machine can have
            self._files.keep(artifact.path, artifact.digest)
        return replace(found, stages=tuple(stages), curves=passage.curves, let_through=passage.let_through)

    def _measure(self, artifact: Artifact, stages: list[StageRecord]) -> Outcome:
        measurements: dict[str, Measurement] = {}
        for evaluator in (self.size, self.latency, *self.limited, self.accuracy):
            self.announce(evaluator.name)
            begin = time.perf_counter()
            measurements |= {item.name: item for item in evaluator.measure(artifact)}
            stages.append(StageRecord(evaluator.name, time.perf_counter() - begin, cached=False))
        if (missing := self._missing(measurements)) is not None:
            raise CandidateFailure("measuring", f"its target told no {missing}, though it did for the baseline")
        outcome = Outcome(measurements, artifact.digest)
        self._outcomes.keep(outcome)
        return outcome

    def _missing(self, measurements: Mapping[str, Measurement]) -> str | None:
        """Return the name of an objective, or of something with a bound, that was not told; None where all were."""
        return next((item.name for item in self._searched if item.name not in measurements), None)

    def _pass_draft(self, candidate: Candidate, gates: Gates, passage: Passage) -> list[StageRecord]:
        """Measure what can be measured before training, where there is any, and meet the gates with it."""
        begin = time.perf_counter()
        with self._builder.draft(candidate) as draft:
            if draft is None:
                return []
            (size,) = self.size.measure(draft)
            passage.size(size.value)
            if gates.wants_latency(size.value) and (latency := self._latency_of(draft)) is not None:
                passage.draft(Draft(size.value, latency.value, latency.spread))
        return [StageRecord("draft", time.perf_counter() - begin, cached=False)]

    def _latency_of(self, draft: Artifact) -> Measurement | None:
        """Return a draft's latency; None where it cannot be timed: the candidate's own file will say why.

        A target that does not answer keeps nobody from being trained.
        """
        try:
            return next(item for item in self._draft_latency.measure(draft) if item.name == LATENCY)
        except (CandidateFailure, TargetUnavailable):
            return None

    def find_artifact(self, record: TrialRecord) -> Artifact:
        """Return the file of a trial: this machine's own, else that of the machine that made it, else made again."""
        if (kept := self.kept_artifact(record)) is not None:
            return kept
        with self.lock.working():
            return self._builder.build(_candidate_of(record))

    def kept_artifact(self, record: TrialRecord) -> Artifact | None:
        """Return the file of a trial where this machine, or another one, has it; None where it had to be made again."""
        path = self._builder.file_of(_candidate_of(record))
        digest = file_digest(path) if path.exists() else None
        wanted = record.outcome.digest if record.outcome else None
        if self._files is not None and wanted and wanted != digest and self._files.fetch(wanted, path):
            digest = wanted
        return None if digest is None else Artifact(path, digest)


def _candidate_of(record: TrialRecord) -> Candidate:
    if record.candidate is None:
        raise ValueError(f"trial {record.number} has no candidate")
    return record.candidate


def _timed_inputs(split: Pairs) -> NDArray[Any]:
    inputs: NDArray[Any] = spread_batch(split, TIMED_INPUTS)[0].numpy()
    return inputs
