"""Reading what a search has left in its results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import OutputError, StudyFileError
from ...evaluators.measurement import Measurement
from ..storage.folder import RunFolder, check_name, explain_unreadable
from ..storage.reading import explain_damage, read_json

# Optuna and its database, which take most of a second to load, are loaded where there is no front.csv to read.

if TYPE_CHECKING:
    import pandas as pd

    from ...search.objectives import Objective
    from .result import StudyResult


@dataclass(frozen=True)
class Results:
    """Where a study's results are.

    Args:
        name: Name of the study.
        folder: Its results folder.
        storage: URL of its Optuna storage.
    """

    name: str
    folder: RunFolder
    storage: str


def find_results(study: str | Path | StudyResult, out: str | Path | None = None, storage: str | None = None) -> Results:
    """Return where a study's results are.

    Args:
        study: Path of a study file, name of a bundled study, a results folder itself, or what a search returned.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.

    Raises:
        StudyFileError: Where the study is unknown.
        OutputError: Where it has no results yet, or they cannot be read.
    """
    if not isinstance(study, (str, Path)):
        study, out = study.folder, None
    for given, option in ((study, "another results folder"), (out, "another --out")):
        if given is not None:
            check_name(Path(given), "results folder", option)
    with explain_unreadable(Path(study if out is None else out), "the results folder"):
        return _find_results(study, out, storage)


def _find_results(study: str | Path, out: str | Path | None, storage: str | None) -> Results:
    path = Path(study)
    if out is None and path.is_dir() and ((path / "front.csv").exists() or (path / "study.db").exists()):
        folder = RunFolder(path)
        return Results(_name_in(folder), folder, storage or folder.own_storage)
    from ..study_file.spec_reading import load_spec

    try:
        name = load_spec(study).name
    except StudyFileError:
        # The study file may be gone while its results are still there.
        if not (Path("runs") / str(study)).is_dir():
            raise
        name = str(study)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / name)
    if storage is None and not folder.front_csv.exists() and not folder.database.exists():
        raise OutputError(
            f"there are no results of {name!r} yet",
            where=str(folder.path),
            expected="front.csv or study.db in that folder",
            got="neither" if folder.path.is_dir() else "no such folder",
            remedy=f"run `karui search {study}` first, or name its --out and --storage",
        )
    return Results(name, folder, storage or folder.own_storage)


def _name_in(folder: RunFolder) -> str:
    """Return the name of the study whose results a folder holds; the folder's own name may be another."""
    for described in sorted(folder.front_files.glob("*.json")):
        return str(read_description(described)["study"])
    from ..storage.store import study_name

    return study_name(folder.own_storage, folder.path.name) if folder.database.exists() else folder.path.name


def load_front(
    study: str | Path | StudyResult, out: str | Path | None = None, storage: str | None = None
) -> pd.DataFrame:
    """Return the front of a study, one row per point.

    The re-measured front (with ``test_accuracy``) where the search has finished; otherwise the front so far, by
    validation accuracy, which the search may still change.

    Args:
        study: Path of a study file, name of a bundled study, a results folder, or what a search returned.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.

    Raises:
        KaruiError: Where there is nothing to read.
    """
    return read_front(find_results(study, out, storage))


def read_front(results: Results) -> pd.DataFrame:
    """Return the front from where a study's results are; see :func:`load_front`."""
    if results.folder.front_csv.exists():
        return read_front_table(results.folder)
    return _front_so_far(results)


def read_front_table(folder: RunFolder) -> pd.DataFrame:
    """Return the re-measured front of a results folder.

    Raises:
        OutputError: Where it cannot be read.
    """
    from .result_tables import read_front_csv

    return read_front_csv(folder)


