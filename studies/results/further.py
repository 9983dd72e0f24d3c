"""What is searched for beside size, latency and accuracy, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...evaluators.metric import METRICS
from ...search.objectives import OBJECTIVES, Objective

if TYPE_CHECKING:
    from ...search.record import TrialRecord

_TITLES = {metric.measurement: metric.name for metric in METRICS.all.values()}


def further_text(record: TrialRecord, objectives: Sequence[Objective]) -> str:
    """Return an evaluated trial's values of what is searched for beside size, latency and accuracy, in words."""
    further = further_of(objectives)
    pairs = zip(further, record.values([objective.name for objective in further]), strict=True)
    return ", ".join(f"{title_of(objective)} {value_text(objective, value)}" for objective, value in pairs)


def title_of(objective: Objective) -> str:
    """Return what a further objective is called where it is shown, such as ``load`` or ``latency@pi5``."""
    return _TITLES.get(objective.name, objective.name.replace("_ms", ""))


def value_text(objective: Objective, value: float) -> str:
    """Return a further objective's value with its unit, such as ``12.3 ms``."""
    return f"{value / 1e6:,.1f} MB" if objective.unit == "bytes" else f"{value:.4g} {objective.unit}"


def further_of(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Return what comes after size, latency and accuracy."""
    return tuple(objectives[len(OBJECTIVES) :])
