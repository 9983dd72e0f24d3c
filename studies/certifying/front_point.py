"""A point of a front that was measured again: as a row of its table, and as the configuration beside its file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...evaluators.measurement import Measurement, metric_range
from ...search.objectives import OBJECTIVES, Objective
from ...search.record import TrialRecord
from ..results.certification import HOLDS, Mark
from ..results.tables import TEST_ACCURACY, measurement_columns, names_of
from ..storage.folder import write_atomically
from .pairing import SPLITS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FrontPoint:
    """A point of the front with what the search saw and what was found when it was measured again.

    Args:
        name: ``p01`` for the smallest file, and so on.
        record: The trial.
        measurements: By name; latency is the fresh one, ``accuracy`` is validation, ``test_accuracy`` is test.
        loss_spreads: Half widths of the 95 % intervals of what it loses against the baseline in these two.
        mark: What the point is worth, measured again; see :func:`~karui.studies.certifying.marks.marks_of`.
        front_probability: How likely it belongs to the front, given how well everything is known.
        covered_by: Name of a point than which it is certainly worse, but for a gain that may be noise (see
            :func:`~karui.search.statistics.noise.near_dominated`); None where there is none.
        file: The ONNX file in the front's folder.
    """

    name: str
    record: TrialRecord
    measurements: Mapping[str, Measurement]
    loss_spreads: Mapping[str, float]
    mark: Mark
    front_probability: float
    covered_by: str | None
    file: Path

    @property
    def holds(self) -> bool:
        """Whether its mark is *holds*."""
        return self.mark == HOLDS


def front_table(points: Sequence[FrontPoint], baseline: Mapping[str, Measurement]) -> pd.DataFrame:
    """Return one row per point of the front, with how many times smaller and faster than the baseline it is."""
    import pandas as pd

    return pd.DataFrame([_front_row(point, baseline) for point in points], columns=None if points else ["point"])


def _front_row(point: FrontPoint, baseline: Mapping[str, Measurement]) -> dict[str, Any]:
    found = point.measurements
    return {
        "point": point.name,
        "trial": point.record.number,
        "kind": point.record.candidate.architecture.kind if point.record.candidate else "",
        "candidate": point.record.summary,
        "size_x": baseline["size_bytes"].value / found["size_bytes"].value,
        "speed_x": 1.0 / found["latency_ratio"].value,
        **_losses(point, baseline),
        "holds": point.holds,
        "mark": point.mark,
        "front_probability": point.front_probability,
        "covered_by": point.covered_by,
        "search_latency_ms": point.record.values(["latency_ms"])[0],
        **measurement_columns(found),
        **point.record.parameters,
        "key": point.record.key,
        "sha256": point.record.outcome.digest if point.record.outcome else "",
        "file": f"{point.file.parent.name}/{point.file.name}",
    }


def _losses(point: FrontPoint, baseline: Mapping[str, Measurement]) -> dict[str, float]:
    """Return what a point loses against the baseline, on test in points, and on both splits in the metric's unit."""
    lost = {name: baseline[name].value - point.measurements[name].value for name in SPLITS}
    told = {"drop_points": 100.0 * lost[TEST_ACCURACY] / (metric_range(baseline[TEST_ACCURACY].value) or 1.0)}
    for name, value in lost.items():
        told |= {f"{name}_lost": value, f"{name}_lost_spread": point.loss_spreads[name]}
    return told


def describe_point(
    point: FrontPoint,
    study: str,
    baseline: Mapping[str, Measurement],
    objectives: Sequence[Objective] = OBJECTIVES,
) -> dict[str, Any]:
    """Return the configuration of a point: candidate, every measurement with its conditions, versions, digests."""
    outcome = point.record.outcome
    return {
        "format": 1,
        "study": study,
        "point": point.name,
        "trial": point.record.number,
        "summary": point.record.summary,
        "candidate": point.record.candidate.to_dict() if point.record.candidate else {},
        "parameters": dict(point.record.parameters),
        "notes": list(outcome.notes) if outcome else [],
        "measurements": {name: item.to_dict() for name, item in point.measurements.items()},
        "baseline": {name: item.to_dict() for name, item in baseline.items()},
        "objectives": list(names_of(objectives)),
        "holds": point.holds,
        "mark": point.mark,
        "front_probability": point.front_probability,
        "covered_by": point.covered_by,
        "sha256": outcome.digest if outcome else "",
        "key": point.record.key,
        "versions": _versions(),
    }


def write_descriptions(
    points: Sequence[FrontPoint],
    study: str,
    baseline: Mapping[str, Measurement],
    objectives: Sequence[Objective] = OBJECTIVES,
) -> None:
    """Write each point's configuration beside its file."""
    for point in points:
        text = json.dumps(describe_point(point, study, baseline, objectives), indent=2, ensure_ascii=False)
        write_atomically(point.file.with_suffix(".json"), text.encode())


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "onnx", "onnxruntime", "optuna")
    return {"karui": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
