"""Turns on a PostgreSQL server, by a lock that it lets go of when the connection of its holder ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import optuna
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

_SETTINGS = (
    # A turn may last as long as the training of a baseline.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    # A holder whose machine has lost its power says nothing: the server asks, and gives it up within a minute.
    "SET LOCAL tcp_keepalives_idle = 30",
    "SET LOCAL tcp_keepalives_interval = 10",
    "SET LOCAL tcp_keepalives_count = 3",
)


def keep_quiet() -> None:
    """Tell nobody of a wait."""


class ServerTurns:
    """Turns by an advisory lock of a PostgreSQL database, held by a transaction on a connection of its own.

    A lock of a transaction, not of a session, so that it is one behind a pooler of connections as well. Source:
    https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS.

    Args:
        storage: SQLAlchemy URL of the database.
        name: What the turns are for; those of other names are independent of them.
    """

    exclusive = True

    def __init__(self, storage: str, name: str) -> None:
        self._storage = storage
        self._engine: Engine | None = None
        digest = hashlib.sha256(f"karui {name}".encode()).digest()
        self.key = int.from_bytes(digest[:8], "big", signed=True)

    @contextmanager
    def __call__(self, waits: Callable[[], None] = keep_quiet) -> Iterator[None]:
        """Wait for a turn, and hold it.

        Args:
            waits: Called before the wait, where another search has the turn.

        Raises:
            StorageInternalError: Where the server cannot be reached.
        """
        connection = self._begin(waits)
        try:
            yield
        finally:
            # Whether or not the server still knows of the turn, it is over.
            with suppress(SQLAlchemyError):
                connection.rollback()
            with suppress(SQLAlchemyError):
                connection.close()

    def close(self) -> None:
        """Have no connection any more, until the next turn."""
        if self._engine is not None:
            self._engine.dispose()

    def _begin(self, waits: Callable[[], None]) -> Connection:
        if self._engine is None:
            self._engine = create_engine(self._storage, pool_pre_ping=True, pool_size=1)
        try:
            connection = self._engine.connect()
            try:
                for setting in _SETTINGS:
                    connection.execute(text(setting))
                self._lock(connection, waits)
            except BaseException:
                connection.close()
                raise
        except SQLAlchemyError as error:
            raise optuna.exceptions.StorageInternalError("no turn can be had on the server") from error
        return connection

    def _lock(self, connection: Connection, waits: Callable[[], None]) -> None:
        if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": self.key}):
            waits()
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self.key})
