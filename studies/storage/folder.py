"""The results folder of a study: where things lie, that it can be written, and what one search does at a time."""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from ...errors import OutputError
from ...spaces.artifact import write_bytes

CACHE_NAME = "karui-cache"

_MEANS_SOMETHING = re.compile(r"[%?#{}]")

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = ("<frozen ", *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")))
"""Where the code lies of those whom neither karui nor a task has written."""


@dataclass(frozen=True)
class RunFolder:
    """Paths under a study's results folder.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def database(self) -> Path:
        """Optuna's storage, SQLite."""
        return self.path / "study.db"

    @property
    def own_storage(self) -> str:
        """URL of that storage, with whatever has a meaning in a URL, or to Optuna, written such that it has none."""
        return f"sqlite:///{_MEANS_SOMETHING.sub(lambda match: quote(match[0]), str(self.database))}"

    @property
    def trials_csv(self) -> Path:
        """Every trial."""
        return self.path / "trials.csv"

    @property
    def front_csv(self) -> Path:
        """The re-measured front."""
        return self.path / "front.csv"

    @property
    def front_png(self) -> Path:
        """The picture of the front."""
        return self.path / "front.png"

    @property
    def front_files(self) -> Path:
        """The ONNX files of the front, each with its configuration beside it."""
        return self.path / "front"

    @property
    def preflight(self) -> Path:
        """What the probes of the model came to, by target."""
        return self.path / "preflight.json"

    @property
    def deploy(self) -> Path:
        """What a bundle of each of these files needs of the task."""
        return self.path / "deploy"

    @property
    def build(self) -> Path:
        """Networks and files of all candidates."""
        return self.path / "build"

    @property
    def cache(self) -> Path:
        """Trained networks, shared with the studies beside this one; within where nothing can be put beside it."""
        beside = self.path.absolute().parent
        return (self.path.parent if os.access(beside, os.W_OK) else self.path) / CACHE_NAME

    @property
    def log(self) -> Path:
        """What was tried, stopped, failed, and why, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def worker_output(self) -> Path:
        """What tasks and native code print in worker processes."""
        return self.path / "workers.log"

    @property
    def outcomes(self) -> Path:
        """What was measured of each file, by its digest."""
        return self.build / "outcomes"

    @property
    def rows(self) -> Path:
        """Which rows of each split each file gets right, by its digest."""
        return self.build / "rows"

    @property
    def certified(self) -> Path:
        """Which front was measured again."""
        return self.path / ".certified"

    @property
    def certification(self) -> Path:
        """How the front stood its test when it was measured again."""
        return self.path / "certification.json"

    def prepare(self) -> None:
        """Make the folder and try to write in it.

        Raises:
            OutputError: Where that is not possible.
        """
        check_name(self.path, "results folder", "another --out")
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"karui" * 1000)

    @contextmanager
    def alone(self, what: str, waits: Callable[[], None]) -> Iterator[bool]:
        """Do something that one search at a time does in this folder; yield whether another one did it just now.

        The system lets go of it when the process ends, however it ends.

        Args:
            what: One word for it.
            waits: Called before the wait, where another search is at it.
        """
        with explain_os_errors(self.path):
            held = FileLock(self.path / f".{what}.lock")
            try:
                held.acquire(blocking=False)
                waited = False
            except Timeout:
                waited = True
        if waited:
            waits()
            held.acquire()
        try:
            yield waited
        finally:
            held.release()


def check_name(path: Path, what: str, option: str) -> None:
    """Refuse a path that no file can have, or that cannot be written down as text.

    Args:
        path: Of a file or a folder.
        what: What it is to the user.
        option: What the user may give instead.

    Raises:
        OutputError: Where it holds a NUL, or bytes that are no UTF-8: neither a URL nor a table can name it.
    """
    fault = "a NUL in the name" if "\0" in str(path) else ""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        fault = "bytes in the name that are no UTF-8"
    if fault:
        raise OutputError(
            f"the {what} cannot be used",
            where=repr(str(path)),
            expected="a path that can be written as text",
            got=fault,
            remedy=f"give {option}",
        )


@contextmanager
def explain_os_errors(
    where: Path, what: str = "results folder", option: str = "another --out", *, task_runs: bool = False
) -> Iterator[None]:
    """Turn a full disk, a read-only folder and their like into an error a person can act on.

    Args:
        where: What is written to, where the error itself does not say.
        what: What it is to the user.
        option: What the user may give instead.
        task_runs: Whether the task's own code runs as well: what that raises is left as it is.
    """
    try:
        yield
    except OSError as error:
        if task_runs and not _is_about(error, where):
            raise
        raise OutputError(
            f"the {what} cannot be written",
            where=str(error.filename or where),
            expected="a folder with space in which files can be made",
            got=error.strerror or str(error),
            remedy=f"make room, correct the permissions, or give {option}; what was found so far is kept",
        ) from error


@contextmanager
def explain_unreadable(where: Path, what: str) -> Iterator[None]:
    """Turn an error of the system in reading a file or a folder into one a person can act on.

    Args:
        where: What is read, where the error itself does not say.
        what: What it is to the user.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{what} cannot be read",
            where=os.fsdecode(error.filename or where),
            got=error.strerror or str(error),
            remedy="correct its permissions, or restore it",
        ) from error


@contextmanager
def explain_cache_errors(cache: Path) -> Iterator[None]:
    """Do as :func:`explain_os_errors` with the errors that name something in the cache, and only with those."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(os.fsdecode(error.filename)).is_relative_to(cache):
            raise
        with explain_os_errors(cache, "cache of trained networks", "another --cache"):
            raise


def _is_about(error: OSError, folder: Path) -> bool:
    """Say whether an error came of karui's own writing and reading: by who raised it, and by the file that it names."""
    if error.filename is not None and not isinstance(error.filename, int):
        named = Path(os.fsdecode(error.filename))
        own = (folder.absolute(), Path(tempfile.gettempdir()).absolute())
        if not any(named.is_relative_to(place) for place in own):
            return False
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module, file in zip(reversed(modules), reversed(files), strict=True):
        if module.startswith(f"{_PACKAGE}."):
            return True
        if not file.startswith(_LIBRARIES):  # neither karui nor a library: the task
            return False
    return False


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder where it is missing.

    Raises:
        OSError: Where it cannot be written; the old file, if any, is then still whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(content, path)


def followed(path: Path) -> Path:
    """Return where a path that a user has named leads to, which may not be there yet.

    Raises:
        OSError: Where symbolic links lead to each other.
    """
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except RuntimeError as error:  # as Python before 3.13 tells of such links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
