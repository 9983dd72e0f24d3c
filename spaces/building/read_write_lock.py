"""Locks on a name, shared or exclusive, between threads and processes; the system ends those of a killed process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..file_lock import HAS_FLOCK, Lock, open_lock

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
        held.let_go()


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
            held.let_go()


def forget(path: Path) -> None:
    """Remove the file of a lock that the caller holds exclusively."""
    if HAS_FLOCK:  # Windows removes no open files
        path.unlink(missing_ok=True)


def _acquire(path: Path, *, shared: bool, wait: bool) -> Lock | None:
    while True:
        lock = open_lock(path, 0o666)
        if not lock.take(shared=shared, wait=wait):
            return None
        if lock.is_in_place():
            return lock
        lock.let_go()  # whoever held it has removed the file: others will meet at a new one
