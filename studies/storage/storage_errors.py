"""What a database raises, turned into errors that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy.exc
from sqlalchemy.engine import make_url

from ...errors import DAMAGED, OutputError, without_secrets

STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
OPENING_ERRORS = (*STORAGE_ERRORS, *DAMAGED, ImportError, RuntimeError, AssertionError)
"""A missing driver, a database of another version, an URL that cannot be taken apart; Optuna fills in what stands in
braces in an URL, and asserts that its tables hold what it has put there."""

without_password = without_secrets
"""Blanks out the passwords in a text."""

_SQLITE_OPTIONS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements", "uri"}


@contextmanager
def explain_storage_errors(storage: str, errors: tuple[type[Exception], ...] = STORAGE_ERRORS) -> Iterator[None]:
    """Turn what a database raises into an error a person can act on."""
    try:
        yield
    except errors as error:
        raise storage_refusal(error, storage) from error


def storage_refusal(error: BaseException, storage: str | None = None) -> OutputError:
    """Return what a person is told of an error of the database.

    Args:
        error: What was raised.
        storage: URL of the database; None where the error comes from somewhere that does not know it.
    """
    known = isinstance(error.__cause__, DAMAGED)  # it says itself what cannot be read
    cause = error if known else error.__cause__ or error
    return OutputError(
        "the study's storage cannot be used",
        where=storage,
        expected="a reachable database that Optuna made, or an empty one",
        got=without_secrets(" ".join(str(cause).split()))[:300],
        remedy=_remedy(storage, cause),
    )


def _remedy(storage: str | None, cause: BaseException) -> str:
    if storage is not None and storage.startswith("postgresql"):
        if isinstance(cause, ImportError):
            return "pip install 'karui[postgres]', and begin the URL with postgresql+psycopg://"
        return "check the URL, and that the server runs, lets this machine in, and has that user and that database"
    return "check the URL, the disk and the server; a broken SQLite file can be moved away to start anew"


def check_storage_url(storage: str) -> None:
    """Refuse a URL of an SQLite file of which a part would be left out without a word.

    Raises:
        OutputError: Where the file's name holds a question mark, or the URL an option that the driver does not have.
    """
    with explain_storage_errors(storage, OPENING_ERRORS):
        url = make_url(storage)
    # Not by what SQLAlchemy reads there: it leaves out what has no value.
    named = {option.partition("=")[0] for option in storage.partition("?")[2].split("&")} - {""}
    unknown = sorted(named - _SQLITE_OPTIONS)
    if not url.drivername.startswith("sqlite") or not unknown or "uri" in named:
        return
    raise OutputError(
        "the study's storage cannot be used",
        where=storage,
        expected=f"sqlite:///FILE, perhaps with options behind a question mark: {', '.join(sorted(_SQLITE_OPTIONS))}",
        got=f"{unknown[0]!r} behind the question mark",
        remedy="write %3F for a question mark in the name of a file or a folder, and %25 for a percent sign",
    )
