"""Where the locks lie: in nothing that somebody else may have put there, and otherwise elsewhere, with a word."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from karui.errors import OutputError
from karui.evaluators.timing.lock_folder import describe_folder, shared_folder
from karui.evaluators.timing.machine_lock import MachineLock

USER = os.getuid()


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("temporary", "runtime", "cache"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "temporary").chmod(0o1777)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_it_lies_in_the_temporary_folder_and_is_open_to_nobody_else(tmp_path: Path) -> None:
    folder = shared_folder()
    assert folder == tmp_path / "temporary" / f"karui-{USER}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert describe_folder() == ""
    folder.chmod(0o777)
    assert shared_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "it is the user's own, so the user's to close"


def _link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def _dangling(folder: Path) -> None:
    folder.symlink_to(folder.parent / "nowhere")


def _not_sticky(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


@pytest.mark.parametrize(
    ("trap", "told"),
    [
        (_link, "is no folder"),
        (_dangling, "cannot be made"),
        (Path.touch, "cannot be made"),
        (_not_sticky, "put another folder in its place"),
    ],
)
def test_what_somebody_else_may_have_put_there_is_left_with_a_word(
    tmp_path: Path, trap: Callable[[Path], None], told: str
) -> None:
    trap(tmp_path / "temporary" / f"karui-{USER}")
    before = sorted(path for path in (tmp_path / "temporary").rglob("*"))
    with MachineLock().measuring():
        assert shared_folder() == tmp_path / "runtime" / "karui"
    assert told in describe_folder()
    assert str(tmp_path / "runtime" / "karui") in describe_folder()
    assert sorted(path for path in (tmp_path / "temporary").rglob("*")) == before, "nothing is written there"


def test_a_folder_of_another_user_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "temporary" / f"karui-{USER + 1}"
    theirs.mkdir(mode=0o777)  # made by this user, in the name of the next one
    monkeypatch.setattr(os, "getuid", lambda: USER + 1)
    with pytest.raises(OutputError, match=r"no folder for the locks(?s:.*)belongs to another user(?s:.*)set TMPDIR"):
        shared_folder()


def test_all_that_look_find_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    (tmp_path / "temporary").chmod(0o777)
    assert shared_folder() == shared_folder() == tmp_path / "cache" / "karui-locks"
    assert describe_folder().startswith(f"the locks of this machine lie in {tmp_path / 'cache' / 'karui-locks'}: ")


@pytest.mark.parametrize("name", ["working.lock", "measuring.lock"])
@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_a_lock_that_is_no_file_is_told(tmp_path: Path, name: str, kind: str) -> None:
    victim, path = tmp_path / "victim", shared_folder() / name
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(OutputError, match=rf"lock of this machine cannot be used(?s:.*){name}(?s:.*)remove it"):
        MachineLock()
    assert not victim.exists()
