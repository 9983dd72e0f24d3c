"""Options of a target as they are given on the command line: ``host=board`` and the like."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import KaruiError
from .plain_numbers import read_number, read_whole

_READERS: dict[str, Callable[[str], Any]] = {
    **{"str": str, "int": read_whole, "float": read_number, "Path": Path, "Path | None": Path},
    "Sequence[str]": shlex.split,
}


def read_target_options(texts: Sequence[str]) -> dict[str, str]:
    """Return options by name.

    Args:
        texts: Each ``name=value``.

    Raises:
        KaruiError: Where one is not.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise KaruiError(
                "an option of the target cannot be read", where="--target-option", expected="name=value", got=repr(text)
            )
        pairs[name] = value
    return pairs


def make_target(kind: str, kinds: Mapping[str, Callable[..., Any]], options: Mapping[str, str], **given: Any) -> Any:
    """Return a target of a kind, its options read as its parameters ask for.

    Args:
        kind: Name of the kind.
        kinds: Every kind by name.
        options: As they were written.
        given: Parameters that are known; those that the kind does not take are left out.

    Raises:
        KaruiError: Where there is no such kind, or the options are not those that it takes.
    """
    if kind not in kinds:
        raise KaruiError(
            "there is no such target", where="--target", expected=f"one of {', '.join(sorted(kinds))}", got=kind
        )
    parameters = inspect.signature(kinds[kind]).parameters
    readers = {name: _READERS.get(str(parameter.annotation)) for name, parameter in parameters.items()}
    named = {name for name, reader in readers.items() if reader is not None and name not in given}
    needed = {name for name in named if parameters[name].default is inspect.Parameter.empty}
    if not set(options) <= named or not needed <= set(options):
        raise KaruiError(
            f"the target {kind!r} takes other options",
            where="--target-option",
            expected=", ".join(f"{name}={'' if name in needed else '... (may be left out)'}" for name in sorted(named))
            or "none",
            got=", ".join(sorted(options)) or "none",
        )
    known = {name: value for name, value in given.items() if name in parameters}
    return kinds[kind](**known, **{name: _read(readers[name], name, text) for name, text in options.items()})


def _read(reader: Callable[[str], Any] | None, name: str, text: str) -> Any:
    try:
        return text if reader is None else reader(text)
    except ValueError as error:
        raise KaruiError(
            "an option of the target has no meaning", where=f"--target-option {name}", got=f"{text!r}: {error}"
        ) from error
