"""How searches that share a storage take turns, and what one of them does alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url

from ...search.turns import Alone, Turns, Unordered
from .server_turns import ServerTurns, keep_quiet

_TELLS_AFTER_SECONDS = 10.0


class FileTurns:
    """Turns by a lock on a file, which the system lets go of when its process ends.

    SQLite needs them for more than the order: two processes that ask it at the same time may get the same trial.

    Args:
        path: The file.
        waits: Called where a turn is waited for longer than usual.
    """

    exclusive = True

    def __init__(self, path: str, waits: Callable[[], None] = keep_quiet) -> None:
        self._lock = FileLock(path)
        self._waits = waits

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        try:
            self._lock.acquire(timeout=_TELLS_AFTER_SECONDS)
        except Timeout:
            self._waits()
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


def turns_of(storage: str, study: str = "", waits: Callable[[], None] = keep_quiet) -> Turns:
    """Return how searches that share a storage take turns.

    By a file beside SQLite's, by a lock that PostgreSQL keeps for each study, and not at all on another server.

    Args:
        storage: An SQLAlchemy URL.
        study: The study's name; on PostgreSQL studies of other names do not wait for each other.
        waits: Called where a turn in a file is waited for longer than usual.
    """
    url = make_url(storage)
    if url.get_backend_name() == "postgresql":
        return ServerTurns(storage, f"turn of {study}")
    if not url.drivername.startswith("sqlite"):
        return Unordered()
    if url.database in (None, "", ":memory:"):
        return Alone()
    return FileTurns(f"{Path(str(url.database)).absolute()}.turns", waits)  # a task may change the current folder


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
