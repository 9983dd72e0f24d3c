"""Locks on a name, shared or exclusive, between threads and processes; the system ends those of a killed process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

_LOOKS_EVERY_SECONDS = 0.2


@contextmanager
def read_write_lock(
    path: Path, *, shared: bool = False, while_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a lock, after waiting for it: many hold it shared at a time, or one exclusively.

    Where the system knows no shared locks (Windows), a shared lock is exclusive as well: then readers wait for each
    other. A thread must not ask for a lock that it holds.

    Args:
        path: The file that stands for what is locked; it is made where it is missing.
        shared: Whether others may hold it as well, shared.
        while_waiting: Called again and again while somebody else holds it.

    Raises:
        OSError: Where the file cannot be made.
    """
    held = _acquire(path, shared=shared, wait=while_waiting is None)
    while held is None and while_waiting is not None:
        while_waiting()
        time.sleep(_LOOKS_EVERY_SECONDS)
        held = _acquire(path, shared=shared, wait=False)
    if held is None:
        raise RuntimeError(f"waiting for {path} ended without it")
    try:
        yield
    finally:
        held.release()


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock, or yield False where somebody else holds one.

    Raises:
        OSError: Where the file cannot be made.
    """
    held = _acquire(path, shared=False, wait=False)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def forget(path: Path) -> None:
    """Remove the file of a lock that the caller holds exclusively."""
    if sys.platform != "win32":  # Windows removes no open files
        path.unlink(missing_ok=True)


if sys.platform == "win32":

    def _acquire(path: Path, *, shared: bool, wait: bool) -> FileLock | None:  # noqa: ARG001
        lock = FileLock(path, blocking=wait)
        with suppress(Timeout):
            lock.acquire()
            return lock
        return None

else:

    class _Held:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor

        def release(self) -> None:
            # Said, not left to closing: a forked child that outlives this process may have the descriptor as well.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _acquire(path: Path, *, shared: bool, wait: bool) -> _Held | None:
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, operation)
                if _is_at(descriptor, path):
                    return _Held(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            # Whoever held it has removed the file: others will meet at a new one.
            os.close(descriptor)

    def _is_at(descriptor: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            return False
