"""The study in Optuna's storage: opened, checked against the study file, and what it knows of the baseline."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import optuna
import sqlalchemy.exc
from filelock import FileLock
from sqlalchemy.engine import make_url

from ...errors import OutputError, StudyFileError
from ...evaluators.measurement import Measurement
from ...search.objectives import OBJECTIVES, Objective
from ...search.turns import Alone, Turns, Unordered
from .quick_storage import QuickStorage
from .server_turns import ServerTurns, keep_quiet
from .stored_objectives import directions_of, name_values, stored_objectives

_STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
_OPENING_ERRORS = (*_STORAGE_ERRORS, ImportError, RuntimeError, ValueError)
"""A missing driver, a database of another version, an URL that cannot be taken apart."""


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    # Two processes may meet at one SQLite file for a moment; waiting beats failing.
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if storage.startswith("sqlite"):
        # Who only reads takes the file as it is.
        arguments = {"connect_args": {"timeout": 60} | ({"factory": _LoggedConnection} if create else {})}
    with (
        explain_storage_errors(storage, _OPENING_ERRORS),
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
            raise OutputError(
                f"the storage holds no study {name!r}",
                where=without_password(storage),
                remedy="run `karui search` for it first, with the same --out and --storage as here",
            ) from None
        _objectives_in(study, storage)
    return study


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
    if _has_begun(study):
        raise OutputError(
            f"the study {name!r} in that storage has other objectives",
            where=without_password(storage),
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
    except ValueError as error:
        raise OutputError(
            f"the study {study.study_name!r} in that storage is not karui's",
            where=without_password(storage),
            expected="a study with the directions minimize, minimize, maximize, and further ones of karui's objectives",
            got=str(error),
            remedy="give the study file another name, or name another --storage",
        ) from error


class FileTurns:
    """Turns by a lock on a file, which the system lets go of when its process ends.

    SQLite needs them for more than the order: two processes that ask it at the same time may get the same trial.

    Args:
        path: The file.
    """

    exclusive = True

    def __init__(self, path: str) -> None:
        self._lock = FileLock(path)

    def __call__(self) -> FileLock:
        """Wait for a turn, and hold it."""
        return self._lock


def turns_of(storage: str, study: str = "") -> Turns:
    """Return how searches that share a storage take turns.

    By a file beside SQLite's, by a lock that PostgreSQL keeps for each study, and not at all on another server.

    Args:
        storage: An SQLAlchemy URL.
        study: The study's name; on PostgreSQL studies of other names do not wait for each other.
    """
    url = make_url(storage)
    if url.get_backend_name() == "postgresql":
        return ServerTurns(storage, f"turn of {study}")
    if not url.drivername.startswith("sqlite"):
        return Unordered()
    in_memory = url.database in (None, "", ":memory:")
    return Alone() if in_memory else FileTurns(f"{url.database}.turns")


@contextmanager
def alone_on_server(storage: str, what: str, waits: Callable[[], None] = keep_quiet) -> Iterator[None]:
    """Do something that one search at a time does, on whatever machine, where the storage is PostgreSQL's.

    Args:
        storage: An SQLAlchemy URL.
        what: What is done.
        waits: Called before the wait, where another search is at it.
    """
    if make_url(storage).get_backend_name() != "postgresql":
        yield
        return
    turns = ServerTurns(storage, what)
    try:
        with turns(waits):
            yield
    finally:
        turns.close()


def study_name(storage: str, otherwise: str) -> str:
    """Return the name of the one study in a storage, or the other name where it holds none or several."""
    with explain_storage_errors(storage, _OPENING_ERRORS):
        names = optuna.get_all_study_names(storage)
    return names[0] if len(names) == 1 else otherwise


@contextmanager
def explain_storage_errors(storage: str, errors: tuple[type[Exception], ...] = _STORAGE_ERRORS) -> Iterator[None]:
    """Turn what a database raises into an error a person can act on."""
    try:
        yield
    except errors as error:
        cause = error.__cause__ or error
        raise OutputError(
            "the study's storage cannot be used",
            where=without_password(storage),
            expected="a reachable database that Optuna made, or an empty one",
            got=without_password(" ".join(str(cause).split())[:300]),
            remedy=_remedy(storage, cause),
        ) from error


def _remedy(storage: str, cause: BaseException) -> str:
    if storage.startswith("postgresql"):
        if isinstance(cause, ImportError):
            return "pip install 'karui[postgres]', and begin the URL with postgresql+psycopg://"
        return "check the URL, and that the server runs, lets this machine in, and has that user and that database"
    return "check the URL, the disk and the server; a broken SQLite file can be moved away to start anew"


def without_password(text: str) -> str:
    """Return a text in which passwords in URLs are blanked out."""
    text = re.sub(r"(://[^/:@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"([?&]pass(?:word|wd)?=)[^&\s]*", r"\1***", text)


def check_meaning(study: optuna.Study, meaning: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
    """Note what the study's results mean, or refuse to go on with a study file that means something else.

    Args:
        study: Optuna's.
        meaning: What the study file means now.
        usual: What was meant by a key that there was not yet when the study began.
        where: The study, for the error.

    Raises:
        StudyFileError: Naming each key that differs.
    """
    noted = study.user_attrs.get("meaning")
    if noted is None or not _has_begun(study):
        study.set_user_attr("meaning", dict(meaning))
        return
    differing = list(_differences(noted, meaning, usual))
    if differing:
        raise StudyFileError(
            "the study file has changed since this study began, in a way that changes what its results mean",
            where=where,
            expected="; ".join(f"{key} = {before!r}" for key, before, _ in differing),
            got="; ".join(f"{key} = {after!r}" for key, _, after in differing),
            remedy="take it back, or start anew with another --out (trials, hours, seed and sampler may change)",
        )


def training_seed(study: optuna.Study, seed: int) -> int:
    """Return the seed that the study began with, and note it where it has not begun: all its training goes by one."""
    if "training_seed" not in study.user_attrs or not _has_begun(study):
        study.set_user_attr("training_seed", seed)
    return int(study.user_attrs["training_seed"])


def _has_begun(study: optuna.Study) -> bool:
    """Say whether there are results: before the baseline is measured, a study file may still be corrected."""
    return "baseline" in study.user_attrs or bool(study.get_trials(deepcopy=False))


def _differences(before: Any, after: Any, usual: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        known = usual if isinstance(usual, Mapping) else {}
        for name in sorted({*before, *after}):
            was = before[name] if name in before else known.get(name)
            yield from _differences(was, after.get(name), known.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after


def note_baseline(study: optuna.Study, digest: str, measurements: Mapping[str, Measurement]) -> None:
    """Keep the baseline's digest and measurements with the study."""
    study.set_user_attr("baseline_digest", digest)
    study.set_user_attr("baseline", {name: item.to_dict() for name, item in measurements.items()})


def read_baseline(study: optuna.Study) -> tuple[str, dict[str, Measurement]] | None:
    """Return the baseline's digest and measurements, or None where it was not measured yet."""
    if "baseline" not in study.user_attrs:
        return None
    plain = study.user_attrs["baseline"]
    return study.user_attrs["baseline_digest"], {name: Measurement.from_dict(item) for name, item in plain.items()}
