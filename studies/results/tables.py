"""Tables of trials and of the front, as pandas sees them and as CSV keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluators.measurement import Measurement
from ...search.objectives import OBJECTIVES, Objective
from ...search.promotion import without_replaced
from ...search.record import TrialRecord
from ...search.statistics.front import pareto_mask
from ...search.statistics.noise import Differences, Floats, edge_of_front
from ..storage.folder import write_atomically

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVE_NAMES = tuple(objective.name for objective in OBJECTIVES)

TEST_ACCURACY = "test_accuracy"


MOST_ON_EDGE = 8
"""How many files beside the front are measured again at most; each takes a few seconds."""

_FIRST_COLUMNS = ["trial", "state", "stage", "reason", "kind", "candidate", "key", "feasible", "on_front", "seconds"]
_STAGES = (
    "draft",
    "architecture",
    "recovery",
    "statistics",
    "export",
    "quantization",
    "packing",
    "exit",
    "size",
    "latency",
    "accuracy",
)


def names_of(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Return the names of objectives: those of the measurements that a search compares by."""
    return tuple(objective.name for objective in objectives)


def front_records(records: Sequence[TrialRecord], objectives: Sequence[Objective] = OBJECTIVES) -> list[TrialRecord]:
    """Return the feasible trials that no other feasible trial dominates or has taken the place of, smallest file first.

    The place of a trial is taken where its candidate was promoted (:func:`~karui.search.promotion.without_replaced`).
    """
    feasible = [record for record in without_replaced(records) if record.feasible]
    names = names_of(objectives)
    mask = pareto_mask([record.values(names) for record in feasible], objectives)
    front = [record for record, kept in zip(feasible, mask, strict=True) if kept]
    return sorted(front, key=lambda record: record.values(names))


def edge_records(
    records: Sequence[TrialRecord],
    most: int = MOST_ON_EDGE,
    objectives: Sequence[Objective] = OBJECTIVES,
    differences: Differences | None = None,
) -> list[TrialRecord]:
    """Return the feasible trials on the edge of the front: not on it, but only by what may be noise.

    Which those are says :func:`~karui.search.statistics.noise.edge_of_front`. A file that another trial has as well
    counts once.

    Args:
        records: All trials.
        most: How many to return at most, the likeliest first.
        objectives: Those of the study.
        differences: How well differences of files are known; values count as independent without it.
    """
    by_file: dict[str, TrialRecord] = {}
    for record in without_replaced(records):
        if record.feasible and record.outcome is not None:
            by_file.setdefault(record.outcome.digest, record)
    digests, feasible = list(by_file), list(by_file.values())
    names = names_of(objectives)
    values, spreads = [record.values(names) for record in feasible], [record.spreads(names) for record in feasible]

    def among(indices: list[int]) -> Floats | None:
        return None if differences is None else differences([digests[index] for index in indices])

    return [feasible[index] for index in edge_of_front(values, spreads, objectives, most, differences=among)]


def trials_table(records: Sequence[TrialRecord], objectives: Sequence[Objective] = OBJECTIVES) -> pd.DataFrame:
    """Return one row per trial that has begun: state, reason, parameters, measurements with spread, and its time."""
    import pandas as pd

    on_front = {record.number for record in front_records(records, objectives)}
    # A trial that waits is a plan (a follower, or what was interrupted): the same command goes on with it.
    begun = [record for record in records if record.state != "waiting"]
    rows = [_trial_row(record, record.number in on_front) for record in begun]
    return pd.DataFrame(rows, columns=None if rows else _FIRST_COLUMNS)


def _trial_row(record: TrialRecord, on_front: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": record.number,
        "state": record.state,
        "stage": record.stage,
        "reason": record.reason,
        "kind": record.candidate.architecture.kind if record.candidate else "",
        "candidate": record.summary,
        "key": record.key,
        "feasible": record.feasible if record.outcome else None,
        "on_front": on_front,
        "seconds": round(record.seconds, 3),
    }
    row |= dict(record.parameters)
    if record.outcome is not None:
        row |= measurement_columns(record.outcome.measurements)
        stages = {stage.stage: stage for stage in record.outcome.stages}
        row |= {f"seconds_{name}": round(stages[name].seconds, 3) for name in _STAGES if name in stages}
        row["network_cached"] = "network" in stages
        row["sha256"] = record.outcome.digest
        if record.outcome.notes:
            row["notes"] = " ".join(record.outcome.notes)
    return row


def measurement_columns(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    """Return value, spread and count of each measurement under its name; exact ones have no spread."""
    columns: dict[str, float] = {}
    for name, measurement in measurements.items():
        columns[name] = measurement.value
        if measurement.count > 1:
            columns[f"{name}_spread"] = measurement.spread
            columns[f"{name}_count"] = measurement.count
    return columns


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
