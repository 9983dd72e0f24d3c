"""What a report is made of: trials, front, baseline and log, read once and quickly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import sqlalchemy
from sqlalchemy.engine import make_url

from ...evaluators.measurement import Measurement
from ...evaluators.metric import METRICS
from ...search.objectives import Objective, parse_bound
from ...search.record import TrialRecord, read_records
from ..results.further import further_of
from ..results.read import Results, read_description, read_front_table, read_measurements, read_objectives
from ..results.result_tables import read_trials_csv
from ..results.tables import OBJECTIVE_NAMES, names_of, trials_table
from ..storage.folder import RunFolder
from ..storage.reading import check_is_file, explain_damage
from ..storage.storage_errors import explain_storage_errors
from ..storage.store import open_study
from ..storage.study_notes import read_baseline
from ..watching.log import read_log
from .documents import PointDocument, read_documents

if TYPE_CHECKING:
    import pandas as pd

NEAREST = 10
"""How many candidates are shown where none keeps every bound."""

_ENDED = ("COMPLETE", "PRUNED", "FAIL")
_BOUNDS = {
    "size_bytes": "max_size",
    "latency_ms": "max_latency",
    "accuracy": "min_accuracy",
    **{metric.measurement: metric.bound for metric in METRICS.all.values()},
}


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Args:
        name: Name of the study.
        folder: Its results folder.
        trials: One row per trial that has begun, as in ``trials.csv``.
        points: The front, one row per point; where no trial keeps every bound, the nearest ones.
        is_front: Whether ``points`` is a front.
        on_test: Whether its accuracies are those of the test split.
        is_stale: Whether the search has gone on since that front was measured again.
        baseline: The baseline's measurements by name; empty where they are not known yet.
        objectives: Size, latency and accuracy, and further ones of the study, with its bounds.
        documents: What is known of each point, by trial.
        attributes: What the study's storage knows of the study itself.
        events: The search's log.
    """

    name: str
    folder: RunFolder
    trials: pd.DataFrame
    points: pd.DataFrame
    is_front: bool
    on_test: bool
    is_stale: bool
    baseline: dict[str, Measurement]
    objectives: tuple[Objective, ...]
    documents: dict[int, PointDocument]
    attributes: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def accuracy(self) -> str:
        """The column by which accuracy is reported; points are chosen by ``accuracy``, which is that of validation."""
        return "test_accuracy" if self.on_test else "accuracy"

    @property
    def baseline_values(self) -> tuple[float, float, float]:
        """The baseline's size in bytes, latency in ms, and validation accuracy, by which points are chosen."""
        size, latency, accuracy = (self.baseline[name].value for name in OBJECTIVE_NAMES)
        return size, latency, accuracy

    @property
    def evaluated(self) -> pd.DataFrame:
        """The trials that were measured to their end."""
        return evaluated_rows(self.trials, names_of(self.objectives))

    @property
    def further(self) -> tuple[Objective, ...]:
        """What is searched for beside size, latency and accuracy."""
        return further_of(self.objectives)

    @property
    def searched_baseline(self) -> list[float]:
        """The baseline's value of each objective, on validation, as the search saw it."""
        return [self.baseline[name].value for name in names_of(self.objectives)]


def evaluated_rows(trials: pd.DataFrame, names: Sequence[str] = OBJECTIVE_NAMES) -> pd.DataFrame:
    """Return the trials that have all the named values."""
    if missing := [name for name in names if name not in trials.columns]:
        return trials.iloc[:0].reindex(columns=[*trials.columns, *missing])
    return trials[trials[list(names)].notna().all(axis=1) & (trials["state"] == "evaluated")]


def read_material(results: Results) -> Material:
    """Read all that a report is made of.

    Trials come from ``trials.csv`` where it has all that have ended, which is much quicker than the database.

    Raises:
        OutputError: Where there is nothing to read, or it cannot be read.
    """
    folder = results.folder
    study = _open(results)
    objectives = read_objectives(results)
    trials, records = _trials(results, study, objectives)
    front = read_front_table(folder) if folder.front_csv.exists() else None
    baseline = _baseline(folder, study)
    with explain_storage_errors(results.storage):
        attributes = dict(study.user_attrs) if study is not None else {}
    objectives = _bounded(objectives, attributes)
    points, is_front = _points(front, trials, objectives, baseline)
    with explain_damage(folder.log, "the log of the search", "move that file away"):
        check_is_file(folder.log)
        events = read_log(folder.log) if folder.log.exists() else []
    return Material(
        name=results.name,
        folder=folder,
        trials=trials,
        points=points,
        is_front=is_front,
        on_test=is_front and "test_accuracy" in points.columns,
        is_stale=front is not None and is_front and _went_on(events, folder.front_csv),
        baseline=baseline,
        objectives=objectives,
        documents=read_documents(folder, points, records, study),
        attributes=attributes,
        events=events,
    )


