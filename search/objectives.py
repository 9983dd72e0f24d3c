"""Objectives: name, direction, unit and bound; the only place where a sign is flipped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..evaluators.measurement import metric_range
from ..evaluators.metric import METRICS
from ..evaluators.targets.several_targets import measured_on

Direction = Literal["minimize", "maximize"]

_UNITS: dict[str, dict[str, float]] = {
    "bytes": {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "ms": {"": 1, "us": 1e-3, "ms": 1, "s": 1e3},
    "mJ": {"": 1, "uj": 1e-3, "mj": 1, "j": 1e3},
    "1": {"": 1, "%": 0.01},
}
_EXAMPLES = {
    "bytes": "60KB, 1.5MB, 48000 or 0.1x",
    "ms": "0.4ms, 2s or 0.3x",
    "mJ": "2mJ, 0.5J or 0.5x",
    "1": "0.97 or 97%",
}
_QUANTITY = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)\s*([A-Za-z%]*)\s*")
_MOST = 1e18
"""Of a limit, in the objective's unit or as a share: beyond that it bounds nothing, and cannot be reckoned with."""


@dataclass(frozen=True)
class Bound:
    """A limit on one objective: a plain number, or a share of the baseline's value.

    Args:
        limit: The number, in the objective's unit; or the share where ``relative``.
        relative: Whether the limit is a multiple of the baseline's value, written ``0.3x``.
        percent: Whether it was written in percent, ``97%``: 0.97, or 97 where the metric itself is a percentage.
    """

    limit: float
    relative: bool = False
    percent: bool = field(default=False, compare=False)

    def resolve(self, baseline: float) -> float:
        """Return the limit in the objective's unit, given the baseline's value in that unit.

        Of a metric that is negative, such as an error with its sign turned, ``0.98x`` allows for 2 % of its magnitude
        less, as it does of one that is positive: -0.102 beside a baseline of -0.1.
        """
        if self.relative:
            return (self.limit if baseline >= 0 else 2.0 - self.limit) * baseline
        return self.limit * (metric_range(baseline) if self.percent and metric_range(baseline) == 100.0 else 1.0)


@dataclass(frozen=True)
class Objective:
    """One thing to make small or large.

    Args:
        name: Name of the measurement it reads.
        direction: ``minimize`` or ``maximize``.
        unit: Unit of that measurement.
        bound: Largest (minimize) or smallest (maximize) value that is acceptable.
    """

    name: str
    direction: Direction
    unit: str
    bound: Bound | None = None

    def violation(self, value: float, baseline: float) -> float | None:
        """Return by what share of the limit the bound is broken (0 or less: kept), or None without a bound.

        Where the limit is 0, it is the share of the baseline's value; the difference itself where that is 0 too.
        """
        if self.bound is None:
            return None
        limit = self.bound.resolve(baseline)
        excess = value - limit if self.direction == "minimize" else limit - value
        return excess / (abs(limit) or abs(baseline) or 1.0)

    def bound_text(self, baseline: float) -> str:
        """Return the bound as it is shown, such as ``size_bytes <= 60000``."""
        if self.bound is None:
            return ""
        sign = "<=" if self.direction == "minimize" else ">="
        return f"{self.name} {sign} {self.bound.resolve(baseline):g}"


OBJECTIVES = (
    Objective("size_bytes", "minimize", "bytes"),
    Objective("latency_ms", "minimize", "ms"),
    Objective("accuracy", "maximize", "1"),
)
"""The three objectives that every study has, first in the order of the values of a trial."""

LIMITS = tuple(Objective(metric.measurement, metric.direction, metric.unit) for metric in METRICS.all.values())
"""What may have a bound, and may be a further objective; measured of a candidate only where it has or is one."""

_LATENCY_ON = measured_on("latency_ms", "")


def latency_on(target: str) -> Objective:
    """Return the latency on one target among several as an objective of its own, such as ``latency_ms@pi5``."""
    return Objective(measured_on("latency_ms", target), "minimize", "ms")


