"""What a study measures with: its evaluators around its task, on all of its targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError, TaskError
from ...evaluators.accuracy import AccuracyEvaluator
from ...evaluators.latency import LatencyEvaluator, measure_reference
from ...evaluators.measurement import Evaluator, Measurement
from ...evaluators.metric import METRICS, Measured, Metric
from ...evaluators.row_scores import RowStore
from ...evaluators.size import SizeEvaluator
from ...evaluators.targets.target import Target
from ...evaluators.targets.telling import tell_nobody
from ...evaluators.timing.alternating import TimingSettings
from ...evaluators.timing.machine_lock import MachineLock
from ...spaces.artifact import Artifact
from ...spaces.data.named import map_parts
from ...spaces.task import Pairs, Task, spread_batch
from ..results.tables import TEST_ACCURACY
from ..study_file.spec import StudySpec
from ..watching.watcher import WAITING, WAITING_FOR_MEASURING
from .bench_targets import BenchTargets

Arrays = Any
"""A batch of arrays: one, or several in a :class:`~karui.spaces.data.named.Named`."""

VALIDATION, TEST = "validation", "test"
"""Names of the splits on which accuracy is measured."""

_METRICS = {metric.measurement: metric for metric in METRICS.all.values()}


TIMED_INPUTS = 300
"""Inputs of a split over which latency is measured where it depends on the input."""


class StudyEvaluators:
    """The evaluators of a study and what they need.

    Args:
        task: The task, its model trained.
        artifact: The baseline's file.
        spec: The study.
        lock: Keeps work and measuring on this machine apart.
        announce: Told of each stage that a candidate reaches, and where it waits.
        rows: Where is kept which rows each file gets right; None to leave it.
    """

    def __init__(
        self,
        task: Task,
        artifact: Artifact,
        spec: StudySpec,
        lock: MachineLock,
        announce: Callable[[str], None] = tell_nobody,
        rows: RowStore | None = None,
    ) -> None:
        self.task = task
        self.rows = rows
        self.lock = lock
        self.announce = announce
        self._spec = spec
        self.artifact = artifact
        self.baseline: dict[str, Measurement] = {}
        self.tell: Callable[[str], None] | None = None
        """Is told what a target waits for; the one who is told of stages where it is None."""
        self.targets = BenchTargets(spec, lock, self._tell, lambda: self._tell(WAITING))
        self._stage = ""
        self.timing: TimingSettings = replace(TimingSettings(), max_seconds=spec.latency.max_seconds)
        # Where some candidates answer some inputs sooner, all are timed alike: over many inputs.
        self._over_inputs = spec.space.depends_on_input
        self.inputs = self._like_the_study(
            _timed_inputs(task.validation)
            if self._over_inputs
            else task.calibration_batch(spec.latency.batch_size).numpy()
        )
        shared = (task.metric, task.metric_name)
        self.size: Evaluator = SizeEvaluator()
        runtime = spec.latency.runtime
        self.accuracy: Evaluator = AccuracyEvaluator(task.validation, *shared, VALIDATION, runtime=runtime, rows=rows)
        self.test_accuracy: Evaluator = AccuracyEvaluator(
            task.test, *shared, TEST, TEST_ACCURACY, runtime=runtime, rows=rows
        )
        self.load: Evaluator = self._evaluator_of(METRICS["load"])
        self._searched = (*spec.objectives(), *spec.limits())
        self.limited: tuple[Evaluator, ...] = tuple(
            self._evaluator_of(_METRICS[limit.name]) for limit in self._searched if limit.name in _METRICS
        )
        self.latency: Evaluator
        self.proxy_latency: Evaluator
        self.test_latency: Evaluator

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
        if (missing := self.missing(found)) is not None:
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
        self.complete_rows(self.artifact)

    def complete_rows(self, artifact: Artifact) -> None:
        """See to it that it is known which rows of validation a file gets right, where that is known of the baseline.

        Raises:
            CandidateFailure: Where it cannot be run.
        """
        if self.rows is None or self.rows.get(VALIDATION, artifact.digest) is not None:
            return
        if artifact.digest == self.artifact.digest or self.rows.get(VALIDATION, self.artifact.digest) is not None:
            self.accuracy.measure(artifact)

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

    def take_up(self, baseline: dict[str, Measurement]) -> dict[str, float]:
        """Take up the baseline's measurements, against which every candidate is timed; return its time on each target.

        Args:
            baseline: By name.
        """
        self.baseline = baseline
        reference_ms = self.targets.reference_ms(baseline)
        self.latency = self._timing_of(self.inputs, "validation", reference_ms)
        self.proxy_latency = (
            self._timing_of(self.inputs, "validation", reference_ms, only_objective=True)
            if self.targets.has_several
            else self.latency
        )
        self.test_latency = (
            self._timing_of(self._like_the_study(_timed_inputs(self.task.test)), "test", reference_ms)
            if self._over_inputs
            else self.latency
        )
        return reference_ms

    def _evaluator_of(self, metric: Metric) -> Evaluator:
        """Return what measures one of the things that a study may bound or search for beside the usual three."""
        batch = self.inputs[:1] if self._over_inputs else self.inputs

        def make(_: str, target: Target) -> Evaluator:
            return metric.evaluator(Measured(target, self.artifact, batch, self.timing))

        return self.targets.evaluator(make, metric.ratio)

    def _like_the_study(self, real: Arrays) -> Arrays:
        """Return the inputs that the study wants latency to be measured with."""
        return real if self._spec.latency.inputs == "real" else map_parts(_drawn, real)

    def _timing_of(
        self, inputs: Arrays, split_name: str, reference_ms: Mapping[str, float], *, only_objective: bool = False
    ) -> Evaluator:
        """Return what measures latency on all targets."""

        def make(name: str, target: Target) -> Evaluator:
            one_by_one = split_name if self._over_inputs else None
            ms = reference_ms[name]
            return LatencyEvaluator(target, self.artifact, inputs, self.timing, ms, one_by_one=one_by_one)

        return self.targets.evaluator(make, "latency_ratio", only_objective=only_objective)

    def _measure_reference(self, target: Target) -> Measurement:
        one_by_one = "validation" if self._over_inputs else None
        return measure_reference(target, self.artifact, self.inputs, self.timing, one_by_one=one_by_one)

    def reach(self, stage: str) -> None:
        """Announce that the candidate has come to a stage; between two of them whoever wants to measure may do so."""
        self._stage = stage
        self.announce(stage)
        self.lock.let_pass()

    def tell_wait(self, waits: bool) -> None:
        """Announce that a candidate waits for the machine, or goes on after that; see :class:`MachineLock`."""
        self.announce(WAITING_FOR_MEASURING if waits else self._stage)

    def _tell(self, text: str) -> None:
        (self.tell or self.announce)(text)

    def missing(self, measurements: Mapping[str, Measurement]) -> str | None:
        """Return the name of an objective, or of something with a bound, that was not told; None where all were."""
        return next((item.name for item in self._searched if item.name not in measurements), None)


def _timed_inputs(split: Pairs) -> Arrays:
    return spread_batch(split, TIMED_INPUTS)[0].numpy()


def _drawn(real: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(real.dtype, np.floating):
        return real  # what is drawn would be no token, or no truth value
    drawn: NDArray[Any] = np.random.default_rng(0).normal(size=real.shape).astype(real.dtype)
    return drawn
