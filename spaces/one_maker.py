"""One process at a time makes a file that several want, and the others wait for it rather than make it as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOOKS_EVERY_SECONDS = 0.2


@contextmanager
def one_maker(path: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the right to make a file; look whether it is there once you have it.

    The system lets go of it when a process ends, however it ends.

    Args:
        path: The file to be made; the lock lies beside it.
        while_waiting: Called again and again while another process has it.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=_LOOKS_EVERY_SECONDS)
            break
        except Timeout:
            while_waiting()
    try:
        yield
    finally:
        lock.release()
