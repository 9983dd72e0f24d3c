"""The front judged by what was measured again, from the very files to deploy, and as it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shutil import copyfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import OutputError
from ...evaluators.measurement import Measurement
from ...search.record import TrialRecord, utc_now
from ...search.statistics.front import pareto_mask
from ...search.statistics.noise import front_probability, near_dominated
from ...spaces.artifact import Artifact, file_digest
from ..results.certification import Certification
from ..results.tables import TEST_ACCURACY as TEST_ACCURACY
from ..results.tables import names_of
from ..storage.folder import RunFolder
from .fresh import Fresh, objectives_of
from .front_point import FrontPoint
from .marks import marks_of, summarize
from .pairing import SPLITS, Pairing, pairing_of
from .remeasuring import MeasuredAgain

if TYPE_CHECKING:
    from ..measuring.bench import Bench


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
    covering = near_dominated([fresh.values for fresh in kept], [fresh.spreads for fresh in kept], objectives, among)
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
