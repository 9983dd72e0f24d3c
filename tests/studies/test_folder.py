"""The results folder: what one search does at a time, whole files or none, faults of the disk that say what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from karui.errors import OutputError
from karui.studies.storage.folder import RunFolder, explain_os_errors, write_atomically

HOLD = """
import sys
from pathlib import Path
from karui.studies.storage.folder import RunFolder

with RunFolder(Path(sys.argv[1])).alone("front", lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


def full_disk(*arguments: Any, **options: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_search_waits_and_says_so(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def waits() -> None:
        said.append("waits")
        holder.communicate()  # and so the first one comes to its end

    with RunFolder(tmp_path).alone("front", waits) as waited:
        assert waited
    assert said == ["waits"]


def test_what_one_search_does_keeps_no_other_from_something_else(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    for folder, what in ((tmp_path, "baseline"), (tmp_path / "other", "front")):
        with RunFolder(folder).alone(what, pytest.fail) as waited:
            assert not waited
    assert holder.poll() is None


def test_a_killed_search_lets_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with RunFolder(tmp_path).alone("front", pytest.fail) as waited:
        assert not waited


def test_the_lock_is_let_go_of_when_the_search_fails(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="bug"), RunFolder(tmp_path).alone("front", pytest.fail):
            raise ZeroDivisionError("bug")


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "b").prepare()
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/karui", "/proc/self/karui"])
def test_a_place_that_cannot_be_written_is_told(place: str) -> None:
    with pytest.raises(OutputError, match=rf"cannot be written(?s:.*){place}(?s:.*)--out"):
        RunFolder(Path(place)).prepare()


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match=r"taken(?s:.*)File exists"):
        RunFolder(tmp_path / "taken").prepare()
    with pytest.raises(OutputError, match=r"taken(?s:.*)Not a directory"):
        RunFolder(tmp_path / "taken" / "below").prepare()


def test_a_full_disk_is_told_before_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    with pytest.raises(OutputError, match=r"cannot be written(?s:.*)No space left(?s:.*)make room"):
        RunFolder(tmp_path).prepare()


def test_only_faults_of_the_system_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bug"), explain_os_errors(tmp_path):
        raise ValueError("bug")
    told = r"the folder to export to cannot be written(?s:.*)give another --export"
    with pytest.raises(OutputError, match=told), explain_os_errors(tmp_path, "folder to export to", "another --export"):
        full_disk()


TASK = """
import os

def read_labels(path):
    with open(path) as file:
        return file.read()

def move():
    os.chdir("/nowhere/at/all")

def write_full(descriptor):
    os.write(descriptor, b"x")
"""


@pytest.mark.parametrize(
    ("call", "argument"), [("read_labels", "labels.txt"), ("read_labels", "{folder}/labels.txt"), ("move", "")]
)
def test_what_the_task_raises_is_not_blamed_on_the_folder(tmp_path: Path, call: str, argument: str) -> None:
    module = ModuleType("mytask")
    exec(compile(TASK, str(tmp_path / "mytask.py"), "exec"), module.__dict__)
    arguments = [argument.format(folder=tmp_path)] if argument else []
    with pytest.raises(FileNotFoundError), explain_os_errors(tmp_path, task_runs=True):
        getattr(module, call)(*arguments)
    with pytest.raises(OSError, match="Bad file"), explain_os_errors(tmp_path, task_runs=True):
        module.write_full(-1)


def test_what_karui_raises_is_where_the_task_runs_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), explain_os_errors(tmp_path, task_runs=True):
        write_atomically(tmp_path / "file" / "below", b"x")


# --- write_atomically -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("content", [b"", b"new", bytes(range(256)) * 1000])
def test_a_file_is_written_whole(tmp_path: Path, before: bytes | None, content: bytes) -> None:
    path = tmp_path / "sub" / "file"
    if before is not None:
        write_atomically(path, before)
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["os.fdopen", "pathlib.Path.chmod", "pathlib.Path.replace", "tempfile.mkstemp"])
def test_the_old_file_stays_whole_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(step, full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "karui-test", str(place)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("task_runs", [False, True])
def test_a_disk_that_is_full_indeed(small_disk: Path, task_runs: bool) -> None:
    write_atomically(small_disk / "file", b"old")
    with pytest.raises(OutputError, match="No space left"), explain_os_errors(small_disk, task_runs=task_runs):
        write_atomically(small_disk / "file", b"x" * 200_000)
    assert (small_disk / "file").read_bytes() == b"old"
    RunFolder(small_disk).prepare()
    (small_disk / "filler").write_bytes(b"x" * (64 * 1024 - 4096))
    with pytest.raises(OutputError, match=r"No space left(?s:.*)make room"):
        RunFolder(small_disk).prepare()
