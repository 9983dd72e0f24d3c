"""The front judged by what was measured again, from the very files to deploy, and as it is kept."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ...errors import OutputError
from ...evaluators.measurement import Measurement, metric_range
from ...search.front import pareto_mask
from ...search.noise import cover, front_probability
from ...search.objectives import OBJECTIVES, Objective
from ...search.record import TrialRecord, utc_now
from ...spaces.artifact import Artifact, file_digest
from ..storage.folder import RunFolder, write_atomically
from ..tables import TEST_ACCURACY as TEST_ACCURACY
from ..tables import measurement_columns, names_of
from .certification import HOLDS, Certification, Mark
from .marks import marks_of, summarize
from .pairing import SPLITS, Pairing, pairing_of
from .remeasuring import Fresh, MeasuredAgain, objectives_of

if TYPE_CHECKING:
    import pandas as pd

    from ..measuring.bench import Bench


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
            :func:`~karui.search.noise.cover`); None where there is none.
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


@dataclass(frozen=True)
class Certified:
    """A front that was measured again.

    Args:
        points: Smallest file first.
        certification: How they stood it.
    """

    points: tuple[FrontPoint, ...]
    certification: Certification


def files_to_measure(
    front: Sequence[TrialRecord], edge: Sequence[TrialRecord], bench: Bench
) -> list[tuple[TrialRecord, Artifact]]:
    """Return the trials of the front, and those of its edge whose file is at hand, with their files.

    Args:
        front: Their files are made again where they are missing.
        edge: Theirs are not: what is not on the front is not worth training.
        bench: Finds files.

    Raises:
        OutputError: Where a file of the front is not byte for byte the one that the search measured.
    """
    found = [(record, bench.find_artifact(record)) for record in front]
    for record, artifact in found:
        _check_same(record, artifact)
    for record in edge:
        kept = bench.kept_artifact(record)
        if kept is not None and record.outcome is not None and kept.digest == record.outcome.digest:
            found.append((record, kept))
    return found


def certify(
    front: Sequence[TrialRecord],
    again: MeasuredAgain,
    baseline: Mapping[str, Measurement],
    folder: RunFolder,
    conditions: Mapping[str, Any],
) -> Certified:
    """Judge a front by what was measured again, and copy its files to the front's folder.

    Every point of the front stays, with its mark; from its edge those come in that nothing dominates, their latency
    measured again. Both go by validation accuracy: test accuracy is reported, and chooses nothing. A file that could
    not be measured is left out, and never ends the certifying of the others.

    Args:
        front: The trials that no other dominated in the search.
        again: What was measured, the edge of the front included.
        baseline: The baseline's measurements, test accuracy included.
        folder: The results folder.
        conditions: Of the latencies.
    """
    own = {record.number for record in front}
    points = _points(again.found, own, baseline, folder, pairing_of(folder.rows, baseline))
    found = {fresh.record.number: fresh for fresh in again.found}
    kept = [found[point.record.number] for point in points]
    folder.front_files.mkdir(parents=True, exist_ok=True)
    _replace_files(folder, points, [fresh.artifact for fresh in kept])
    certification = summarize(
        kept,
        [point.mark for point in points],
        baseline,
        time=utc_now(),
        same_process=again.same_process,
        conditions=conditions,
        edge=(len(found.keys() - own), sum(fresh.record.number not in own for fresh in kept)),
        lost=[
            f"trial {number} fell off when it was measured again: {reason}"
            for number, reason in again.lost.items()
            if number in own
        ]
        + _late(again.late, own),
    )
    return Certified(tuple(points), certification)


def _late(late: Sequence[int], own: set[int]) -> list[str]:
    """Return in a sentence each what there was no time for."""
    front, edge = [number for number in late if number in own], [number for number in late if number not in own]
    told = []
    if front:
        named = f"trial {front[0]}" if len(front) == 1 else f"trials {', '.join(map(str, front))}"
        told.append(f"no time was left to measure {named} of the front again; the same command does it")
    if edge:
        files = "1 file" if len(edge) == 1 else f"{len(edge)} files"
        told.append(f"no time was left to measure {files} beside the front again")
    return told


def _points(
    found: Sequence[Fresh], own: set[int], baseline: Mapping[str, Measurement], folder: RunFolder, pairing: Pairing
) -> list[FrontPoint]:
    """Return the points of the front and those of its edge that nothing dominates, smallest file first."""
    values, spreads = [fresh.values for fresh in found], [fresh.spreads for fresh in found]
    objectives = objectives_of(found)
    differences = pairing.differences([fresh.artifact.digest for fresh in found], objectives)
    likely = front_probability(values, spreads, objectives, differences)
    undominated = pareto_mask(values, objectives)
    rows = [index for index, fresh in enumerate(found) if fresh.record.number in own or undominated[index]]
    rows.sort(key=lambda index: found[index].record.values(names_of(objectives)))
    kept = [found[index] for index in rows]
    marks = marks_of(kept, baseline, pairing)
    among = None if differences is None else differences[np.ix_(rows, rows)]
    covering = cover([fresh.values for fresh in kept], [fresh.spreads for fresh in kept], objectives, among)
    names = [f"p{rank:02d}" for rank in range(1, len(kept) + 1)]
    return [
        FrontPoint(
            name=name,
            record=fresh.record,
            measurements=fresh.measurements,
            loss_spreads={
                name: pairing.spread_of_loss(fresh.artifact.digest, fresh.measurements[name], baseline)
                for name in SPLITS
            },
            mark=mark,
            front_probability=float(likely[index]),
            covered_by=None if by is None else names[by],
            file=folder.front_files / f"{name}-{fresh.record.key}.onnx",
        )
        for name, index, fresh, mark, by in zip(names, rows, kept, marks, covering, strict=True)
    ]


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
        "summary": point.record.candidate.describe() if point.record.candidate else "",
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
