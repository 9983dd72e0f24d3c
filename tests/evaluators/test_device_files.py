"""The files that an agent keeps on its device: whole, bounded, and nothing by a name that came from elsewhere."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from karui.evaluators.targets.device_files import MOST_SECONDS, DeviceFiles


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def name_of(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.onnx"


def put(files: DeviceFiles, content: bytes, *needed: bytes) -> None:
    names = [name_of(item) for item in (content, *needed)]
    files.put(name_of(content), io.BytesIO(content + b"what comes next"), len(content), names)


def test_a_file_comes_in_whole_and_takes_nothing_of_what_follows(tmp_path: Path) -> None:
    files = DeviceFiles(tmp_path / "files")
    stream = io.BytesIO(b"model" + b"next")
    files.put(name_of(b"model"), stream, 5, [])
    assert stream.read() == b"next"
    assert files.path(name_of(b"model")).read_bytes() == b"model"
    assert files.missing([name_of(b"model"), name_of(b"other")]) == [name_of(b"other")]


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path: Path, clock: Clock) -> None:
    files = DeviceFiles(tmp_path, most_bytes=12, now=clock)
    for content in (b"1111", b"2222", b"3333"):
        put(files, content)
        clock.now += 1
        files.missing([name_of(content)])
    files.missing([name_of(b"1111")])  # used again, so that 2222 is the oldest
    put(files, b"4444")
    assert files.missing([name_of(b"%d" % n * 4) for n in (1, 2, 3, 4)]) == [name_of(b"2222")]


def test_what_is_needed_stays_though_it_is_too_much(tmp_path: Path) -> None:
    files = DeviceFiles(tmp_path, most_bytes=5)
    put(files, b"1111")
    put(files, b"2222", b"1111")
    assert files.missing([name_of(b"1111"), name_of(b"2222")]) == []


@pytest.mark.parametrize("came", [b"modem", b"mod"])
def test_what_comes_changed_or_cut_off_is_not_kept(tmp_path: Path, came: bytes) -> None:
    files = DeviceFiles(tmp_path)
    with pytest.raises((ValueError, EOFError), match=r"is not|ended"):
        files.put(name_of(b"model"), io.BytesIO(came), 5, [])
    assert files.missing([name_of(b"model")]) == [name_of(b"model")]
    files.clean()
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_uses_goes(tmp_path: Path, clock: Clock) -> None:
    files = DeviceFiles(tmp_path, now=clock)
    for content in (b"old", b"new"):
        put(files, content)
        files.missing([name_of(content)])
        clock.now += MOST_SECONDS - 1
    files.clean()
    assert [path.name for path in tmp_path.iterdir()] == [name_of(b"new")]


@pytest.mark.parametrize("name", ["../passwd", "/etc/passwd", "model.onnx", "", f"{'0' * 64}.py", f"{'0' * 63}/.npy"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a file kept here"):
        DeviceFiles(tmp_path).missing([name])
