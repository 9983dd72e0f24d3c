"""What dear stages have made, kept on disk under the digest of all that went into it, for every study that wants it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import DAMAGED
from ..artifact import file_digest, write_bytes
from .read_write_lock import forget, lock_if_free, read_write_lock

MANIFEST = "manifest.json"
"""Names the files of an entry, with their sizes and digests; whatever else lies beside it was added later."""

DEFAULT_LIMIT_BYTES = 20_000_000_000

_KEY = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_TAG_NAME = "CACHEDIR.TAG"
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of karui: deleting it costs time, nothing else.\n"

WAITING = "waiting for a network that another process trains"
"""The stage of whoever waits for an entry that is being made."""


@dataclass(frozen=True)
class Entry:
    """Files that belong together, as long as the entry is held.

    Args:
        folder: Where they lie. A file may be added, whole at once; it leaves with the entry.
        made: Whether they were made just now rather than found.
    """

    folder: Path
    made: bool


@dataclass(frozen=True)
class EntrySize:
    """One entry as it lies on disk.

    Args:
        key: Its key.
        size_bytes: Of all its files.
        used_ns: When it was last asked for, in nanoseconds since the epoch; 0 where it is not whole.
    """

    key: str
    size_bytes: int
    used_ns: int

    @property
    def kind(self) -> str:
        """What it is, the first word of its key."""
        return self.key.partition("-")[0]


class StageCache:
    """Entries of files under keys, bounded in size, for any number of threads and processes at a time.

    An entry is made beside its place and moved there, so that it is seen whole or not at all, whenever whoever makes
    it is killed. Who uses an entry holds a lock on it; what nobody holds goes where room is needed, the least
    recently used first. Held entries may exceed the limit, by what is held.

    Args:
        folder: Its own folder; made where it is missing.
        limit_bytes: Size of all entries above which some go; at 0 each goes as soon as nobody holds it.

    Raises:
        ValueError: Where the limit is negative.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        if limit_bytes < 0:
            raise ValueError(f"limit_bytes must be 0 or more, got {limit_bytes}")
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._entries = folder / "entries"
        self._scratch = folder / "scratch"
        self._locks = folder / "locks"
        self._checked: set[tuple[str, int, int, int]] = set()
        self._checking = threading.Lock()

    @contextmanager
    def entry(
        self, key: str, make: Callable[[Path], None], *, while_waiting: Callable[[], None] | None = None
    ) -> Iterator[Entry]:
        """Hold the entry of a key, made first where it is missing or damaged.

        Of all that ask for a missing entry at the same time one makes it; the others wait and find it.

        Args:
            key: Letters, digits and single dashes; says all that the files follow from.
            make: Writes the files, one or more, into the empty folder that it is given. It may ask for other entries,
                never for this one. Where it raises, nothing is kept.
            while_waiting: Called again and again while another one makes it.

        Raises:
            ValueError: Where the key has another form.
            OSError: Where the folder cannot be written.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"a key must be of letters, digits and single dashes, got {key!r}")
        self._prepare()
        made = False
        try:
            with ExitStack() as held:
                if not self._take(key, held):
                    with read_write_lock(self._lock(key, "make"), while_waiting=while_waiting):
                        if not self._take(key, held):
                            self._make(key, make, held)
                            made = True
                if made:
                    self.trim()
                yield Entry(self._entries / key, made)
        finally:
            if made and not self.limit_bytes:
                self.trim()  # or else the one that was made last would stay until the next

    @contextmanager
    def found(self, key: str) -> Iterator[Entry | None]:
        """Hold the entry of a key where it is there; None where it is missing or damaged.

        Args:
            key: As for :meth:`entry`.

        Raises:
            OSError: Where the folder cannot be written.
        """
        self._prepare()
        with ExitStack() as held:
            yield Entry(self._entries / key, made=False) if self._take(key, held) else None

    def trim(self, limit_bytes: int | None = None) -> None:
        """Let the least recently used entries go until the limit holds, and sweep up what killed makers left.

        Args:
            limit_bytes: Instead of the cache's own; 0 to let everything go that nobody holds.

        Raises:
            OSError: Where the folder cannot be written.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        self._prepare()
        with read_write_lock(self.folder / "trim.lock"):
            sizes = sorted(self.sizes(), key=lambda entry: entry.used_ns)
            total = sum(entry.size_bytes for entry in sizes)
            for entry in sizes:
                if (total > limit or not entry.used_ns) and self._evict(entry):
                    total -= entry.size_bytes
            self._sweep()

    def is_one(self) -> bool:
        """Say whether the folder is a cache that a search has made, and none of anybody else's."""
        try:
            return (self.folder / _TAG_NAME).read_bytes() == _TAG
        except FileNotFoundError:
            return False

    def sizes(self) -> list[EntrySize]:
        """Return every entry as it lies on disk now."""
        return [
            EntrySize(folder.name, _size_of(folder), _used_ns(folder))
            for folder in sorted(_children(self._entries))
            if folder.is_dir()
        ]

    def _prepare(self) -> None:
        for folder in (self._entries, self._scratch, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        tag = self.folder / _TAG_NAME  # tells backups to leave it out, https://bford.info/cachedir/
        if not tag.exists():
            write_bytes(_TAG, tag)

    def _lock(self, key: str, purpose: str) -> Path:
        """Return the file of a lock: "use" guards the entry itself, "make" who makes it."""
        return self._locks / f"{key}.{purpose}"

    def _take(self, key: str, held: ExitStack) -> bool:
        """Hold the entry where it is there and whole."""
        with ExitStack() as trial:
            trial.enter_context(read_write_lock(self._lock(key, "use"), shared=True))
            if not self._is_whole(self._entries / key):
                return False
            now = time.time_ns()  # finer than the system's own idea of now
            os.utime(self._entries / key / MANIFEST, ns=(now, now))
            held.push(trial.pop_all())
            return True

    def _make(self, key: str, make: Callable[[Path], None], held: ExitStack) -> None:
        """Make an entry and hold it; the caller holds the lock to make it."""
        with read_write_lock(self._lock(key, "use")):
            _remove(self._entries / key)  # damaged, if there is one
        scratch = self._scratch / key
        _remove(scratch)  # what a killed maker left
        scratch.mkdir()
        try:
            with _telling_where(scratch):
                make(scratch)
                _write_manifest(scratch)
            # Before it can be seen, so that nobody takes it away in between.
            held.enter_context(read_write_lock(self._lock(key, "use"), shared=True))
            scratch.rename(self._entries / key)
        except BaseException:
            _remove(scratch)
            raise

    def _is_whole(self, folder: Path) -> bool:
        """Say whether the files of the manifest are there; read once in this process, told by size and time later."""
        try:
            files = json.loads((folder / MANIFEST).read_bytes())["files"]
            return all(self._is_intact(folder / Path(name).name, *kept) for name, kept in files.items())
        except (OSError, *DAMAGED):
            return False

    def _is_intact(self, path: Path, size_bytes: int, digest: str) -> bool:
        status = path.stat()
        seen = (digest, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._checking:
            if seen in self._checked:
                return True
        if status.st_size != size_bytes or file_digest(path) != digest:
            return False
        with self._checking:
            self._checked.add(seen)
        return True

    def _evict(self, entry: EntrySize) -> bool:
        with lock_if_free(self._lock(entry.key, "use")) as free:
            folder = self._entries / entry.key
            if not free or _used_ns(folder) != entry.used_ns:  # somebody has just asked for it
                return False
            _remove(folder)
            return True

    def _sweep(self) -> None:
        for scratch in _children(self._scratch):
            with lock_if_free(self._lock(scratch.name, "make")) as free:
                if free:
                    _remove(scratch)
        for lock in _children(self._locks):
            if not (self._entries / lock.stem).exists():
                with lock_if_free(lock) as free:
                    if free:
                        forget(lock)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _used_ns(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _size_of(folder: Path) -> int:
    total = 0
    for path in _children(folder):
        with suppress(FileNotFoundError):  # replaced or evicted meanwhile
            total += path.stat().st_size
    return total


def _remove(folder: Path) -> None:
    with suppress(OSError):  # what it is, the rest will meet as well
        (folder / MANIFEST).unlink()  # first: without it there is no entry, whenever this is interrupted
    with suppress(FileNotFoundError):
        if folder.is_symlink() or folder.is_file():
            folder.unlink()  # none of the cache's; what a link leads to is not its to remove
        else:
            shutil.rmtree(folder)


def _write_manifest(folder: Path) -> None:
    files = {path.name: [path.stat().st_size, file_digest(path)] for path in sorted(folder.iterdir())}
    write_bytes(json.dumps({"files": files}).encode(), folder / MANIFEST)


@contextmanager
def _telling_where(folder: Path) -> Iterator[None]:
    """Name the folder in an error of a full disk that names nothing, as that of a failing write."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(folder)
        raise
