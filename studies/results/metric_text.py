"""The task's metric in words: its values, and what a file loses of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...evaluators.measurement import Measurement, metric_range
from ...evaluators.measurement import metric_text as metric_text

if TYPE_CHECKING:
    import pandas as pd


def with_interval(value: float, spread: float) -> str:
    """Return a value of the metric with half the width of its interval, where it has one, in as many digits."""
    told = metric_text(value)
    if spread != spread or not spread:
        return told
    return f"{told} ± {spread:.4f}" if told == f"{value:.4f}" else f"{told} ± {spread:.2g}"


def has_points(baseline: float) -> bool:
    """Say whether a metric is counted in points: a share or a percentage, told by the baseline's value."""
    return metric_range(baseline) in (1.0, 100.0)


def loss_text(lost: float, spread: float, baseline: float, metric: str, digits: int = 2) -> str:
    """Return how much of the metric is lost, such as ``1.25 ± 0.40 points of accuracy``, without its sign.

    A metric that is neither a share nor a percentage has no points: its own numbers are told, and how much of the
    baseline's value that is.

    Args:
        lost: In the metric's own unit.
        spread: Half the width of its 95 % interval; 0 where it is not known.
        baseline: The baseline's value.
        metric: What the metric is called.
        digits: Behind the point.
    """
    if has_points(baseline):
        point = metric_range(baseline) / 100.0
        interval = f" ± {spread / point:.{digits}f}" if spread else ""
        return f"{abs(lost) / point:.{digits}f}{interval} points of {metric}"
    interval = f" ± {spread:.2g}" if spread else ""
    share = f" ({abs(lost / baseline):.2g} of your model's)" if baseline else ""
    return f"{abs(lost):.3g}{interval} of {metric}{share}"


def one_point_text(baseline: float, metric: str) -> str:
    """Return what the most is that a recommended file may lose, such as ``1 point of accuracy``."""
    if has_points(baseline):
        return f"1 point of {metric}"
    return f"{metric_range(baseline) / 100:.3g} of {metric}, a hundredth of your model's"


def loss_of(row: pd.Series[Any], baseline: Measurement) -> tuple[float, float]:
    """Return what a point loses against the baseline on one split, and half the width of its 95 % interval.

    Where it was kept which rows both get right, that was found out row by row when the front was measured again;
    otherwise the two count as independent, which makes the interval too wide rather than too narrow.

    Args:
        row: As in ``front.csv``.
        baseline: The baseline's measurement on that split, such as ``test_accuracy``.
    """
    lost = baseline.value - float(row[baseline.name])
    paired = row.get(f"{baseline.name}_lost_spread", math.nan)
    if paired == paired:
        return lost, float(paired)
    spread = float(row.get(f"{baseline.name}_spread", 0.0))
    return lost, math.hypot(0.0 if math.isnan(spread) else spread, baseline.spread)


def speed_text(latency_ratio: float) -> str:
    """Return what a share of another file's time is in words, such as ``2.50x faster`` or ``1.30x slower``."""
    return f"{1 / latency_ratio:.2f}x faster" if latency_ratio <= 1 else f"{latency_ratio:.2f}x slower"
