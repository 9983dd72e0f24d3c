"""The study in Optuna's storage: opened, or made, with the objectives that it has to have."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import make_url

from ...errors import DAMAGED, OutputError
from ...search.objectives import OBJECTIVES, Objective
from .quick_storage import QuickStorage
from .storage_errors import OPENING_ERRORS, check_storage_url, explain_storage_errors
from .storage_turns import alone_on_server
from .stored_objectives import directions_of, name_values, stored_objectives
from .study_notes import has_begun


class _LoggedConnection(sqlite3.Connection):
    """A connection that writes ahead to a log, so that an entry need not wait for the disk.

    A killed search loses nothing by that; a power failure may cost the last entries, never the file. Where a file
    system cannot share the log, SQLite stays with its own way. Source: https://sqlite.org/wal.html.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")


def open_study(storage: str, name: str, *, create: bool, objectives: Sequence[Objective] = OBJECTIVES) -> optuna.Study:
    """Open a study in Optuna's RDB storage.

    Args:
        storage: An SQLAlchemy URL, such as ``sqlite:///runs/digits/study.db``.
        name: The study's name in that storage.
        create: Whether to make it where it is missing.
        objectives: Those that it has to have; who only reads takes whatever it has.

    Raises:
        OutputError: Where the storage cannot be opened, or holds no such study, or one with other objectives.
    """
    # Of trials that fail Optuna's loop would tell on the terminal; karui's own log has them with their reasons.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.logging.disable_default_handler()
    # Two processes may meet at one SQLite file for a moment; waiting beats failing.
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if storage.startswith("sqlite"):
        # Who only reads takes the file as it is.
        arguments = {"connect_args": {"timeout": 60} | ({"factory": _LoggedConnection} if create else {})}
    check_storage_url(storage)
    if not create and _is_missing_file(storage):
        raise _no_study(storage, name)  # SQLite would make the file
    with (
        explain_storage_errors(storage, OPENING_ERRORS),
        # Two that make the tables of one database at the same time are in each other's way.
        alone_on_server(storage, "opening") if create else nullcontext(),
    ):
        backend = QuickStorage(storage, engine_kwargs=arguments)
    with explain_storage_errors(storage):
        try:
            if create:
                return _made(backend, storage, name, objectives)
            study = optuna.load_study(storage=backend, study_name=name)
        except KeyError:
            raise _no_study(storage, name) from None
        _objectives_in(study, storage)
    return study


def _is_missing_file(storage: str) -> bool:
    url = make_url(storage)
    is_file = url.drivername.startswith("sqlite") and url.database and not url.database.startswith(("file:", ":"))
    return bool(is_file) and not Path(str(url.database)).exists()


def _no_study(storage: str, name: str) -> OutputError:
    return OutputError(
        f"the storage holds no study {name!r}",
        where=storage,
        remedy="run `karui search` for it first, with the same --out and --storage as here",
    )


def _made(
    backend: optuna.storages.RDBStorage, storage: str, name: str, objectives: Sequence[Objective]
) -> optuna.Study:
    """Return the study of that name with these objectives, made where it is missing."""
    directions = directions_of(objectives)
    study = optuna.create_study(storage=backend, study_name=name, directions=directions, load_if_exists=True)
    if study.metric_names is None and [direction.name.lower() for direction in study.directions] == directions:
        name_values(study, objectives)
    found = [objective.name for objective in _objectives_in(study, storage)]
    wanted = [objective.name for objective in objectives]
    if found == wanted:
        return study
    if has_begun(study):
        raise OutputError(
            f"the study {name!r} in that storage has other objectives",
            where=storage,
            expected=f"the objectives of the study file: {', '.join(wanted)}",
            got=", ".join(found),
            remedy="take the change of the study file back, or start anew with another --out or --storage",
        )
    # Before there are results a study file may still be corrected, but what Optuna made cannot be.
    optuna.delete_study(study_name=name, storage=backend)
    return _made(backend, storage, name, objectives)


def _objectives_in(study: optuna.Study, storage: str) -> tuple[Objective, ...]:
    try:
        return stored_objectives(study)
    except DAMAGED as error:
        raise OutputError(
            f"the study {study.study_name!r} in that storage is not karui's",
            where=storage,
            expected="a study with the directions minimize, minimize, maximize, and further ones of karui's objectives",
            got=str(error),
            remedy="give the study file another name, or name another --storage",
        ) from error


def study_name(storage: str, otherwise: str) -> str:
    """Return the name of the one study in a storage, or the other name where it holds none or several."""
    with explain_storage_errors(storage, OPENING_ERRORS):
        names = optuna.get_all_study_names(storage)
    return names[0] if len(names) == 1 else otherwise
