"""One machine, several workers: while one of them measures, none of the others trains.

A readers-writer lock in files of a folder of the user's own, shared by all searches of that user on a machine. The
system lets go of it when a process ends, however it ends. Whoever wants to measure closes a turnstile first, through
which everybody else has to pass between two steps of training, so that measuring never starves (Courtois, Heymans &
Parnas, CACM 1971, their second problem; the turnstile after Downey, The Little Book of Semaphores, section 4.2.5).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import OutputError
from ...spaces import file_lock
from ...spaces.file_lock import Lock, held
from .lock_folder import shared_folder as shared_folder

ROOM, TURNSTILE = "working.lock", "measuring.lock"

TELLS_AFTER_SECONDS = 3.0
"""A wait is told after this; the usual one, for the measuring of one file, is over by then."""

_LOOKS_EVERY_SECONDS, _PAUSE_SECONDS = 0.01, 0.05


class MachineLock:
    """Keeps work and measuring apart among all processes that use the same folder; not for threads of one process.

    Args:
        folder: Where the files lie; :func:`shared_folder` where left out.

    Attributes:
        told: Is told True where this process has waited for a while until others have measured, and False once it need
            not wait any more: after that, and after the wait that :meth:`measuring` tells.

    Raises:
        OutputError: Where there is no folder for them that is the user's own, or something else lies there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or shared_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._room = open_own_lock(folder / ROOM)
        self._turnstile = open_own_lock(folder / TURNSTILE)
        self._works = self._measures = False
        self.told: Callable[[bool], None] = _tell_nobody

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work on a candidate, beside others that work, but never beside one that measures; work within work is one."""
        if self._works:
            yield
            return
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def let_pass(self) -> None:
        """Between two steps of work: let whoever wants to measure do so, and go on afterwards.

        Where nobody does it takes a few microseconds.
        """
        if not self._works:
            return
        if self._turnstile.take(shared=True):
            self._turnstile.let_go()
            return
        self._leave()
        self._enter()

    @contextmanager
    def measuring(self, waits: Callable[[], None] | None = None) -> Iterator[None]:
        """Measure, alone on this machine; within :meth:`working` that is left for the while.

        Args:
            waits: Called before the first wait, where there is one.
        """
        with (
            self.resting(),
            held(self._turnstile, waits) as waited,
            held(self._room, None if waited else waits) as waited_for_room,
        ):
            if waited or waited_for_room:
                self.told(False)
            self._measures = True
            try:
                yield
            finally:
                self._measures = False

    def let_work(self) -> None:
        """Between two of many measurements: let others on this machine work, or measure, and go on afterwards.

        Else who measures for minutes keeps everybody waiting for as long. Outside :meth:`measuring` it does nothing.
        """
        if not self._measures:
            return
        self._room.let_go()
        self._turnstile.let_go()
        time.sleep(_PAUSE_SECONDS)  # who waits has to notice
        self._turnstile.take(wait=True)
        self._room.take(wait=True)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Do nothing on this machine for a while, within :meth:`working`: others may measure here."""
        worked = self._works
        self._leave()
        try:
            yield
        finally:
            if worked:
                self._enter()

    def _enter(self) -> None:
        self._works = True  # before it holds, so that whatever interrupts the wait is followed by letting go
        self._take_shared(self._turnstile)
        try:
            self._take_shared(self._room)
        finally:
            self._turnstile.let_go()

    def _take_shared(self, lock: Lock) -> None:
        """Wait for a lock, and tell of that where it takes longer than usual."""
        told_at = time.monotonic() + TELLS_AFTER_SECONDS
        while not lock.take(shared=True):
            if time.monotonic() >= told_at:
                self.told(True)
                lock.take(shared=True, wait=True)
                self.told(False)
                return
            time.sleep(_LOOKS_EVERY_SECONDS)

    def _leave(self) -> None:
        if self._works:
            self._works = False
            self._room.let_go()


def _tell_nobody(waits: bool) -> None:
    """Tell nobody of a wait."""


def open_own_lock(path: Path) -> Lock:
    """Open a lock of this machine.

    Raises:
        OutputError: Where something else lies there, or it cannot be opened.
    """
    try:
        return file_lock.open_lock(path)
    except OSError as error:
        fault = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
    raise OutputError(
        "a lock of this machine cannot be used", where=str(path), got=fault, remedy="remove it, and search again"
    )
