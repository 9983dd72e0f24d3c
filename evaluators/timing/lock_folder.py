"""Where the locks of a machine lie: in a folder that nobody but the user can have made, or put in another's place.

The locks are those of one user: whoever may hold another's lock may keep that one's searches waiting for ever.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import OutputError


def shared_folder() -> Path:
    """Return the folder of the locks that all searches of this user on this machine share, made where it is missing.

    Raises:
        OutputError: Where none of the places for it can be trusted.
    """
    return _find_folder()[0]


def describe_folder() -> str:
    """Return in a sentence that the locks do not lie in the temporary folder, and why; empty where they do."""
    folder, faults = _find_folder()
    return f"the locks of this machine lie in {folder}: {'; '.join(faults)}" if faults else ""


def _find_folder() -> tuple[Path, list[str]]:
    """Return the folder, and what is wrong with the places before it."""
    faults: list[str] = []
    for folder in _places():
        fault = _fault_of(folder)
        if not fault:
            return folder, faults
        faults.append(f"{folder} {fault}")
    raise OutputError(
        "there is no folder for the locks of this machine",
        where="; ".join(faults),
        expected="a folder of the user's own in the temporary folder, in $XDG_RUNTIME_DIR or in ~/.cache",
        remedy="set TMPDIR to a folder that nobody else can write to",
    )


def _places() -> Iterator[Path]:
    """Yield where the folder may lie; whoever looks on the same machine finds the same."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    with suppress(FileNotFoundError):  # no temporary folder can be written to
        yield Path(tempfile.gettempdir()).absolute() / f"karui-{user}"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime).absolute() / "karui"
    with suppress(RuntimeError):  # a user without a home
        cache = os.environ.get("XDG_CACHE_HOME")
        yield (Path(cache) if cache else Path.home() / ".cache").absolute() / "karui-locks"


def _fault_of(folder: Path) -> str:
    """Make a folder for locks, and say why it cannot be trusted; empty where it can.

    In a temporary folder anybody may have made it before, as a link or as a folder that is theirs; and where that is
    not sticky, anybody may put another in its place.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own, above = folder.lstat(), folder.parent.stat()
        if stat.S_ISLNK(own.st_mode) or not stat.S_ISDIR(own.st_mode):
            return "is no folder"
        if not hasattr(os, "getuid"):
            return ""
        if own.st_uid != os.getuid():
            return "belongs to another user"
        others_write = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
        if above.st_uid not in (0, os.getuid()) or others_write:
            return "lies where others may put another folder in its place"
        if own.st_mode & 0o077:
            folder.chmod(0o700)
        return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written to"
    except OSError as error:
        return f"cannot be made: {error.strerror}"
