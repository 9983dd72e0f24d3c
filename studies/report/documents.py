"""What is known of a point beyond its row: the candidate, every measurement with its conditions, and the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from ...evaluators.measurement import Measurement
from ...search.record import TrialRecord, read_record
from ...spaces.candidate import Candidate
from ..results.point_file import point_file
from ..results.read import read_description
from ..storage.folder import RunFolder
from ..storage.reading import explain_damage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PointDocument:
    """What is known of one point.

    Args:
        candidate: What it is made of, where that is known.
        measurements: By name.
        versions: Of what it was made with, by name.
        file: Its ONNX file, where it lies in the results folder.
        notes: What it was made of otherwise than asked for, a sentence each.
    """

    candidate: Candidate | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    notes: tuple[str, ...] = ()


def read_documents(
    folder: RunFolder, points: pd.DataFrame, records: Sequence[TrialRecord], study: optuna.Study | None
) -> dict[int, PointDocument]:
    """Return what is known of each point, by trial: from the description beside its file, else from the database."""
    known = {record.number: record for record in records}
    documents = {}
    for row in points.to_dict("records"):
        number = int(row["trial"])
        described = point_file(row, folder) if isinstance(row.get("file"), str) else None
        if described is not None and described.with_suffix(".json").exists():
            documents[number] = _from_description(described)
        elif number in known:
            documents[number] = _from_record(folder, known[number])
        elif study is not None:
            documents[number] = _from_record(folder, _read_one(study, number))
        else:
            documents[number] = PointDocument()
    return documents


def _from_description(file: Path) -> PointDocument:
    path = file.with_suffix(".json")
    plain: dict[str, Any] = read_description(path)
    with explain_damage(path, "the configuration of a point"):
        return PointDocument(
            candidate=Candidate.from_dict(plain["candidate"]) if plain.get("candidate") else None,
            measurements={name: Measurement.from_dict(item) for name, item in plain["measurements"].items()},
            versions={str(name): str(version) for name, version in plain.get("versions", {}).items()},
            file=file if file.is_file() else None,
            notes=tuple(map(str, plain.get("notes", ()))),
        )


def _from_record(folder: RunFolder, record: TrialRecord) -> PointDocument:
    # where a builder puts it; another machine's file is not here
    file = folder.build / "files" / f"{record.key}.onnx"
    return PointDocument(
        candidate=record.candidate,
        measurements=record.outcome.measurements if record.outcome else {},
        file=file if record.key and file.is_file() else None,
        notes=record.outcome.notes if record.outcome else (),
    )


def _read_one(study: optuna.Study, number: int) -> TrialRecord:
    """Read one trial; to read all, of which there may be thousands, takes much longer."""
    storage = study._storage
    return read_record(storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number)))
