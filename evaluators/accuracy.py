"""Accuracy: the task's own metric on what the file itself answers, run by the runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CandidateFailure
from ..spaces.artifact import Artifact
from ..spaces.task import Metric, Pairs, iterate
from .measurement import Measurement
from .runtime import CPU_PROVIDER
from .runtimes import OpenedFile, find_runtime

RESAMPLES = 200
"""Bootstrap resamples behind the interval of a metric that is quick to compute."""

_FEWEST_RESAMPLES = 10


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
        runtime: One of :data:`~karui.evaluators.runtimes.RUNTIMES`: the one that is deployed, since another may answer
            otherwise.
        resampling_seconds: About how long the resampling may take with a slow metric; at least ten resamples are made.
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
        self._clock = clock
        batches = list(iterate(split, batch_size))
        self._inputs = np.ascontiguousarray(torch.cat([inputs for inputs, _ in batches]).numpy())
        self._targets = torch.cat([targets for _, targets in batches])

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return one measurement, the metric over the split.

        Raises:
            CandidateFailure: Where the file cannot be loaded or run, answers with numbers that are not finite, or where
                the metric raises or gives no finite number.
        """
        runner = self._runtime.open(artifact.path, stage=self.name, provider=self._provider, threads=self._threads)
        outputs = torch.from_numpy(run_batches(runner, self._inputs, self._batch_size))
        self._check_outputs(outputs, artifact.path.name)
        start = self._clock()
        value = self._score(outputs, self._targets)
        resampled = self._resample(outputs, self._clock() - start)
        conditions = {
            "metric": self._metric_name,
            "split": self._split_name,
            "provider": self._provider,
            "resamples": len(resampled),
        }
        spread = 1.96 * float(np.std(resampled, ddof=1)) if len(resampled) > 1 else 0.0
        if value in (0.0, 1.0):
            # All rows right, or all wrong: no resample can show the errors that did not occur. Three errors in n rows
            # are the most that 95 % confidence allows then (Hanley and Lippman-Hand, JAMA 1983).
            spread = max(spread, min(1.0, 3.0 / len(self._inputs)))
        return (Measurement(self._measurement_name, value, "1", spread, len(self._inputs), conditions),)

    def _check_outputs(self, outputs: torch.Tensor, file_name: str) -> None:
        if len(outputs) != len(self._inputs):
            raise CandidateFailure(
                self.name, f"{file_name} answers with {len(outputs)} rows to {len(self._inputs)} inputs"
            )
        broken = int((~torch.isfinite(outputs).reshape(len(outputs), -1).all(dim=1)).sum())
        if broken:
            raise CandidateFailure(
                self.name, f"{file_name} answers with NaN or infinity to {broken} of {len(outputs)} inputs"
            )

    def _score(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        # The metric is the user's code: whatever it raises is reported with its name, and the search goes on.
        try:
            answer: Any = self._metric(outputs, targets)
        except Exception as error:
            raise CandidateFailure(
                self.name, f"the metric {self._metric_name!r} raised {type(error).__name__}: {error}"
            ) from error
        single = answer.numel() == 1 if isinstance(answer, torch.Tensor) else isinstance(answer, (Real, np.number))
        if not single:
            raise CandidateFailure(
                self.name, f"the metric {self._metric_name!r} gave a {type(answer).__name__}, a number was expected"
            )
        value = float(answer)
        if not math.isfinite(value):
            raise CandidateFailure(self.name, f"the metric {self._metric_name!r} gave {value}")
        return value

    def _resample(self, outputs: torch.Tensor, seconds_per_call: float) -> list[float]:
        affordable = self._resampling_seconds / max(seconds_per_call, 1e-9)
        count = int(min(RESAMPLES, max(_FEWEST_RESAMPLES, affordable)))
        rows = np.random.default_rng(0).integers(len(outputs), size=(count, len(outputs)))
        # Rows are chosen by numpy: torch spreads even a small gather over its threads, which on a busy machine costs
        # a hundred times as much.
        output_rows, target_rows = outputs.numpy(), self._targets.numpy()
        values = []
        for chosen in rows:
            # A metric may have no value on a resample (a class that no row belongs to); the others stand.
            try:
                resampled = torch.from_numpy(output_rows[chosen]), torch.from_numpy(target_rows[chosen])
                values.append(self._score(*resampled))
            except CandidateFailure:
                continue
        return values


def run_batches(runner: OpenedFile, inputs: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Return a file's outputs for inputs of any number, shape (n, ...).

    A file that accepts one batch size only gets that size, the last batch filled up with copies of its first input.
    """
    size = runner.fixed_batch_size or batch_size
    outputs = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        rows = len(batch)
        if runner.fixed_batch_size is not None and rows < size:
            batch = np.concatenate([batch, np.repeat(batch[:1], size - rows, axis=0)])
        outputs.append(runner.run(batch)[:rows])
    return np.concatenate(outputs)
