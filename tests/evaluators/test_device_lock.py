"""The locks of a device: two connections of one user never both hold, and no other user is waited for for ever."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from karui.evaluators.targets.device_lock import LOCK_NAME, OWN_LOCK_NAME, PATIENCE_SECONDS, DeviceLock


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_lock(tmp_path: Path, clock: Clock) -> Callable[..., DeviceLock]:
    """Return a function that opens the locks as a connection of a user does."""
    (tmp_path / "shared").mkdir()

    def make(user: str = "one") -> DeviceLock:
        (tmp_path / user).mkdir(exist_ok=True)
        return DeviceLock(tmp_path / user, tmp_path / "shared", clock)

    return make


@pytest.mark.parametrize("users", [("one", "one"), ("one", "other")])
def test_two_take_turns(make_lock: Callable[..., DeviceLock], users: tuple[str, str]) -> None:
    first, second = map(make_lock, users)
    assert first.take()
    assert not second.take()
    first.let_go()
    assert second.take()
    assert not first.take()
    assert (first.word, second.word) == ("", "")


def test_another_user_is_waited_for_so_long_and_once(
    make_lock: Callable[..., DeviceLock], tmp_path: Path, clock: Clock
) -> None:
    lock = make_lock()
    with (tmp_path / "shared" / LOCK_NAME).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not lock.take()
        clock.now = PATIENCE_SECONDS - 1
        assert not lock.take()
        clock.now = PATIENCE_SECONDS
        assert lock.take()
        assert lock.word == f"{tmp_path}/shared/{LOCK_NAME} has been held by another user for 5 minutes"
        assert not make_lock().take(), "one's own searches keep apart all the same"
        lock.let_go()
        assert lock.take(), "at once: it is known by now who holds it"
        lock.let_go()
    assert lock.take()
    assert lock.word == ""
    lock.let_go()
    other_user = make_lock("other")
    assert other_user.take()
    assert not lock.take(), "patient again"


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(make_lock: Callable[..., DeviceLock], tmp_path: Path, what: str) -> None:
    path = tmp_path / "shared" / LOCK_NAME
    if what == "link":
        path.symlink_to(tmp_path / "target")
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    lock = make_lock()
    assert lock.take()
    assert lock.word.startswith(f"{path} cannot be used")
    assert not make_lock().take()
    assert not (tmp_path / "target").exists()


def test_the_own_lock_is_the_users_alone(make_lock: Callable[..., DeviceLock], tmp_path: Path) -> None:
    lock = make_lock()
    assert lock.take()
    assert (tmp_path / "one" / OWN_LOCK_NAME).stat().st_mode & 0o077 == 0
