"""Files shared under their SHA-256: one contract for folders and for what fsspec reaches, and what goes wrong there."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from karui.errors import OutputError
from karui.studies.storage.shared_files import (
    FolderStore,
    ObjectStore,
    SharedFiles,
    absolute_location,
    open_shared_files,
)

CONTENT = b"a file of the front" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["folder", "file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = tmp_path / "not" / "made yet"
    return {"folder": str(place), "file": f"file://{place}", "memory": f"memory://karui-{uuid4().hex}/study"}[
        request.param
    ]


def names_in(location: str) -> list[str]:
    """What lies there, by fsspec's own means."""
    files, root = fsspec.core.url_to_fs(location)
    return sorted(Path(name).name for name in files.ls(root, detail=False)) if files.exists(root) else []


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.onnx"
    path.write_bytes(CONTENT)
    return path


def test_what_one_machine_keeps_another_fetches(location: str, made: Path, tmp_path: Path) -> None:
    here, there = SharedFiles(location), SharedFiles(location)
    destination = tmp_path / "results" / "files" / "found.onnx"
    assert not there.fetch(DIGEST, destination)
    assert not destination.exists()
    here.keep(made, DIGEST)
    assert names_in(location) == [DIGEST]
    assert there.fetch(DIGEST, destination)
    assert destination.read_bytes() == CONTENT
    assert [path.name for path in destination.parent.iterdir()] == ["found.onnx"]


def test_what_is_kept_already_is_not_written_again(
    location: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SharedFiles(location).keep(made, DIGEST)

    def write(self: object, artifact_id: str, content_body: BinaryIO) -> None:
        pytest.fail("written again")

    for kind in (FolderStore, ObjectStore):
        monkeypatch.setattr(kind, "write", write)
    SharedFiles(location).keep(made, DIGEST)
    assert SharedFiles(location).fetch(DIGEST, tmp_path / "found.onnx")


def test_the_probe_leaves_nothing(location: str) -> None:
    SharedFiles(location).check()
    assert names_in(location) == []


def test_what_was_changed_there_is_refused(location: str, tmp_path: Path) -> None:
    files, root = fsspec.core.url_to_fs(location)
    files.makedirs(root, exist_ok=True)
    files.pipe_file(f"{root}/{DIGEST}", CONTENT + b"!")
    (tmp_path / "found.onnx").write_bytes(b"as before")
    with pytest.raises(
        OutputError, match=rf"not the one that was put there(?s:.*)sha256 {DIGEST}(?s:.*)remove it there"
    ):
        SharedFiles(location).fetch(DIGEST, tmp_path / "found.onnx")
    assert (tmp_path / "found.onnx").read_bytes() == b"as before"


class Breaks(io.BytesIO):
    """Gives a few bytes, then fails as a network does."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() or size in (None, -1):
            raise ConnectionResetError("the network is gone")
        return super().read(7)


@pytest.mark.parametrize("kind", [FolderStore, ObjectStore])
def test_what_breaks_off_leaves_nothing(kind: Any, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    store: Any = kind(place) if kind is FolderStore else kind(f"memory://{uuid4().hex}")

    with pytest.raises(ConnectionResetError, match="gone"):
        store.write("name", Breaks(CONTENT))
    with pytest.raises(ArtifactNotFound, match=r"name|not found"):
        store.open_reader("name")
    assert not place.exists() or not list(place.iterdir())
    if isinstance(store, ObjectStore):
        assert store._files.ls(store._root) == []


@pytest.mark.parametrize("kind", [FolderStore, ObjectStore])
def test_stores_keep_to_optunas_protocol(kind: Any, tmp_path: Path) -> None:
    store = kind(tmp_path / "shared") if kind is FolderStore else kind(f"memory://{uuid4().hex}/deep")
    for content in (b"first", b"second"):
        store.write("name", io.BytesIO(content))
        with store.open_reader("name") as reader:
            assert reader.read() == content
    store.remove("name")
    for use in (store.open_reader, store.remove):
        with pytest.raises(ArtifactNotFound, match=r"name|not found"):
            use("name")


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be slept, which nobody sleeps."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_an_object_store_that_fails_for_a_moment_is_tried_again(
    waits: list[float], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, kept, failures = f"memory://{uuid4().hex}", ObjectStore.write, [ConnectionResetError("gone")] * 3

    def write(self: ObjectStore, artifact_id: str, content_body: BinaryIO) -> None:
        kept(self, artifact_id, content_body)  # read to its end: the next attempt begins anew
        if failures:
            raise failures.pop()

    monkeypatch.setattr(ObjectStore, "write", write)
    SharedFiles(location).keep(made, DIGEST)
    assert len(waits) == 3
    assert SharedFiles(location).fetch(DIGEST, tmp_path / "found.onnx")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/proc/karui", "No such file or directory"),
        ("file:///proc/karui", "No such file or directory"),
        ("nosuch://bucket/karui", "Protocol not known: nosuch"),
    ],
)
def test_a_location_that_cannot_be_used_is_told(location: str, words: str) -> None:
    with pytest.raises(OutputError, match=r"artifacts location cannot be used(?s:.*)another --artifacts") as caught:
        SharedFiles(location).check()
    assert words in str(caught.value.got)
    assert caught.value.where == location


@pytest.mark.parametrize("missing", ["fsspec", "fsspec.core"])
def test_a_missing_package_is_told_with_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(OutputError, match=r"cannot be used(?s:.*)pip install 'karui\[remote\]'(?s:.*)s3fs"):
        SharedFiles("s3://bucket/karui")


def test_a_password_in_a_location_is_not_shown() -> None:
    with pytest.raises(OutputError, match="cannot be used") as caught:
        SharedFiles("nosuch://me:secret@host/karui")
    assert "secret" not in str(caught.value)


def test_a_folder_is_meant_from_the_study_file_and_a_url_as_it_is(tmp_path: Path) -> None:
    assert open_shared_files(None, tmp_path) is None
    found = open_shared_files("../shared", tmp_path / "study")
    assert found is not None
    assert Path(found.location).resolve() == tmp_path / "shared"
    assert absolute_location("/shared", tmp_path) == "/shared"
    assert absolute_location("s3://bucket/x", tmp_path) == "s3://bucket/x"