def _went_on(events: list[dict[str, Any]], front_csv: Path) -> bool:
    """Say whether a trial was measured after that front was."""
    ended = (event["time"] for event in events if event.get("event") == "trial ended" and event.get("values"))
    last = max(ended, default=None)
    return last is not None and datetime.fromisoformat(last).timestamp() > front_csv.stat().st_mtime


def _open(results: Results) -> optuna.Study | None:
    if results.storage == results.folder.own_storage and not results.folder.database.exists():
        return None
    return open_study(results.storage, results.name, create=False)


def _trials(
    results: Results, study: optuna.Study | None, objectives: Sequence[Objective]
) -> tuple[pd.DataFrame, list[TrialRecord]]:
    """Return the table of trials, and their records where they had to be read from the database."""
    path = results.folder.trials_csv
    if path.exists():
        table = read_trials_csv(path)
        if study is None or int((table["state"] != "running").sum()) == count_ended(results.storage, results.name):
            return _plain(table), []
    if study is None:
        return _plain(trials_table([])), []
    with explain_storage_errors(results.storage):
        records = read_records(study)
    return _plain(trials_table(records, objectives)), records


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Make a table read from a file and one made of records alike: texts are texts, and flags are flags."""
    texts = {
        name: table[name].astype(object).fillna("").astype(str)
        for name in ("stage", "reason", "kind", "candidate", "key")
    }
    flags = {name: (table[name] == True) | (table[name] == "True") for name in ("feasible", "on_front")}  # noqa: E712
    return table.assign(**texts, **flags)


def count_ended(storage: str, name: str) -> int:
    """Return how many trials of a study have ended, without reading them.

    Raises:
        OutputError: Where the storage cannot be read.
    """
    query = sqlalchemy.text(
        "SELECT COUNT(*) FROM trials JOIN studies ON trials.study_id = studies.study_id "
        "WHERE studies.study_name = :name AND trials.state IN :states"
    ).bindparams(sqlalchemy.bindparam("states", expanding=True))
    with explain_storage_errors(storage):
        engine = sqlalchemy.create_engine(make_url(storage))
        try:
            with engine.connect() as connection:
                return int(connection.execute(query, {"name": name, "states": _ENDED}).scalar_one())
        finally:
            engine.dispose()


def _baseline(folder: RunFolder, study: optuna.Study | None) -> dict[str, Measurement]:
    for path in sorted(folder.front_files.glob("*.json")):
        return read_measurements(read_description(path)["baseline"])
    known = read_baseline(study) if study is not None else None
    return known[1] if known else {}


def _bounded(objectives: Sequence[Objective], attributes: dict[str, Any]) -> tuple[Objective, ...]:
    remedy = "restore study.db from a copy, or begin anew with another --out or --storage"
    with explain_damage("the attribute 'meaning' in the study's storage", "what is noted of the study", remedy):
        bounds = attributes.get("meaning", {}).get("bounds", {})
        texts = [bounds.get(_BOUNDS.get(objective.name)) for objective in objectives]
        pairs = zip(objectives, texts, strict=True)
        return tuple(item if text is None else replace(item, bound=parse_bound(text, item)) for item, text in pairs)


def _points(
    front: pd.DataFrame | None,
    trials: pd.DataFrame,
    objectives: tuple[Objective, ...],
    baseline: dict[str, Measurement],
) -> tuple[pd.DataFrame, bool]:
    """Return the front measured again, or else the front so far, or else the nearest trials; and whether it is one."""
    if front is not None and len(front):
        return front, True
    evaluated = evaluated_rows(trials, names_of(objectives))
    so_far = evaluated[evaluated["on_front"]].sort_values(list(OBJECTIVE_NAMES), kind="stable")
    if len(so_far):
        return _named(so_far, "p"), True
    return _named(nearest_rows(evaluated, objectives, baseline), "n"), False


def _named(table: pd.DataFrame, letter: str) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table.insert(0, "point", [f"{letter}{rank:02d}" for rank in range(1, len(table) + 1)])
    return table


def nearest_rows(
    evaluated: pd.DataFrame, objectives: tuple[Objective, ...], baseline: dict[str, Measurement]
) -> pd.DataFrame:
    """Return the measured trials that break the bounds least, by the sum of their relative violations, best first."""
    if not baseline or not len(evaluated):
        return evaluated.iloc[:0]
    sums = np.array([math.fsum(violations_of(row, objectives, baseline).values()) for _, row in evaluated.iterrows()])
    return evaluated.iloc[np.argsort(sums, kind="stable")[:NEAREST]]


def violations_of(
    row: pd.Series[Any], objectives: tuple[Objective, ...], baseline: dict[str, Measurement]
) -> dict[str, float]:
    """Return by what share of its limit a trial breaks each bound that it breaks."""
    shares = {item.name: item.violation(float(row[item.name]), baseline[item.name].value) for item in objectives}
    return {name: share for name, share in shares.items() if share is not None and share > 0}


def report_folder(page: Path) -> Path:
    """Return the folder of the pictures that belong to a page."""
    return page.with_suffix("")
