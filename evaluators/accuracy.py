"""Accuracy: the task's own metric on what the file itself answers, run by the runtime."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CandidateFailure
from ..spaces.artifact import Artifact
from ..spaces.data.batches import (
    Outputs,
    Pairs,
    Targets,
    iterate,
    join_targets,
    map_targets,
    slice_targets,
    targets_digest,
    targets_of,
)
from ..spaces.data.named import contiguous, joined, map_parts, parts_of, with_rows
from ..spaces.prediction import one_number
from ..spaces.task import Metric
from .measurement import Measurement, metric_range
from .row_scores import RowScores, RowStore
from .runtimes.onnxruntime_runner import CPU_PROVIDER
from .runtimes.runtime import OpenedFile, find_runtime

RESAMPLES = 200
"""Bootstrap resamples behind the interval of a metric that is quick to compute."""

_FEWEST_RESAMPLES = 10

_FIRST_ROWS = 32
"""Rows by which it is told whether a metric is the mean of what it says of each row alone, and how long that takes."""

_MEAN_TOLERANCE = 1e-5
"""How far that mean may be off, in shares of the largest score: metrics are often computed in float32."""


class AccuracyEvaluator:
    """Measures the task's metric of a file over one split.

    The spread is half the width of the normal 95 % bootstrap interval over the rows of the split (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 12.4), which needs fewer resamples than percentiles do.

    Args:
        split: The data, pairs of one input and one target each.
        metric: Maps (outputs, targets) of the whole split to a number.
        metric_name: What the metric is called, for the conditions.
        split_name: Which split it is, for the conditions.
        measurement_name: Name of the measurement: ``accuracy`` for validation, ``test_accuracy`` for test.
        batch_size: Inputs that are run at once, where the file leaves that open.
        provider: Execution provider of onnxruntime, or device of OpenVINO.
        threads: Threads within an operator; 0 lets the runtime take every core.
        runtime: One of :data:`~karui.evaluators.runtimes.runtime_registry.RUNTIMES`: the one that is deployed, since
            another may answer otherwise.
        resampling_seconds: About how long the resampling may take with a slow metric; at least ten resamples are made.
            The scores of single rows are left out where they would take longer.
        rows: Where the scores of rows are kept, for comparing files row by row; None to leave them.
        clock: Returns seconds.
    """

    name = "accuracy"

    def __init__(
        self,
        split: Pairs,
        metric: Metric,
        metric_name: str,
        split_name: str,
        measurement_name: str = "accuracy",
        *,
        batch_size: int = 256,
        provider: str = CPU_PROVIDER,
        threads: int = 0,
        runtime: str = "onnxruntime",
        resampling_seconds: float = 1.0,
        rows: RowStore | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._metric = metric
        self._metric_name = metric_name
        self._split_name = split_name
        self._measurement_name = measurement_name
        self._batch_size = batch_size
        self._provider = provider
        self._threads = threads
        self._runtime = find_runtime(runtime)
        self._resampling_seconds = resampling_seconds
        self._rows = rows
        self._clock = clock
        batches = list(iterate(split, batch_size))
        self._inputs = contiguous(joined([inputs for inputs, _ in batches]).numpy())
        self._targets = join_targets([targets for _, targets in batches])

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return one measurement, the metric over the split.

        Raises:
            CandidateFailure: Where the file cannot be loaded or run, answers with numbers that are not finite, or where
                the metric raises or gives no finite number.
        """
        runner = self._runtime.open(artifact.path, stage=self.name, provider=self._provider, threads=self._threads)
        outputs = map_parts(torch.from_numpy, run_batches(runner, self._inputs, self._batch_size))
        self._check_outputs(outputs, artifact.path.name)
        start = self._clock()
        value = self._score(outputs, self._targets)
        resampled = self._resample(outputs, self._clock() - start)
        if self._rows is not None and (scores := self._score_rows(outputs, value)) is not None:
            self._rows.keep(self._split_name, artifact.digest, RowScores(scores, self._split_digest))
        conditions = {
            "metric": self._metric_name,
            "split": self._split_name,
            "provider": self._provider,
            "resamples": len(resampled),
        }
        unit = max((abs(each) for each in resampled), default=0.0) or 1.0  # so that nothing overflows
        spread = 1.96 * unit * float(np.std(np.array(resampled) / unit, ddof=1)) if len(resampled) > 1 else 0.0
        if set(resampled) == {value}:
            # All rows right, or all wrong: no resample can show the errors that did not occur. Three errors in n rows
            # are the most that 95 % confidence allows then (Hanley and Lippman-Hand, JAMA 1983).
            spread = metric_range(value) * min(1.0, 3.0 / len(self._inputs))
        return (Measurement(self._measurement_name, value, "1", spread, len(self._inputs), conditions),)

    def _check_outputs(self, outputs: Outputs, file_name: str) -> None:
        for name, part in parts_of(outputs).items():
            of = f" in {name}" if name else ""
            if len(part) != len(self._inputs):
                told = f"answers with {len(part)} rows{of} to {len(self._inputs)} inputs"
                raise CandidateFailure(self.name, f"{file_name} {told}")
            broken = int((~torch.isfinite(part).reshape(len(part), -1).all(dim=1)).sum())
            if broken:
                told = f"answers with NaN or infinity{of} to {broken} of {len(part)} inputs"
                raise CandidateFailure(self.name, f"{file_name} {told}")

    def _score(self, outputs: Outputs, targets: Targets) -> float:
        # The metric is the user's code: whatever it raises is reported with its name, and the search goes on.
        try:
            # and it may change in place what it is given
            answer: Any = self._metric(outputs.clone(), map_targets(torch.clone, targets))
        except Exception as error:
            raise CandidateFailure(
                self.name, f"the metric {self._metric_name!r} raised {type(error).__name__}: {error}"
            ) from error
        value = one_number(answer)
        if value is None:
            raise CandidateFailure(
                self.name, f"the metric {self._metric_name!r} gave a {type(answer).__name__}, a number was expected"
            )
        if not math.isfinite(value):
            raise CandidateFailure(self.name, f"the metric {self._metric_name!r} gave {value}")
        return value

    def _resample(self, outputs: Outputs, seconds_per_call: float) -> list[float]:
        affordable = self._resampling_seconds / max(seconds_per_call, 1e-9)
        count = int(min(RESAMPLES, max(_FEWEST_RESAMPLES, affordable)))
        rows = np.random.default_rng(0).integers(len(outputs), size=(count, len(outputs)))
        values = []
        for chosen in rows:
            # A metric may have no value on a resample (a class that no row belongs to); the others stand.
            try:
                values.append(self._score(targets_of(outputs, chosen), targets_of(self._targets, chosen)))
            except CandidateFailure:
                continue
        return values

    def _score_rows(self, outputs: Outputs, value: float) -> NDArray[np.float64] | None:
        """Return what the metric says of each row alone; None where it has no mean, or that would take too long."""
        count = len(outputs)
        start, first = self._clock(), min(_FIRST_ROWS, count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metrics that find one row too few
            try:
                scores = [self._score_row(outputs, row) for row in range(first)]
                affordable = (self._clock() - start) * count / first <= max(1.0, 2.0 * self._resampling_seconds)
                if not affordable or not _is_mean(
                    scores, self._score(outputs[:first], slice_targets(self._targets, slice(first)))
                ):
                    return None
                scores += [self._score_row(outputs, row) for row in range(first, count)]
            except CandidateFailure:
                return None
        return np.array(scores) if _is_mean(scores, value) else None

    def _score_row(self, outputs: Outputs, row: int) -> float:
        return self._score(outputs[row : row + 1], slice_targets(self._targets, slice(row, row + 1)))

    @cached_property
    def _split_digest(self) -> str:
        """Tells targets and metric from others."""
        return targets_digest(self._targets, self._metric_name)


def _is_mean(scores: Sequence[float], value: float) -> bool:
    largest = max(abs(score) for score in scores) or 1.0  # so that nothing overflows
    return abs(float(np.mean(np.array(scores) / largest)) - value / largest) <= _MEAN_TOLERANCE


def run_batches(runner: OpenedFile, inputs: Any, batch_size: int) -> Any:
    """Return a file's outputs for inputs of any number, shape (n, ...); named ones where it has several.

    A file that accepts one batch size only gets that size, the last batch filled up with copies of its first input.
    """
    size = runner.fixed_batch_size or batch_size
    outputs = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        rows = len(batch)
        if runner.fixed_batch_size is not None and rows < size:
            batch = with_rows(batch, size)
        outputs.append(runner.run(batch)[:rows])
    return joined(outputs)
