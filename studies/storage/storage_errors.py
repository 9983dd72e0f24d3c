"""What a database raises, turned into errors that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy.exc

from ...errors import OutputError

STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
OPENING_ERRORS = (*STORAGE_ERRORS, ImportError, RuntimeError, ValueError)
"""A missing driver, a database of another version, an URL that cannot be taken apart."""


@contextmanager
def explain_storage_errors(storage: str, errors: tuple[type[Exception], ...] = STORAGE_ERRORS) -> Iterator[None]:
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
