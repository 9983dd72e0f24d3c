"""The front measured again: accuracy on the held-out test split, latency afresh, from the very files to deploy."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import CandidateFailure, OutputError
from ..evaluators.measurement import Evaluator, Measurement
from ..search.front import pareto_mask
from ..search.objectives import OBJECTIVES
from ..search.record import TrialRecord
from ..spaces.artifact import Artifact, file_digest
from .folder import RunFolder, write_atomically
from .tables import measurement_columns

if TYPE_CHECKING:
    import pandas as pd

TEST_ACCURACY = "test_accuracy"


@dataclass(frozen=True)
class FrontPoint:
    """A point of the front with what the search saw and what was found when it was measured again.

    Args:
        name: ``p01`` for the smallest file, and so on.
        record: The trial.
        measurements: By name; latency is the fresh one, ``accuracy`` is validation, ``test_accuracy`` is test.
        holds: Whether no other point of the front dominates it in size, fresh latency and test accuracy.
        file: The ONNX file in the front's folder.
    """

    name: str
    record: TrialRecord
    measurements: Mapping[str, Measurement]
    holds: bool
    file: Path


def certify(
    front: Sequence[TrialRecord],
    evaluators: Sequence[Evaluator],
    find_artifact: Callable[[TrialRecord], Artifact],
    folder: RunFolder,
) -> tuple[list[FrontPoint], list[str]]:
    """Measure every point of the front again and copy its file to the front's folder.

    A file that cannot be measured on the test split is left out, and never ends the certifying of the others.

    Args:
        front: Trials, smallest file first.
        evaluators: Latency and test accuracy.
        find_artifact: Returns the file of a trial, made again where it is missing.
        folder: The results folder.

    Returns:
        The points, and for each trial that is left out one sentence that says why.

    Raises:
        OutputError: Where a file is not byte for byte the one that the search measured.
    """
    measured, lost = [], []
    for record in front:
        artifact = find_artifact(record)
        _check_same(record, artifact)
        try:
            fresh = {item.name: item for evaluator in evaluators for item in evaluator.measure(artifact)}
        except CandidateFailure as failure:
            lost.append(f"trial {record.number} fell off when it was measured again: {failure.reason}")
            continue
        known = record.outcome.measurements if record.outcome else {}
        measured.append((record, artifact, {**known, **fresh}))
    names = ("size_bytes", "latency_ms", TEST_ACCURACY)
    mask = pareto_mask([[found[name].value for name in names] for _, _, found in measured], OBJECTIVES)
    folder.front_files.mkdir(parents=True, exist_ok=True)
    points = [
        FrontPoint(f"p{rank:02d}", record, found, bool(holds), folder.front_files / f"p{rank:02d}-{record.key}.onnx")
        for rank, ((record, _, found), holds) in enumerate(zip(measured, mask, strict=True), start=1)
    ]
    _replace_files(folder, points, [artifact for _, artifact, _ in measured])
    return points, lost


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
        "candidate": point.record.candidate.describe() if point.record.candidate else "",
        "size_x": baseline["size_bytes"].value / found["size_bytes"].value,
        "speed_x": 1.0 / found["latency_ratio"].value,
        "drop_points": 100.0 * (baseline[TEST_ACCURACY].value - found[TEST_ACCURACY].value),
        "holds": point.holds,
        **measurement_columns(found),
        **point.record.parameters,
        "key": point.record.key,
        "sha256": point.record.outcome.digest if point.record.outcome else "",
        "file": f"{point.file.parent.name}/{point.file.name}",
    }


def describe_point(point: FrontPoint, study: str, baseline: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the configuration of a point: candidate, every measurement with its conditions, versions, digests."""
    outcome = point.record.outcome
    return {
        "format": 1,
        "study": study,
        "point": point.name,
        "trial": point.record.number,
        "summary": point.record.candidate.describe() if point.record.candidate else "",
        "candidate": point.record.candidate.to_dict() if point.record.candidate else {},
        "parameters": dict(point.record.parameters),
        "measurements": {name: item.to_dict() for name, item in point.measurements.items()},
        "baseline": {name: item.to_dict() for name, item in baseline.items()},
        "holds": point.holds,
        "sha256": outcome.digest if outcome else "",
        "key": point.record.key,
        "versions": _versions(),
    }


def write_descriptions(points: Sequence[FrontPoint], study: str, baseline: Mapping[str, Measurement]) -> None:
    """Write each point's configuration beside its file."""
    for point in points:
        text = json.dumps(describe_point(point, study, baseline), indent=2, ensure_ascii=False)
        write_atomically(point.file.with_suffix(".json"), text.encode())


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "onnx", "onnxruntime", "optuna")
    return {"karui": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def _check_same(record: TrialRecord, artifact: Artifact) -> None:
    if record.outcome is not None and artifact.digest != record.outcome.digest:
        raise OutputError(
            f"the file of trial {record.number} is not the one that was measured",
            where=str(artifact.path),
            expected=f"sha256 {record.outcome.digest}",
            got=f"sha256 {artifact.digest}",
            remedy="restore that file, or start anew with another --out: trained anew, it came out different",
        )


def _replace_files(folder: RunFolder, points: Sequence[FrontPoint], artifacts: Sequence[Artifact]) -> None:
    """Make the front's folder hold just these files: an earlier, shorter search may have left others."""
    wanted = {point.file.stem for point in points}
    for left in folder.front_files.iterdir():
        if left.stem not in wanted and left.suffix in (".onnx", ".json"):
            left.unlink()
    for point, artifact in zip(points, artifacts, strict=True):
        if not point.file.exists() or file_digest(point.file) != artifact.digest:
            copyfile(artifact.path, point.file)
