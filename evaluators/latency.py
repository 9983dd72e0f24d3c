"""Latency: time of the file on the target, as a ratio to a reference and in milliseconds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..spaces.artifact import Artifact
from ..spaces.data.named import contiguous
from .measurement import Measurement
from .targets.target import Target
from .timing.alternating import PairTiming, TimingSettings
from .timing.over_inputs import InputsTiming
from .timing.run_to_run import RUN_TO_RUN, RUNS, RunToRun, one_of_the_runs, together


class LatencyEvaluator:
    """Measures ``latency_ratio`` and ``latency_ms`` of a file against a reference timed in alternation with it.

    Only the ratio is measured; the milliseconds are the ratio times the latency that the reference had once, at the
    start of the study, so that a machine that has become slower since does not make later candidates look slow. The
    spread of ``reference_ms`` is left out of the spread of ``latency_ms``, since it moves all candidates alike. What
    one file differs by from run to run is in it (:mod:`karui.evaluators.timing.run_to_run`).

    Files that answer some inputs sooner than others are measured over many inputs, one at a time: the ratio is that of
    the means over the inputs, and a third measurement, ``latency_p95_ratio``, that of the 95th percentiles over them.

    Args:
        target: Where to measure.
        reference: The file that all candidates are compared with.
        inputs: One batch of real data, shape (batch, *input_shape); or all inputs, shape (n, *input_shape).
        settings: When to stop, and how long a block lasts.
        reference_ms: The reference's own latency, from :func:`measure_reference`.
        one_by_one: The name of the split that the inputs are of, where they are measured one at a time.

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
        *,
        one_by_one: str | None = None,
    ) -> None:
        if not reference_ms > 0:
            raise ValueError(f"reference_ms: a positive number expected, got {reference_ms!r}")
        self._target = target
        self._reference = reference
        self._inputs = contiguous(inputs)
        self._settings = settings
        self._reference_ms = reference_ms
        self._split_name = one_by_one
        self._noise = RunToRun()

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return ``latency_ratio``, ``latency_ms`` and, over inputs one at a time, ``latency_p95_ratio``.

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """
        files = (self._reference.path, artifact.path)
        if self._split_name is not None:
            # Each input's time is the least of its passes, which two halves would not know as well: a single run, of
            # which it is known before only how far it may lie from another.
            over = self._target.time_pair_over_inputs(*files, self._inputs, self._settings)
            ratio, milliseconds = self._against_reference(over, RUN_TO_RUN)
            spread = math.hypot(over.p95_ratio_spread, RUN_TO_RUN * over.p95_ratio)
            tail = replace(ratio, name="latency_p95_ratio", value=over.p95_ratio, spread=spread)
            return ratio, milliseconds, tail
        settings = one_of_the_runs(self._settings)
        runs = [self._target.time_pair(*files, self._inputs, settings) for _ in range(RUNS)]
        ratios = [run.ratio for run in runs]
        self._noise.note(ratios, [run.ratio_spread for run in runs])
        return self._against_reference(together(runs), self._noise.spread, ratios=ratios)

    def _against_reference(
        self, timing: PairTiming | InputsTiming, run_to_run: float, **further: object
    ) -> tuple[Measurement, Measurement]:
        """Return ``latency_ratio`` and ``latency_ms``; ``run_to_run`` is a half width, as a share of the ratio."""
        conditions = {
            **_conditions(self._target, self._inputs, timing, self._split_name),
            **further,
            "reference_ms": self._reference_ms,
            "reference_digest": self._reference.digest,
            "run_to_run": run_to_run,
        }
        spread, count = math.hypot(timing.ratio_spread, run_to_run * timing.ratio), _count(timing)
        ratio = Measurement("latency_ratio", timing.ratio, "1", spread, count, conditions)
        value, spread_ms = timing.ratio * self._reference_ms, spread * self._reference_ms
        return ratio, Measurement("latency_ms", value, "ms", spread_ms, count, conditions)


def measure_reference(
    target: Target,
    reference: Artifact,
    inputs: NDArray[Any],
    settings: TimingSettings,
    *,
    one_by_one: str | None = None,
) -> Measurement:
    """Measure the reference against a second copy of itself, and return its ``latency_ms``.

    The ratio of the two copies and its spread are among the conditions (``self_ratio``, ``self_ratio_spread``); a
    ratio away from 1 says how far two equal files differ on this target. The arguments are those of
    :class:`LatencyEvaluator`; over inputs one at a time it is the mean latency.

    Raises:
        KaruiError: Where the reference cannot be run, or the target is at fault.
    """
    timed = contiguous(inputs)
    time = target.time_pair if one_by_one is None else target.time_pair_over_inputs
    timing = time(reference.path, reference.path, timed, settings)
    conditions = {
        **_conditions(target, timed, timing, one_by_one),
        "self_ratio": timing.ratio,
        "self_ratio_spread": timing.ratio_spread,
        "reference_digest": reference.digest,
    }
    return Measurement("latency_ms", timing.reference_ms, "ms", timing.reference_ms_spread, _count(timing), conditions)


def _count(timing: PairTiming | InputsTiming) -> int:
    return timing.pairs if isinstance(timing, PairTiming) else timing.inputs


def _conditions(
    target: Target, inputs: NDArray[Any], timing: PairTiming | InputsTiming, split_name: str | None
) -> dict[str, Any]:
    common = {
        **timing.machine,
        **target.conditions(),
        "raw_ms": timing.candidate_ms,
        "raw_reference_ms": timing.reference_ms,
        "p95_ms": timing.candidate_p95_ms,
    }
    if isinstance(timing, PairTiming):
        return {
            **common,
            "batch_size": len(inputs),
            "pairs": timing.pairs,
            "runs_per_block": list(timing.runs_per_block),
            "waited_share": round(timing.waited_share, 3),
        }
    return {
        **common,
        "batch_size": 1,
        "split": split_name,
        "inputs": timing.inputs,
        "passes": timing.passes,
        "reference_p95_ms": timing.reference_p95_ms,
    }
