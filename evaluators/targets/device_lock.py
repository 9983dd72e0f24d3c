"""The locks of a device: one of the user's own, which always holds, and one that all its users share, within bounds.

Two users of one device are not to measure at once, so that they share a lock in the temporary folder. Anybody may hold
that one for ever, or put something else in its place: it is waited for so long and no longer. Python 3.8 has to do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ...spaces.file_lock import HAS_FLOCK, Flock

LOCK_NAME, OWN_LOCK_NAME = "karui-device.lock", "measuring.lock"

PATIENCE_SECONDS = 300.0
"""So long another user may measure at a stretch: a measurement takes seconds, and who says nothing for two minutes is
let go of."""


class DeviceLock:
    """Both locks, held by one connection.

    Args:
        folder: The user's own, in which the own lock lies.
        shared_folder: The one in which the shared lock lies; the temporary folder where left out.
        clock: Seconds that only grow.

    Attributes:
        word: Why the shared lock is not held, where it is not though this measures; empty where it is.
    """

    def __init__(
        self, folder: Path, shared_folder: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.word = ""
        self._own_path = folder / OWN_LOCK_NAME
        self._shared_path = (shared_folder or Path(tempfile.gettempdir())) / LOCK_NAME
        self._clock = clock
        self._own: Flock | None = None
        self._shared: Flock | None = None
        self._since: float | None = None
        self._is_patient = True

    def take(self) -> bool:
        """Take both without waiting, and say whether that worked out: whoever is told no asks again.

        Raises:
            OSError: Where the own lock cannot be used.
        """
        if not HAS_FLOCK:
            return True
        if self._own is None and not self._take_own():
            return False
        if self._take_shared():
            self._since, self._is_patient = None, True
            return True
        if self.word:
            return True
        if self._since is None:
            self._since = self._clock()
        if self._is_patient and self._clock() - self._since < PATIENCE_SECONDS:
            return False
        self._is_patient = False  # who has held it for so long is not waited for each time
        self.word = f"{self._shared_path} has been held by another user for {PATIENCE_SECONDS / 60:.0f} minutes"
        return True

    def let_go(self) -> None:
        """Let go of both."""
        for lock in (self._shared, self._own):
            if lock is not None:
                lock.let_go()
        self._shared = self._own = None

    def _take_own(self) -> bool:
        lock = Flock(self._own_path)
        if not lock.take():
            return False
        self._own = lock
        return True

    def _take_shared(self) -> bool:
        """Take the shared lock, and say whether it is held; the word says where it can never be."""
        self.word = ""
        try:
            lock = Flock(self._shared_path, 0o644, os.O_RDONLY)  # the file may be another user's
        except OSError as error:
            self.word = f"{self._shared_path} cannot be used ({error.strerror or error})"
            return False
        if not lock.take():
            return False
        self._shared = lock
        return True
