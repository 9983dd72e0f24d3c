"""What the files of a front are worth once they were measured again: a mark for each, and figures for all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist, median
from typing import Any

from ...evaluators.measurement import Measurement, metric_range
from ...evaluators.timing.run_to_run import RUN_TO_RUN
from ...search.objectives import Objective
from ...search.statistics.front import pareto_mask
from ...search.statistics.noise import SPREAD_PER_DEVIATION, dominated_beyond_noise
from ..results.certification import FELL_OFF, HOLDS, WITHIN_NOISE, Certification, Mark
from ..results.tables import TEST_ACCURACY
from .fresh import Fresh, objectives_of
from .pairing import Pairing
from .rank_correlation import kendall_tau

ONE_SIDED = 0.025
"""Probability with which any point at all is said to be worse than the search saw it, where none is."""


def marks_of(found: Sequence[Fresh], baseline: Mapping[str, Measurement], pairing: Pairing | None = None) -> list[Mark]:
    """Return the mark of every file, judged by what was measured again.

    *holds*: no other file dominates it in the study's objectives, accuracy being that of validation and latency that
    measured again. *within noise*: one does, but not beyond noise. *fell off*: one does beyond noise
    (:func:`~karui.search.statistics.noise.dominated_beyond_noise`), or it is worse than the search saw it, beyond noise
    (:func:`is_worse_than_seen`), whoever dominates it. That is all that the test split has a say in: which of several
    points is the better one it never decides.

    Args:
        found: The files in the table of the front.
        baseline: The baseline's measurements, test accuracy included.
        pairing: Which rows files got right; nothing is paired without it.
    """
    pairing = pairing or Pairing()
    values, spreads = [fresh.values for fresh in found], [fresh.spreads for fresh in found]
    objectives = objectives_of(found)
    front = pareto_mask(values, objectives)
    differences = pairing.differences([fresh.artifact.digest for fresh in found], objectives)
    beaten = dominated_beyond_noise(values, spreads, objectives, differences)
    comparisons = (1 + len(_latencies(objectives))) * len(found)
    fallen = [
        is_beaten or is_worse_than_seen(fresh, baseline, comparisons, pairing)
        for fresh, is_beaten in zip(found, beaten, strict=True)
    ]
    return [
        FELL_OFF if has_fallen else HOLDS if on_front else WITHIN_NOISE
        for has_fallen, on_front in zip(fallen, front, strict=True)
    ]


def is_worse_than_seen(
    fresh: Fresh, baseline: Mapping[str, Measurement], comparisons: int, pairing: Pairing | None = None
) -> bool:
    """Say whether a file is slower, or loses more accuracy, than the search saw, by more than noise explains.

    Accuracy is compared as what is lost against the baseline on the same split, since one split may be harder than the
    other. On each split the two are compared row by row where that is known, and count as independent otherwise.
    Among many points one would exceed its noise by
    chance; the limit grows with their number, so that none does in most searches (Bonferroni's correction).

    Args:
        fresh: The file.
        baseline: The baseline's measurements, test accuracy included.
        comparisons: How many such comparisons are made in all.
        pairing: Which rows files got right; nothing is paired without it.
    """
    pairing = pairing or Pairing()
    known = fresh.record.outcome.measurements if fresh.record.outcome else {}
    times = NormalDist().inv_cdf(1.0 - ONE_SIDED / max(1, comparisons)) / SPREAD_PER_DEVIATION
    for name in _latencies(fresh.objectives):
        before, after = known[name], fresh.measurements[name]
        noise = math.hypot(_spread_between_runs(before), _spread_between_runs(after))
        if after.value - before.value > times * noise:
            return True
    both = (known["accuracy"], fresh.measurements[TEST_ACCURACY])
    noise = math.hypot(*(pairing.spread_of_loss(fresh.artifact.digest, item, baseline) for item in both))
    return accuracy_fall(fresh, baseline) > times * noise


def _spread_between_runs(latency: Measurement) -> float:
    """Return the spread of a latency, with what varies from run to run, which earlier versions left out."""
    if "run_to_run" in latency.conditions:
        return latency.spread
    return math.hypot(latency.spread, RUN_TO_RUN / math.sqrt(2.0) * latency.value)


def _latencies(objectives: Sequence[Objective]) -> list[str]:
    """Return the names of the objectives that are latencies: one, or one on each target."""
    return [objective.name for objective in objectives if objective.name.startswith("latency_ms")]


def accuracy_fall(fresh: Fresh, baseline: Mapping[str, Measurement]) -> float:
    """Return how much more accuracy a file loses against the baseline on the test split than on validation."""
    known = fresh.record.outcome.measurements if fresh.record.outcome else {}
    on_validation = baseline["accuracy"].value - known["accuracy"].value
    return (baseline[TEST_ACCURACY].value - fresh.measurements[TEST_ACCURACY].value) - on_validation


def summarize(
    points: Sequence[Fresh],
    marks: Sequence[Mark],
    baseline: Mapping[str, Measurement],
    *,
    time: str,
    same_process: str = "",
    conditions: Mapping[str, Any] | None = None,
    edge: tuple[int, int] = (0, 0),
    lost: Sequence[str] = (),
) -> Certification:
    """Return how a front stood its test.

    Args:
        points: The files in its table.
        marks: Theirs.
        baseline: The baseline's measurements, test accuracy included.
        time: When, ISO 8601.
        same_process: Why not in a new process; empty where it was.
        conditions: Of the latencies.
        edge: How many files of the edge were measured, and how many of those are among the points.
        lost: Why files of the front could not be measured.
    """
    seen = [fresh.record.outcome.measurements for fresh in points if fresh.record.outcome]
    accuracies = [found["accuracy"].value for found in seen]
    latencies = [found["latency_ms"].value for found in seen]
    fresh_latencies = [fresh.measurements["latency_ms"].value for fresh in points]
    rises = [100.0 * (after / before - 1.0) for before, after in zip(latencies, fresh_latencies, strict=True)]
    counts = Counter(marks)
    point = (metric_range(baseline["accuracy"].value) or 1.0) / 100.0
    return Certification(
        time=time,
        same_process=same_process,
        conditions=dict(conditions or {}),
        test_samples=baseline[TEST_ACCURACY].count,
        points=len(points),
        edge_measured=edge[0],
        edge_admitted=edge[1],
        marks={mark: counts[mark] for mark in (HOLDS, WITHIN_NOISE, FELL_OFF)},
        accuracy_tau=kendall_tau(accuracies, [fresh.measurements[TEST_ACCURACY].value for fresh in points]),
        latency_tau=kendall_tau(latencies, fresh_latencies),
        accuracy_fall_points=median(accuracy_fall(fresh, baseline) for fresh in points) / point if points else None,
        latency_rise_percent=median(rises) if rises else None,
        lost=tuple(lost),
        chosen_by="validation",
    )
