"""A study file's text as plain values: bounded in size and depth, whatever somebody has written there."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import StudyFileError

MOST_BYTES = 1_000_000
"""Of a study file; those that are written by hand have some thousand."""

MOST_LEVELS = 16
"""Of values within values; a study file itself has three, what is below them is an option of the task's."""

_LONGEST_INTEGER = 2**63
"""Integers from there on are none that TOML has."""

Location = tuple[int | str, ...]


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a study file says.

    Raises:
        StudyFileError: Where it cannot be read, is too long, or is no TOML.
    """
    with explain_reading(path), path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise StudyFileError(
            "the study file is too long",
            where=str(path),
            expected=f"at most {MOST_BYTES / 1e6:g} MB",
            got=f"{path.stat().st_size / 1e6:,.1f} MB",
            remedy="name a study file; data belong into files that the task reads",
        )
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        got = "brackets within brackets, some hundred deep"
    except ValueError as error:  # of TOML, of UTF-8, or a number of thousands of digits
        got = str(error)
    raise StudyFileError("the study file is not valid TOML", where=str(path), got=got, remedy="correct that line")


@contextmanager
def explain_reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a study file into an error a person can act on."""
    try:
        yield
    except OSError as error:
        raise StudyFileError(
            "the study file cannot be read",
            where=str(path),
            got=error.strerror or str(error),
            remedy="check its name and its permissions",
        ) from error


def find_fault(plain: dict[str, Any]) -> tuple[Location, str, str] | None:
    """Return the place of a value that no study file can hold, what was expected and what came; None without any.

    A flag is none of its values, but for the options of the task.
    """
    left: list[tuple[Location, Any]] = [((), plain)]
    while left:
        location, thing = left.pop()
        of_task = location[:1] == ("task_options",)
        if isinstance(thing, bool) and not of_task:
            return location, "a number, a text, a list or a section", "true or false"
        if isinstance(thing, int) and not -_LONGEST_INTEGER <= thing < _LONGEST_INTEGER:
            return location, "a whole number of 64 bits", f"one of {thing.bit_length():,} bits"
        if isinstance(thing, (dict, list, tuple)) and len(location) > MOST_LEVELS:
            return location[:4], f"at most {MOST_LEVELS} levels of lists and sections", "more"
        if isinstance(thing, dict):
            left += [((*location, key), part) for key, part in reversed(thing.items())]
        elif isinstance(thing, (list, tuple)):
            left += [((*location, index), part) for index, part in reversed(list(enumerate(thing)))]
    return None