def objectives_named(names: Sequence[str]) -> tuple[Objective, ...]:
    """Return the objectives, without bounds, of which a study keeps the names.

    Args:
        names: Those of :data:`OBJECTIVES` first; then, in any order, those of :data:`LIMITS` and latencies on targets.

    Raises:
        ValueError: Where these are no names of objectives in that order.
    """
    further = {limit.name: limit for limit in LIMITS}
    first = len(OBJECTIVES)
    if tuple(names[:first]) != tuple(objective.name for objective in OBJECTIVES):
        raise ValueError(f"size, latency and accuracy come first, not {', '.join(names[:first])}")
    found = list(OBJECTIVES)
    for name in names[first:]:
        if name not in further and not name.startswith(_LATENCY_ON):
            raise ValueError(f"{name!r} is no objective")
        found.append(further.get(name) or latency_on(name.removeprefix(_LATENCY_ON)))
    return tuple(found)


def without_bounds(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Return objectives as they are without their bounds."""
    return tuple(replace(objective, bound=None) for objective in objectives)


def parse_bound(text: str | float, objective: Objective) -> Bound:
    """Read a bound such as ``60KB``, ``0.4ms``, ``0.3x``, ``97%`` or a plain number.

    Raises:
        ValueError: Where the text is no quantity of the objective's unit, or not positive.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity; expected for example {_EXAMPLES[objective.unit]}")
    number, unit = float(match[1]), match[2].lower()
    if abs(number) * _UNITS[objective.unit].get(unit, 1) > _MOST:
        raise ValueError(f"{text!r} is too large; expected for example {_EXAMPLES[objective.unit]}")
    # Sizes and times are positive; a metric, such as a negative error, need not be.
    if number <= 0 and (objective.unit != "1" or unit == "x"):
        raise ValueError(f"{text!r} is not positive; expected for example {_EXAMPLES[objective.unit]}")
    if unit == "x":
        return Bound(number, relative=True)
    if unit not in _UNITS[objective.unit]:
        raise ValueError(f"{text!r} has an unknown unit; expected for example {_EXAMPLES[objective.unit]}")
    # In decimals, as it is written: 95 * 0.01 in binary is more than 0.95.
    limit = float(Decimal(match[1]) * Decimal(str(_UNITS[objective.unit][unit])))
    return Bound(limit, percent=unit == "%")


def with_bounds(bounds: Mapping[str, str | float | None]) -> tuple[Objective, ...]:
    """Return the objectives with the bounds given by objective name; None stands for no bound.

    Raises:
        ValueError: As :func:`parse_bound`.
    """
    return tuple(_with_bound(objective, bounds.get(objective.name)) for objective in OBJECTIVES)


def bounded_limits(bounds: Mapping[str, str | float | None]) -> tuple[Objective, ...]:
    """Return those of :data:`LIMITS` that have a bound, given by their names; None stands for no bound.

    Raises:
        ValueError: As :func:`parse_bound`.
    """
    limits = (_with_bound(limit, bounds.get(limit.name)) for limit in LIMITS)
    return tuple(limit for limit in limits if limit.bound is not None)


def _with_bound(objective: Objective, text: str | float | None) -> Objective:
    return objective if text is None else replace(objective, bound=parse_bound(text, objective))


def as_losses(
    values: Sequence[Sequence[float]] | NDArray[np.float64], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """Return values turned so that smaller is better throughout.

    Args:
        values: Shape (n_trials, n_objectives).
        objectives: As many as there are columns.

    Raises:
        ValueError: Where a value is missing or not finite: a missing number must never be ranked.
    """
    matrix: NDArray[np.float64] = np.asarray(values, dtype=np.float64).reshape(-1, len(objectives))
    if not np.isfinite(matrix).all():
        raise ValueError("a missing or non-finite value cannot be ranked")
    signs = np.array([1.0 if objective.direction == "minimize" else -1.0 for objective in objectives])
    losses: NDArray[np.float64] = matrix * signs
    return losses
