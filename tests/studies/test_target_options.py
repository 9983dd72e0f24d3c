"""Options of a target: read as its parameters ask for, and told where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from karui.errors import KaruiError
from karui.studies.study_file.target_options import make_target, read_target_options


def board(
    host: str,
    threads: int = 1,
    seconds: float = 2.0,
    config: Path | None = None,
    words: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    return {"host": host, "threads": threads, "seconds": seconds, "config": config, "words": words}


def no_options(provider: str = "") -> dict[str, Any]:
    return {"provider": provider}


KINDS: dict[str, Callable[..., Any]] = {"board": board, "plain": no_options}


def test_options_are_read_as_the_target_asks_for() -> None:
    options = read_target_options(["host=me@pi", "seconds=0.5", "config=/a b", "words=run 'this one' now", "host=pi=2"])
    made = make_target("board", KINDS, options, threads=3, provider="CPU")
    assert made == {
        **{"host": "pi=2", "threads": 3, "seconds": 0.5, "config": Path("/a b")},
        **{"words": ["run", "this one", "now"]},
    }
    assert make_target("plain", KINDS, {}, threads=3, provider="CPU") == {"provider": "CPU"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("moon", {}, r"no such target(?s:.*)board, plain(?s:.*)moon"),
        ("board", {}, r"takes other options(?s:.*)host=(?s:.*)got: none"),
        ("board", {"host": "pi", "port": "1"}, r"takes other options(?s:.*)got: host, port"),
        ("board", {"host": "pi", "threads": "1"}, r"takes other options"),
        ("board", {"host": "pi", "tell": "x"}, r"takes other options"),
        ("board", {"host": "pi", "seconds": "two"}, r"--target-option seconds(?s:.*)'two'"),
    ],
)
def test_options_that_do_not_fit_are_told(kind: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(KaruiError, match=message):
        make_target(kind, KINDS, options, threads=3)


@pytest.mark.parametrize("text", ["host", "=pi", ""])
def test_what_is_no_option_is_told(text: str) -> None:
    with pytest.raises(KaruiError, match=r"name=value(?s:.*)got: '"):
        read_target_options([text])
