"""Numbers as they are given on the command line: in the digits that study files and bounds are written in, 0 to 9.

Python reads the digits of every script, and underscores between them; a study file does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

import typer

Number = TypeVar("Number", int, float)

_WHOLE = re.compile(r"[+-]?[0-9]+")
_MOST_DIGITS = 18
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_whole(text: str) -> int:
    """Return an integer.

    Raises:
        ValueError: Where it is none.
    """
    if _WHOLE.fullmatch(text.strip(" ")) is None:
        raise ValueError("an integer was expected, such as 40")
    if len(text) > _MOST_DIGITS:
        raise ValueError("a smaller integer was expected")
    return int(text)


def read_number(text: str) -> float:
    """Return a finite number.

    Raises:
        ValueError: Where it is none.
    """
    if _NUMBER.fullmatch(text.strip(" ")) is None or not math.isfinite(number := float(text)):
        raise ValueError("a finite number was expected, such as 0.5")
    return number


def whole_number(least: int) -> Callable[[str], int]:
    """Return what reads an option that is an integer, at least so large."""

    def number(text: str) -> int:
        return _at_least(read_whole, text, least)

    return number


def number(least: float) -> Callable[[str], float]:
    """Return what reads an option that is a number, at least so large."""

    def number(text: str) -> float:
        return _at_least(read_number, text, least)

    return number


def _at_least(read: Callable[[str], Number], text: str, least: Number) -> Number:
    try:
        found = read(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text[:60]!r}: {error}") from error
    if found < least:
        raise typer.BadParameter(f"{text[:60]!r}: {least:g} or more was expected")
    return found
