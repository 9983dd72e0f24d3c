"""The files that the agent keeps on a device, by the digest of their content: bounded, and gone once nobody uses them.

Part of what is sent to the device, so Python 3.8 and the standard library have to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MOST_BYTES = 2 * 10**9
"""All files together; those go first that were not used for the longest time."""

MOST_SECONDS = 7 * 24 * 3600.0
"""A file that was not used for so long is removed."""

_NAME = re.compile(r"[0-9a-f]{64}\.(onnx|npy|npz)")
_PART_BYTES = 2**20


class DeviceFiles:
    """Files named by the SHA-256 of their content; only whoever holds the device's lock changes them.

    Args:
        folder: Where they lie; made where it is missing.
        most_bytes: What all of them may take together.
        now: Seconds since 1970.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._now = now

    def path(self, name: str) -> Path:
        """Return where the file of that name lies.

        Raises:
            ValueError: Where the name is none that this class gives out.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a file kept here")
        return self._folder / name

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are not here; the others count as used now."""
        gone = []
        for name in names:
            try:
                os.utime(str(self.path(name)), (self._now(), self._now()))
            except FileNotFoundError:
                gone.append(name)
        return gone

    def put(self, name: str, stream: Any, count: int, needed: Iterable[str]) -> None:
        """Take a file in, whole or not at all.

        Args:
            name: Its name.
            stream: Where it comes from; it is read to its end in any case.
            count: Bytes that it has.
            needed: Names of the files that have to stay.

        Raises:
            EOFError: Where the stream ends before.
            OSError: Where the file cannot be written, though all that is not needed has been removed.
            ValueError: Where the content is not what the name says.
        """
        path = self.path(name)
        self._make_room(self._most_bytes - count, needed)
        error: OSError | None = None
        digest = hashlib.sha256()
        part = path.with_suffix(".part")
        with contextlib.ExitStack() as stack:
            file = None
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = stack.enter_context(part.open("wb", 0))
            except OSError as found:
                error = found
            while count:
                content = stream.read(min(count, _PART_BYTES))
                if not content:
                    raise EOFError("the stream has ended")
                count -= len(content)
                digest.update(content)
                if error is None and file is not None:
                    error = self._write(file, content, needed)
        if error is not None:
            with contextlib.suppress(OSError):
                part.unlink()
            raise error
        if digest.hexdigest() != path.stem:
            part.unlink()
            raise ValueError(f"what came is not {name}")
        part.replace(path)

    def clean(self) -> None:
        """Remove what was not used for long, and what was left half written."""
        for path in self._all("*"):
            with contextlib.suppress(OSError):
                if path.suffix == ".part" or self._now() - path.stat().st_mtime > MOST_SECONDS:
                    path.unlink()

    def _write(self, file: Any, content: bytes, needed: Iterable[str]) -> OSError | None:
        """Write; where there is no room, make some once. Return what went wrong all the same."""
        for is_last in (False, True):
            try:
                while content:
                    content = content[file.write(content) :]
                return None
            except OSError as error:
                if is_last:
                    return error
                self._make_room(0, needed)
        return None

    def _make_room(self, most_bytes: int, needed: Iterable[str]) -> None:
        """Remove files, those that were not used for the longest time first, until the rest take no more than that."""
        kept = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._all("*.*")]
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= most_bytes:
                return
            if path.name not in set(needed) and path.suffix != ".part":
                path.unlink()
                total -= size

    def _all(self, pattern: str) -> list[Path]:
        return sorted(self._folder.glob(pattern)) if self._folder.is_dir() else []
