"""How searches that share a storage take turns, and what one of them does alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from sqlalchemy.engine import make_url

from ...search.turns import Alone, Turns, Unordered
from .server_turns import ServerTurns, keep_quiet


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
    if url.database in (None, "", ":memory:"):
        return Alone()
    return FileTurns(f"{Path(str(url.database)).absolute()}.turns")  # a task may change the current folder


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
