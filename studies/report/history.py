"""How the front grew, and what each axis brought to it, by hypervolume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...search.objectives import OBJECTIVES, Objective
from ...search.statistics.front import HypervolumeHistory, hypervolume
from ..results.tables import names_of
from .trial_axes import names_of_uses

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class History:
    """The hypervolume of the front so far after each trial that was measured.

    Args:
        counts: How many trials had been measured by then.
        hours: Since the search first began; empty where the log does not know it of every trial.
        volumes: The hypervolume, never falling.
    """

    counts: tuple[int, ...]
    hours: tuple[float, ...]
    volumes: tuple[float, ...]


def volume_history(
    evaluated: pd.DataFrame,
    baseline: Sequence[float],
    events: Sequence[Mapping[str, Any]] = (),
    objectives: Sequence[Objective] = OBJECTIVES,
) -> History:
    """Return how the hypervolume grew, by validation accuracy, one entry per trial that was measured.

    Args:
        evaluated: The trials with all values, in the order of their numbers.
        baseline: The baseline's value of each objective, on validation.
        events: The search's log, for the times.
        objectives: Those of the study.
    """
    values = evaluated[list(names_of(objectives))].to_numpy(dtype=np.float64)
    feasible = evaluated["feasible"].to_numpy(dtype=bool)
    growth = HypervolumeHistory(baseline, objectives)
    numbers = evaluated["trial"].to_numpy(dtype=int)
    for number, point, counts in zip(numbers.tolist(), values, feasible.tolist(), strict=True):
        growth.add(number, point, counts)
    hours = _hours(numbers, events)
    return History(tuple(range(1, len(values) + 1)), hours, tuple(growth.volumes))


def _hours(numbers: NDArray[np.int_], events: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return when each trial ended, in hours since the first event; nothing where it is not known of every trial."""
    ended = {event["trial"]: event["time"] for event in events if event.get("event") == "trial ended"}
    if not len(numbers) or not all(int(number) in ended for number in numbers):
        return ()
    begin = datetime.fromisoformat(min(event["time"] for event in events))
    hours = [(datetime.fromisoformat(ended[int(number)]) - begin).total_seconds() / 3600 for number in numbers]
    # several workers end trials out of order; by then at the latest all before it were known as well
    return tuple(np.maximum.accumulate(hours).tolist())


@dataclass(frozen=True)
class Contribution:
    """What one axis brought to the front.

    Args:
        axis: Its name in words.
        points: How many points of the front use it.
        trials: How many trials that keep the bounds use it.
        share_of_points: Share of the front's hypervolume lost without the points that use it.
        share_for_good: The same where the best trials that do not use it take their places.
    """

    axis: str
    points: int
    trials: int
    share_of_points: float
    share_for_good: float


def axis_contributions(
    feasible: pd.DataFrame,
    uses: Mapping[str, NDArray[np.bool_]],
    baseline: Sequence[float],
    objectives: Sequence[Objective] = OBJECTIVES,
) -> tuple[Contribution, ...]:
    """Return what each axis brought to the front, by validation accuracy; axes that no trial uses are left out.

    Args:
        feasible: The trials that keep every bound.
        uses: By axis, which of them use it; see :func:`~karui.studies.report.trial_axes.axes_used`.
        baseline: The baseline's value of each objective, on validation.
        objectives: Those of the study.
    """

    def volume(points: NDArray[np.float64]) -> float:
        return hypervolume(points, baseline, objectives)

    values = feasible[list(names_of(objectives))].to_numpy(dtype=np.float64)
    on_front = feasible["on_front"].to_numpy(dtype=bool)
    whole = volume(values[on_front])
    found, words = [], names_of_uses()
    for axis, used in uses.items():
        if used.any():
            rest, others = volume(values[on_front & ~used]), volume(values[~used])
            shares = [1.0 - min(part / whole, 1.0) if whole else 0.0 for part in (rest, others)]
            found.append(Contribution(words[axis], int((on_front & used).sum()), int(used.sum()), *shares))
    return tuple(sorted(found, key=lambda each: -each.share_of_points))
