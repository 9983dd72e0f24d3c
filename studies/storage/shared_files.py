"""Files that searches on several machines share: kept under their SHA-256, in a folder or an object store."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from optuna.artifacts import Backoff, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from ...errors import OutputError, without_secrets
from ...spaces.artifact import write_bytes

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

ATTEMPTS = 10
"""How often an object store is tried before the search gives it up; the waits between add up to 51 seconds."""


class FolderStore(FileSystemArtifactStore):
    """Optuna's artifact store in a folder, with files that are there whole or not at all.

    Args:
        folder: The folder; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file.

        Raises:
            OSError: Where it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes(content_body.read(), self._folder / artifact_id)


class ObjectStore:
    """Optuna's artifact store wherever fsspec reaches: written beside its final name, then moved there.

    Args:
        location: An fsspec URL, such as ``s3://bucket/karui``.

    Raises:
        ImportError: Where fsspec, or its package for that kind of URL, is not installed.
        ValueError: Where fsspec knows no such kind of URL.
    """

    def __init__(self, location: str) -> None:
        from fsspec.core import url_to_fs

        self._files: Any
        self._files, self._root = url_to_fs(location)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file to read.

        Raises:
            ArtifactNotFound: Where there is none.
        """
        self._files.invalidate_cache()  # others write there too
        try:
            reader: BinaryIO = self._files.open(self._path(artifact_id), "rb")
        except FileNotFoundError as error:
            raise ArtifactNotFound(artifact_id) from error
        return reader

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file."""
        self._files.makedirs(self._root, exist_ok=True)
        unfinished = self._path(f"{artifact_id}.{uuid4().hex}.part")
        try:
            with self._files.open(unfinished, "wb") as file:
                shutil.copyfileobj(content_body, file)
            self._files.mv(unfinished, self._path(artifact_id))
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                self._files.rm_file(unfinished)
            raise

    def remove(self, artifact_id: str) -> None:
        """Remove a file.

        Raises:
            ArtifactNotFound: Where there is none.
        """
        try:
            self._files.rm_file(self._path(artifact_id))
        except FileNotFoundError as error:
            raise ArtifactNotFound(artifact_id) from error

    def _path(self, artifact_id: str) -> str:
        return f"{self._root.rstrip('/')}/{artifact_id}"


class SharedFiles:
    """Files by their SHA-256, which also is their name in the artifact store, so that nothing is kept twice.

    Args:
        location: A folder, or an fsspec URL.

    Raises:
        OutputError: Where there is no way to that location.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._store: ArtifactStore
        with self._explained():
            if "://" in location and not location.startswith("file://"):
                self._store = Backoff(ObjectStore(location), max_retries=ATTEMPTS)
            else:
                self._store = FolderStore(Path(location.removeprefix("file://")))

    def check(self) -> None:
        """Write a file there, read it back and remove it.

        Raises:
            OutputError: Where that is not possible.
        """
        name = f"probe-{uuid4().hex}"
        store = ObjectStore(self.location) if isinstance(self._store, Backoff) else self._store
        with self._explained():
            store.write(name, io.BytesIO(name.encode()))
            with store.open_reader(name) as reader:
                found = reader.read()
            store.remove(name)
        if found != name.encode():
            raise OutputError("the artifacts location does not give back what was written", where=self.location)

    def keep(self, path: Path, digest: str) -> None:
        """Put a file there, unless it is there already.

        Args:
            path: The file.
            digest: Its SHA-256, hexadecimal.

        Raises:
            OutputError: Where that is not possible.
        """
        with self._explained():
            try:
                self._store.open_reader(digest).close()
            except ArtifactNotFound:
                with path.open("rb") as file:
                    self._store.write(digest, file)

    def fetch(self, digest: str, destination: Path) -> bool:
        """Write the file of that digest to a path, whole or not at all; False where it is not kept.

        Raises:
            OutputError: Where it cannot be read, or is not the file that was put there.
        """
        with self._explained():
            try:
                with self._store.open_reader(digest) as reader:
                    content = reader.read()
            except ArtifactNotFound:
                return False
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise OutputError(
                "a file in the artifacts location is not the one that was put there",
                where=f"{self.location}: {digest}",
                expected=f"sha256 {digest}",
                got=f"sha256 {found}",
                remedy="remove it there; the search that made it puts it there again, any other makes it anew",
            )
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(content, destination)
        return True

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a file system raises into an error a person can act on."""
        try:
            yield
        except ArtifactNotFound:
            raise
        except Exception as error:  # each kind of object store raises exceptions of its own, of no common class
            if isinstance(error, ImportError):
                remedy = "pip install 'karui[remote]', and fsspec's package for it: s3fs for s3://, gcsfs for gs://"
            else:
                remedy = "check the location, the credentials and the permissions, or give another --artifacts"
            raise OutputError(
                "the artifacts location cannot be used",
                where=self.location,
                expected="a folder that all machines share, or an fsspec URL, to read and write",
                got=without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300],
                remedy=remedy,
            ) from error


def open_shared_files(location: str | None, folder: Path) -> SharedFiles | None:
    """Return the files of an artifacts location, or None where none is given.

    Args:
        location: A folder, relative to ``folder``, or an fsspec URL.
        folder: That of the study file.

    Raises:
        OutputError: Where there is no way to that location.
    """
    return None if location is None else SharedFiles(absolute_location(location, folder))


def absolute_location(location: str, folder: Path = Path()) -> str:
    """Return an artifacts location that means the same wherever it is read: an URL as it is, a folder in full."""
    return location if "://" in location else str((folder / Path(location).expanduser()).absolute())
