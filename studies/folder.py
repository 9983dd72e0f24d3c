"""The results folder of a study: where things lie, that it can be written, and that one search writes it at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import OutputError
from ..spaces.artifact import write_bytes

CACHE_NAME = "karui-cache"


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
        """URL of that storage."""
        return f"sqlite:///{self.database}"

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
    def build(self) -> Path:
        """Networks and files of all candidates."""
        return self.path / "build"

    @property
    def cache(self) -> Path:
        """Trained networks, shared with the studies beside this one; within where nothing can be put beside it."""
        beside = self.path.absolute().parent
        return (self.path.parent if os.access(beside, os.W_OK) else self.path) / CACHE_NAME

    def prepare(self) -> None:
        """Make the folder and try to write in it.

        Raises:
            OutputError: Where that is not possible.
        """
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"karui" * 1000)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one search; the system lets go of it when the process ends, however it ends.

        Raises:
            OutputError: Where another search holds it.
        """
        owner = self.path / "search.pid"
        with explain_os_errors(self.path):
            held = FileLock(self.path / "search.lock", blocking=False)
            try:
                held.acquire()
            except Timeout as error:
                process = owner.read_text() if owner.exists() else "unknown"
                raise OutputError(
                    "another search is writing to this results folder",
                    where=str(self.path),
                    got=f"process {process} holds it",
                    remedy="wait for it, stop it, or give another folder by --out",
                ) from error
            owner.write_text(str(os.getpid()))
        try:
            yield
        finally:
            held.release()


@contextmanager
def explain_os_errors(where: Path, what: str = "results folder", option: str = "another --out") -> Iterator[None]:
    """Turn a full disk, a read-only folder and their like into an error a person can act on.

    Args:
        where: What is written to, where the error itself does not say.
        what: What it is to the user.
        option: What the user may give instead.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the {what} cannot be written",
            where=str(error.filename or where),
            expected="a folder with space in which files can be made",
            got=error.strerror or str(error),
            remedy=f"make room, correct the permissions, or give {option}; what was found so far is kept",
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder where it is missing.

    Raises:
        OSError: Where it cannot be written; the old file, if any, is then still whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(content, path)
