"""Measurement: a number with its unit, spread, count and conditions; and the protocol of what makes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ..spaces.artifact import Artifact

_POSITIVE = ("size_bytes", "latency_ms", "latency_ratio")


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Args:
        name: What was measured, with its unit in the name where it has one: ``size_bytes``, ``latency_ms``.
        value: The number; always finite, since a missing one is a status and not a number.
        unit: ``bytes``, ``ms``, ``mJ``, or ``1`` for shares and ratios.
        spread: Half the width of the 95 % interval, in the same unit; 0 for what is exact.
        count: How many samples stand behind it.
        conditions: Under what it was measured, JSON types only.

    Raises:
        ValueError: Where value or spread is not finite, or the count is not positive.
    """

    name: str
    value: float
    unit: str
    spread: float = 0.0
    count: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not math.isfinite(self.spread) or self.spread < 0 or self.count < 1:
            raise ValueError(f"{self.name}: {self.value} +- {self.spread} over {self.count} is no measurement")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Measurement:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError: Where that is something else.
        """
        found = cls(**plain)
        numbers = (found.value, found.spread, found.count)
        if not all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in numbers):
            raise ValueError(f"{found.name}: a number was expected, got {numbers}")
        texts = (found.name, found.unit)
        if not all(isinstance(item, str) for item in texts) or not isinstance(found.conditions, Mapping):
            raise ValueError(f"{found.name}: a name, a unit and conditions were expected")
        if found.value <= 0 and found.name.partition("@")[0] in _POSITIVE:
            raise ValueError(f"{found.name}: {found.value} is no size and no time")
        return found


def metric_range(baseline: float) -> float:
    """Return how long the scale of a task's metric is, told by what the baseline reaches: a hundredth of it is a point.

    A metric is any number, and nothing says what its best and worst may be. From 0 to 1 it is taken for a share, whose
    scale is 1, and from 50 to 100 for a percentage, whose scale is 100. Of any other the scale is as long as the
    baseline's value is large, so that a point is a hundredth of that: of a mean squared error of 0.02, told as -0.02,
    a point is 0.0002.

    Args:
        baseline: The baseline's value of the metric.
    """
    if 0.0 <= baseline <= 1.0:
        return 1.0
    if 50.0 <= baseline <= 100.0:
        return 100.0
    return abs(baseline)


def metric_text(value: float) -> str:
    """Return a value of a metric as it is shown: four digits after the point, where these say enough."""
    if 0.01 <= abs(value) < 10_000 or value == 0:
        return f"{value:.4f}"
    return f"{value:.6g}" if abs(value) >= 10_000 else f"{value:.4g}"


class Evaluator(Protocol):
    """Measures one file. It never changes the file, and never says which direction is better."""

    @property
    def name(self) -> str:
        """The stage name under which a failure of this evaluator is recorded."""

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Measure the file.

        Raises:
            CandidateFailure: Where the file cannot be measured.
        """
