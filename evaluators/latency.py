"""Latency: time of the file on the target, as a ratio to a reference and in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spaces.artifact import Artifact
from .measurement import Measurement
from .targets import Target
from .timing import PairTiming, TimingSettings


class LatencyEvaluator:
    """Measures ``latency_ratio`` and ``latency_ms`` of a file against a reference timed in alternation with it.

    Only the ratio is measured; the milliseconds are the ratio times the latency that the reference had once, at the
    start of the study, so that a machine that has become slower since does not make later candidates look slow. The
    spread of ``reference_ms`` is left out of the spread of ``latency_ms``, since it moves all candidates alike.

    Args:
        target: Where to measure.
        reference: The file that all candidates are compared with.
        inputs: One batch of real data, shape (batch, *input_shape).
        settings: When to stop, and how long a block lasts.
        reference_ms: The reference's own latency, from :func:`measure_reference`.

    Raises:
        ValueError: Where ``reference_ms`` is not positive.
    """

    name = "latency"

    def __init__(
        self,
        target: Target,
        reference: Artifact,
        inputs: NDArray[Any],
        settings: TimingSettings,
        reference_ms: float,
    ) -> None:
        if not reference_ms > 0:
            raise ValueError(f"reference_ms: a positive number expected, got {reference_ms!r}")
        self._target = target
        self._reference = reference
        self._inputs = np.ascontiguousarray(inputs)
        self._settings = settings
        self._reference_ms = reference_ms

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return two measurements, ``latency_ratio`` and ``latency_ms``.

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """
        timing = self._target.time_pair(self._reference.path, artifact.path, self._inputs, self._settings)
        conditions = {
            **_conditions(self._target, self._inputs, timing),
            "reference_ms": self._reference_ms,
            "reference_digest": self._reference.digest,
        }
        ratio = Measurement("latency_ratio", timing.ratio, "1", timing.ratio_spread, timing.pairs, conditions)
        milliseconds = Measurement(
            "latency_ms",
            timing.ratio * self._reference_ms,
            "ms",
            timing.ratio_spread * self._reference_ms,
            timing.pairs,
            conditions,
        )
        return ratio, milliseconds


def measure_reference(
    target: Target, reference: Artifact, inputs: NDArray[Any], settings: TimingSettings
) -> Measurement:
    """Measure the reference against a second copy of itself, and return its ``latency_ms``.

    The ratio of the two copies and its spread are among the conditions (``self_ratio``, ``self_ratio_spread``); a
    ratio away from 1 says how far two equal files differ on this target.

    Raises:
        KaruiError: Where the reference cannot be run, or the target is at fault.
    """
    contiguous = np.ascontiguousarray(inputs)
    timing = target.time_pair(reference.path, reference.path, contiguous, settings)
    conditions = {
        **_conditions(target, contiguous, timing),
        "self_ratio": timing.ratio,
        "self_ratio_spread": timing.ratio_spread,
        "reference_digest": reference.digest,
    }
    return Measurement("latency_ms", timing.reference_ms, "ms", timing.reference_ms_spread, timing.pairs, conditions)


def _conditions(target: Target, inputs: NDArray[Any], timing: PairTiming) -> dict[str, Any]:
    return {
        **target.conditions(),
        "batch_size": len(inputs),
        "raw_ms": timing.candidate_ms,
        "raw_reference_ms": timing.reference_ms,
        "p95_ms": timing.candidate_p95_ms,
        "pairs": timing.pairs,
        "runs_per_block": list(timing.runs_per_block),
    }
