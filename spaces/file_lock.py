"""A lock on a file, shared or exclusive, which the system lets go of when its process ends, however it ends.

It is sent to devices as well: Python 3.8 without anything else has to do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class Lock(Protocol):
    """A lock on a file."""

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take it, shared or for oneself alone; say whether that worked out."""

    def let_go(self) -> None:
        """Let go of it."""

    def is_in_place(self) -> bool:
        """Say whether its file is still where it was opened: others meet there."""


class Flock:
    """A lock by flock(2), between threads as well, where each opens one of its own.

    Args:
        path: The file, made where it is missing; nothing that a link leads to, and nothing but a file.
        mode: Who may use it, where it is made.
        flags: How it is opened: who may not write to it reads.

    Raises:
        OSError: Where it is no file, or cannot be opened.
    """

    def __init__(self, path: Path, mode: int = 0o600, flags: int = os.O_RDWR) -> None:
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        self._path = path
        # Kept open as long as this object; forked children share it, and take it no further.
        try:
            self._file = os.open(str(path), flags)
        except FileNotFoundError:  # a system may refuse to make what another user has made
            self._file = os.open(str(path), flags | os.O_CREAT, mode)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise OSError("it is no file")

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take it, shared or for oneself alone; say whether that worked out."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def let_go(self) -> None:
        """Let go of it: not left to closing, since a forked child that lives on may have it open as well."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def is_in_place(self) -> bool:
        """Say whether its file is still where it was opened."""
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return False


class ExclusiveOnly:
    """The same where the system knows no shared locks: everybody holds it alone, so that all take turns.

    Args:
        path: The file, made where it is missing.
        mode: Who may use it, where it is made.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        import filelock

        self._lock = filelock.FileLock(path, mode=mode)

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:  # noqa: ARG002
        """Take it; say whether that worked out."""
        try:
            self._lock.acquire(blocking=wait)
        except TimeoutError:
            return False
        return True

    def let_go(self) -> None:
        """Let go of it."""
        self._lock.release()

    def is_in_place(self) -> bool:
        """Say that it is: such a system removes no open files."""
        return True


HAS_FLOCK = fcntl is not None
"""Whether this system knows shared locks."""

open_lock: Callable[..., Lock] = Flock if HAS_FLOCK else ExclusiveOnly
"""Opens a lock on a file, given its path and mode, in the best way that this system knows."""


@contextmanager
def held(lock: Lock, waits: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock alone; yield whether that took waiting.

    Args:
        lock: The lock.
        waits: Called before the wait, where there is one.
    """
    waited = not lock.take()
    if waited:
        if waits is not None:
            waits()
        lock.take(wait=True)
    try:
        yield waited
    finally:
        lock.let_go()