def read_trials(results: Results) -> pd.DataFrame:
    """Return every trial, from ``trials.csv`` where a search has written it, otherwise from the database.

    Raises:
        OutputError: Where neither can be read.
    """
    from .result_tables import read_trials_csv

    path = results.folder.trials_csv
    if not path.exists():
        from ...search.record import read_records
        from ..storage.storage_errors import explain_storage_errors
        from ..storage.store import open_study
        from ..storage.stored_objectives import stored_objectives
        from .tables import trials_table

        with explain_storage_errors(results.storage):
            study = open_study(results.storage, results.name, create=False)
            return trials_table(read_records(study), stored_objectives(study))
    return read_trials_csv(path)


def read_baseline_measurements(results: Results) -> dict[str, Measurement]:
    """Return the baseline's measurements by name, from the front's descriptions or else from the database.

    Raises:
        OutputError: Where neither knows it.
    """
    folder = results.folder
    for described in sorted(folder.front_files.glob("*.json")):
        return read_measurements(read_description(described)["baseline"])
    from ..storage.store import open_study
    from ..storage.study_notes import read_baseline

    known = read_baseline(open_study(results.storage, results.name, create=False))
    if known is not None:
        return known[1]
    raise OutputError(
        "the baseline was not measured yet", where=str(folder.path), remedy="run the search for a little longer"
    )


def read_objectives(results: Results) -> tuple[Objective, ...]:
    """Return the objectives of a study, without bounds, from the front's descriptions or else from the database.

    Raises:
        OutputError: Where one of them cannot be read.
    """
    from ...search.objectives import OBJECTIVES, objectives_named

    folder = results.folder
    for path in sorted(folder.front_files.glob("*.json")):
        described = read_description(path)
        # A search of an earlier version named none, and there were no others than these.
        with explain_damage(path, "the configuration of a point"):
            return objectives_named(described.get("objectives", [objective.name for objective in OBJECTIVES]))
    if results.storage == folder.own_storage and not folder.database.exists():
        return OBJECTIVES
    from ..storage.store import open_study
    from ..storage.stored_objectives import stored_objectives

    return stored_objectives(open_study(results.storage, results.name, create=False))


def read_description(path: Path) -> dict[str, Any]:
    """Return the configuration beside a file of the front.

    Raises:
        OutputError: Where it cannot be read.
    """
    with explain_damage(path, "the configuration of a point"):
        described: dict[str, Any] = read_json(path)
        if not isinstance(described, dict) or not {"study", "baseline"} <= described.keys():
            raise ValueError("it does not hold what a search writes there")
        if not isinstance(described["study"], str):
            raise ValueError("its study has no name")
        read_measurements(described["baseline"])
        for name in ("measurements", "baseline"):
            for item in described.get(name, {}).values():
                Measurement.from_dict(item)
    return described


def read_measurements(plain: Mapping[str, Any]) -> dict[str, Measurement]:
    """Return a baseline's measurements by name; there are those of the objectives that every study has.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: Where they are none.
    """
    from ...search.objectives import OBJECTIVES

    found = {name: Measurement.from_dict(item) for name, item in plain.items()}
    if missing := [objective.name for objective in OBJECTIVES if objective.name not in found]:
        raise ValueError(f"the baseline's {missing[0]} is missing")
    return found


def _front_so_far(results: Results) -> pd.DataFrame:
    from ...search.record import read_records
    from ..storage.storage_errors import explain_storage_errors
    from ..storage.store import open_study
    from ..storage.stored_objectives import stored_objectives
    from .tables import front_records, trials_table

    with explain_storage_errors(results.storage):
        study = open_study(results.storage, results.name, create=False)
        objectives = stored_objectives(study)
        records = front_records(read_records(study), objectives)
    table = trials_table(records, objectives)
    with explain_damage(
        results.storage, "the trials", "restore study.db from a copy, or begin anew with another --out"
    ):
        if len(table) and ("latency_ratio" not in table.columns or table["latency_ratio"].isna().any()):
            raise ValueError("a trial of the front has no latency_ratio")
    table.insert(0, "point", [f"p{rank:02d}" for rank in range(1, len(records) + 1)])
    return table
