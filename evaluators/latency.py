"""Latency: time of the file on the target, as a ratio to a reference and in milliseconds."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from ..spaces.artifact import Artifact
from ..spaces.data.named import contiguous
from .measurement import Measurement
from .targets.target import Target
from .timing.alternating import PairTiming, TimingSettings
from .timing.over_inputs import InputsTiming
from .timing.run_to_run import RUNS, RunToRun, one_of_the_runs, together


class LatencyEvaluator:
    """Measures ``latency_ratio`` and ``latency_ms`` of a file against a reference timed in alternation with it.

    Only the ratio is measured; the milliseconds are the ratio times the latency that the reference had once, at the
    start of the study, so that a machine that has become slower since does not make later candidates look slow. The
    spread of ``reference_ms`` is left out of the spread of ``latency_ms``, since it moves all candidates alike. What
    one file differs by from run to run is in it (:mod:`karui.evaluators.timing.run_to_run`).

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
        self._inputs = contiguous(inputs)
        self._settings = settings
        self._reference_ms = reference_ms
        self._noise = RunToRun()

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return two measurements, ``latency_ratio`` and ``latency_ms``.

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """
        settings = one_of_the_runs(self._settings)
        runs = [
            self._target.time_pair(self._reference.path, artifact.path, self._inputs, settings) for _ in range(RUNS)
        ]
        self._noise.note([run.ratio for run in runs], [run.ratio_spread for run in runs])
        timing = together(runs)
        conditions = {**_conditions(self._target, self._inputs, timing), "ratios": [run.ratio for run in runs]}
        return against_reference(
            timing, timing.pairs, conditions, self._reference, self._reference_ms, self._noise.spread
        )


def measure_reference(
    target: Target, reference: Artifact, inputs: NDArray[Any], settings: TimingSettings
) -> Measurement:
    """Measure the reference against a second copy of itself, and return its ``latency_ms``.

    The ratio of the two copies and its spread are among the conditions (``self_ratio``, ``self_ratio_spread``); a
    ratio away from 1 says how far two equal files differ on this target.

    Raises:
        KaruiError: Where the reference cannot be run, or the target is at fault.
    """
    timed = contiguous(inputs)
    timing = target.time_pair(reference.path, reference.path, timed, settings)
    return against_itself(timing, timing.pairs, _conditions(target, timed, timing), reference)


def against_reference(
    timing: PairTiming | InputsTiming,
    samples: int,
    conditions: dict[str, Any],
    reference: Artifact,
    reference_ms: float,
    run_to_run: float,
) -> tuple[Measurement, Measurement]:
    """Return ``latency_ratio`` and ``latency_ms`` of a candidate that was timed beside the reference.

    Args:
        timing: Of the two.
        samples: From how many values it comes.
        conditions: What it depends on, the reference aside.
        reference: The file that it was timed beside.
        reference_ms: The reference's own latency at the start of the study.
        run_to_run: Half the width of the interval by what varies between runs, as a share of the ratio.
    """
    told = {**conditions, "reference_ms": reference_ms, "reference_digest": reference.digest, "run_to_run": run_to_run}
    spread = math.hypot(timing.ratio_spread, run_to_run * timing.ratio)
    return (
        Measurement("latency_ratio", timing.ratio, "1", spread, samples, told),
        Measurement("latency_ms", timing.ratio * reference_ms, "ms", spread * reference_ms, samples, told),
    )


def against_itself(
    timing: PairTiming | InputsTiming, samples: int, conditions: dict[str, Any], reference: Artifact
) -> Measurement:
    """Return the reference's own ``latency_ms``, timed beside a second copy of itself.

    Args:
        timing: Of the two copies.
        samples: From how many values it comes.
        conditions: What it depends on.
        reference: The file.
    """
    told = {
        **conditions,
        "self_ratio": timing.ratio,
        "self_ratio_spread": timing.ratio_spread,
        "reference_digest": reference.digest,
    }
    return Measurement("latency_ms", timing.reference_ms, "ms", timing.reference_ms_spread, samples, told)


def _conditions(target: Target, inputs: NDArray[Any], timing: PairTiming) -> dict[str, Any]:
    return {
        **timing.machine,
        **target.conditions(),
        "batch_size": len(inputs),
        "raw_ms": timing.candidate_ms,
        "raw_reference_ms": timing.reference_ms,
        "p95_ms": timing.candidate_p95_ms,
        "pairs": timing.pairs,
        "runs_per_block": list(timing.runs_per_block),
        "waited_share": round(timing.waited_share, 3),
    }
