"""What a search found, and what was nearest where it found nothing that keeps the bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluators.measurement import Measurement, metric_text
from ...search.objectives import OBJECTIVES, Objective
from ...search.record import TrialRecord
from ...search.stopping.early_stopping import RuleReport
from ..study_file.spec import StudySpec
from .certification import Certification
from .further import further_text
from .tables import OBJECTIVE_NAMES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    Args:
        folder: The results folder.
        front: One row per point of the re-measured front, as in ``front.csv``.
        trials: One row per trial, as in ``trials.csv``.
        baseline: The baseline's measurements by name.
        ending: Why the search ended, in one sentence.
        nearest: Where no trial kept every bound: the evaluated trials that broke them least, best first.
        gates: How many candidates each gate stopped, and how often it was wrong.
        certification: How the front stood its test when it was measured again.
        objectives: What was searched for, without bounds.
    """

    folder: Path
    front: pd.DataFrame
    trials: pd.DataFrame
    baseline: dict[str, Measurement]
    ending: str
    nearest: tuple[TrialRecord, ...] = ()
    gates: tuple[RuleReport, ...] = ()
    certification: Certification | None = None
    objectives: tuple[Objective, ...] = OBJECTIVES


def nearest_records(
    records: Sequence[TrialRecord], spec: StudySpec, baseline: dict[str, Measurement], count: int = 3
) -> tuple[TrialRecord, ...]:
    """Return the evaluated trials that break the bounds least, by the sum of their relative violations."""

    def violation(record: TrialRecord) -> float:
        bounded = (*spec.bounds.objectives(), *spec.bounds.limits())
        pairs = zip(bounded, record.values([objective.name for objective in bounded]), strict=True)
        broken = (objective.violation(value, baseline[objective.name].value) for objective, value in pairs)
        return math.fsum(max(0.0, share) for share in broken if share is not None)

    evaluated = [record for record in records if record.outcome is not None]
    return tuple(sorted(evaluated, key=violation)[:count])


def describe_values(record: TrialRecord, objectives: Sequence[Objective] = OBJECTIVES) -> str:
    """Return one line with a trial's candidate and its values."""
    size, latency, accuracy = record.values(OBJECTIVE_NAMES)
    name = record.summary
    further = further_text(record, objectives)
    told = f"{size / 1e3:.1f} KB, {latency:.4g} ms, accuracy {metric_text(accuracy)}{', ' if further else ''}{further}"
    return f"trial {record.number}, {name}: {told}"
