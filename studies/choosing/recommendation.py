"""What is recommended of a front, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...evaluators.measurement import Measurement
from ...search.objectives import Objective
from ..results.metric_text import loss_text, metric_text, one_point_text
from .choose import Budget, Choice
from .judge import JudgedFront, judge_front
from .recommend import Recommended

if TYPE_CHECKING:
    import pandas as pd


def recommendation_of(choice: Choice) -> list[str]:
    """Return in sentences what the chosen point was chosen from; nothing where something else was asked for."""
    if choice.prefer != "recommended":
        return []
    judged = judge_front(
        choice.front, choice.budget, {name: item.value for name, item in choice.baseline.items()}, choice.further
    )
    found = judged.recommended()
    if judged.bounds_accuracy or found is None:
        return []
    return describe_recommended(judged, found, metric_of(choice.baseline), names_best=False)


def front_recommendation(
    front: pd.DataFrame, baseline: Mapping[str, Measurement], further: Sequence[Objective]
) -> list[str]:
    """Return in sentences which points of a front are recommended; nothing where it is empty.

    Args:
        front: As :func:`karui.load_front` returns it.
        baseline: The baseline's measurements by name.
        further: What the study searched for beside size, latency and accuracy.
    """
    if not len(front):
        return []
    judged = judge_front(front, Budget(), {name: item.value for name, item in baseline.items()}, further)
    found = judged.recommended()
    return [] if found is None else describe_recommended(judged, found, metric_of(baseline))


def describe_recommended(judged: JudgedFront, found: Recommended, metric: str, *, names_best: bool = True) -> list[str]:
    """Return in sentences which points are recommended, by which accuracy, and where none is as good as that.

    Args:
        judged: The front.
        found: What is recommended of it.
        metric: What the metric is called.
        names_best: Whether to name the best compromise as well.
    """
    names, baseline = judged.table["point"].tolist(), judged.baseline["accuracy"]
    keeps = len(judged.fitting) < len(names)
    loss = f"at most {one_point_text(baseline, metric)} on validation ({metric_text(found.least_accuracy)} at least)"
    best = names[found.best]
    if not found.is_near:
        lost = loss_text(baseline - float(judged.values[found.best, 2]), 0.0, baseline, metric)
        return [
            f"No point{' that keeps the budget' if keeps else ''} loses {loss}. {best} is the nearest, which loses "
            f"{lost} there. --prefer knee takes the best compromise of all, however inaccurate.",
        ]
    if len(found.among) == 1:
        return [f"{best} is the only point that {'keeps the budget and ' if keeps else ''}loses {loss}."]
    told = [f"best compromise {best}"] if names_best else []
    told += [f"{role} {names[row]}" for role, row in found.others.items()]
    said = ", ".join(told) if found.others else f"{best} is the smallest, the fastest and the most accurate"
    return [f"Of the {len(found.among)} points that {'keep the budget and ' if keeps else ''}lose {loss}: {said}."]


def metric_of(baseline: Mapping[str, Measurement]) -> str:
    """Return what the metric is called."""
    known = baseline.get("accuracy")
    return str(known.conditions.get("metric", "accuracy")) if known is not None else "accuracy"
