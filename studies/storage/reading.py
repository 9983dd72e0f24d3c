"""What a search has left behind, read back: whatever else lies there is told with its place, never a bare error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DAMAGED, OutputError

ANEW = "run the search again; it only writes the front anew"


@contextmanager
def explain_damage(where: Path | str, what: str, remedy: str = ANEW) -> Iterator[None]:
    """Turn what reading something damaged raises into an error a person can act on.

    Args:
        where: The file, or the place in it.
        what: What it is to the user.
        remedy: What to do about it.
    """
    try:
        yield
    except OSError as error:
        raise _damaged(where, what, remedy, error.strerror or str(error)) from error
    except KeyError as error:
        raise _damaged(where, what, remedy, f"there is no {error}") from error
    except RecursionError as error:
        raise _damaged(where, what, remedy, "values within values, without end") from error
    except DAMAGED as error:
        raise _damaged(where, what, remedy, " ".join(str(error).split())[:300]) from error


def _damaged(where: Path | str, what: str, remedy: str, got: str) -> OutputError:
    return OutputError(f"{what} cannot be read", where=str(where), got=got or "something else", remedy=remedy)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: Where it is no JSON, no text, no file, or holds halves of characters, which no file takes.
        RecursionError: Where its values are too deep.
        OSError: Where it cannot be read.
    """
    check_is_file(path)
    text = path.read_text(encoding="utf-8")
    found = json.loads(text)
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()
    return found


def check_is_file(path: Path) -> None:
    """Refuse what only looks like a file: reading a pipe may never end.

    Raises:
        ValueError: Where something else lies there.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"it is a {'folder' if path.is_dir() else 'pipe or a device'}, a file was expected")
