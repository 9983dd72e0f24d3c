"""The same thing measured several times, as one measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..measurement import Measurement


def average(measurements: Sequence[Measurement]) -> Measurement:
    """Return the mean of measurements of the same thing, weighted by the inverse of their variances.

    Where they differ by more than their own spreads explain, the spread of the mean is enlarged by Birge's ratio
    (Birge, Physical Review 1932; as in the introduction to the Review of Particle Physics), so that repeating never
    hides what a single interval did not know. Where one has no spread, all count alike, and the largest spread stays.

    Args:
        measurements: At least one, of one name and unit. Conditions are those of the first, and ``repeats`` says how
            many there are.

    Raises:
        ValueError: Where there is none, or they are not of the same thing.
    """
    if len({(item.name, item.unit) for item in measurements}) != 1:
        raise ValueError(f"measurements of one thing expected, got {[item.name for item in measurements]}")
    first = measurements[0]
    if len(measurements) == 1:
        return first
    values = np.array([item.value for item in measurements])
    spreads = np.array([item.spread for item in measurements])
    if spreads.all():
        weights = 1.0 / spreads**2
        mean = float(weights @ values / weights.sum())
        # In units of spreads; of deviations it is 1.96 times as much.
        deviations = 1.96 * (values - mean) / spreads
        ratio = np.sqrt(deviations @ deviations / (len(values) - 1))
        spread = max(1.0, float(ratio)) / float(np.sqrt(weights.sum()))
    else:
        mean, spread = float(values.mean()), float(spreads.max())
    return replace(
        first,
        value=mean,
        spread=spread,
        count=sum(item.count for item in measurements),
        conditions={**first.conditions, "repeats": len(measurements)},
    )
