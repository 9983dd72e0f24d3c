"""Latency over many inputs: for files that answer some inputs sooner than others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..spaces.artifact import Artifact
from ..spaces.data.named import contiguous
from .latency import against_itself, against_reference
from .measurement import Measurement
from .targets.target import Target
from .timing.alternating import TimingSettings
from .timing.over_inputs import InputsTiming
from .timing.run_to_run import RUN_TO_RUN


class LatencyOverInputsEvaluator:
    """Measures ``latency_ratio``, ``latency_ms`` and ``latency_p95_ratio`` of a file over many inputs, one at a time.

    The ratio is that of the means over the inputs, candidate over reference; ``latency_p95_ratio`` is that of the 95th
    percentiles over the inputs. As in :class:`~karui.evaluators.latency.LatencyEvaluator`, only ratios are measured,
    and the milliseconds are the ratio times the mean latency that the reference had at the start of the study.

    Args:
        target: Where to measure.
        reference: The file that all candidates are compared with.
        inputs: Real data, shape (n, *input_shape).
        split_name: Which split they are of, for the conditions.
        settings: How long timing takes.
        reference_ms: The reference's own mean latency, from :func:`measure_reference_over_inputs`.

    Raises:
        ValueError: Where ``reference_ms`` is not positive.
    """

    name = "latency"

    def __init__(
        self,
        target: Target,
        reference: Artifact,
        inputs: NDArray[Any],
        split_name: str,
        settings: TimingSettings,
        reference_ms: float,
    ) -> None:
        if not reference_ms > 0:
            raise ValueError(f"reference_ms: a positive number expected, got {reference_ms!r}")
        self._target = target
        self._reference = reference
        self._inputs = contiguous(inputs)
        self._split_name = split_name
        self._settings = settings
        self._reference_ms = reference_ms

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return three measurements, ``latency_ratio``, ``latency_ms`` and ``latency_p95_ratio``.

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """
        timing = self._target.time_pair_over_inputs(self._reference.path, artifact.path, self._inputs, self._settings)
        conditions = _conditions(self._target, timing, self._split_name)
        # Each input's time is the least of its passes, which two halves would not know as well: a single run, of which
        # it is known before only how far it may lie from another.
        ratio, milliseconds = against_reference(
            timing, timing.inputs, conditions, self._reference, self._reference_ms, RUN_TO_RUN
        )
        spread = math.hypot(timing.p95_ratio_spread, RUN_TO_RUN * timing.p95_ratio)
        tail = replace(ratio, name="latency_p95_ratio", value=timing.p95_ratio, spread=spread)
        return ratio, milliseconds, tail


def measure_reference_over_inputs(
    target: Target, reference: Artifact, inputs: NDArray[Any], split_name: str, settings: TimingSettings
) -> Measurement:
    """Measure the reference against a second copy of itself over inputs, and return its mean ``latency_ms``.

    The ratio of the two copies and its spread are among the conditions (``self_ratio``, ``self_ratio_spread``).

    Raises:
        KaruiError: Where the reference cannot be run, or the target is at fault.
    """
    timing = target.time_pair_over_inputs(reference.path, reference.path, contiguous(inputs), settings)
    return against_itself(timing, timing.inputs, _conditions(target, timing, split_name), reference)


def _conditions(target: Target, timing: InputsTiming, split_name: str) -> dict[str, Any]:
    return {
        **timing.machine,
        **target.conditions(),
        "batch_size": 1,
        "split": split_name,
        "inputs": timing.inputs,
        "passes": timing.passes,
        "raw_ms": timing.candidate_ms,
        "raw_reference_ms": timing.reference_ms,
        "p95_ms": timing.candidate_p95_ms,
        "reference_p95_ms": timing.reference_p95_ms,
    }
