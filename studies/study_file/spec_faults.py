"""What is wrong with a study file, in the study file's own words."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ...errors import StudyFileError

Location = tuple[int | str, ...]
"""Keys and list positions that lead to a value."""

_MOST_FAULTS = 5
"""That are told beside the first."""

_BARE = re.compile(r"[A-Za-z0-9_-]{1,100}")


def explain(error: ValidationError, path: Path | str, model: type[BaseModel]) -> StudyFileError:
    """Return the error for what pydantic found: the first fault in full, the others in a word."""
    faults = error.errors()
    for fault in faults:
        if fault["type"] == "extra_forbidden":
            return unknown_key(path, fault["loc"], model)
    first = faults[0]
    # A list with one bad value is reported as too short as well: only faults elsewhere are worth a word.
    others = [fault for fault in faults[1:] if fault["loc"] != first["loc"][: len(fault["loc"])]]
    more = "".join(
        f"; also {key_text(fault['loc'])}: {_complaint(fault) or f'expected {_expected(fault)}'}"
        for fault in others[:_MOST_FAULTS]
    )
    more += f"; and {len(others) - _MOST_FAULTS} more" if len(others) > _MOST_FAULTS else ""
    complaint = _complaint(first)
    return StudyFileError(
        "the study file says something that has no meaning" + (f": {complaint}" if complaint else ""),
        where=f"{path}: {key_text(first['loc'])}",
        expected=None if complaint else _expected(first),
        got=shown(first["input"]),
        remedy="correct the value" + more,
    )


def _complaint(fault: Any) -> str:
    """Return what one of karui's own checks says of a value; it names what it expects itself."""
    return _short(str(fault["msg"]).removeprefix("Value error, "), 400) if fault["type"] == "value_error" else ""


def _expected(fault: Any) -> str:
    section = f"a section, written [{key_text(fault['loc'])}]"
    ours = {
        "too_short": "at least one value; leave the whole section out to switch the axis off",
        "model_type": section,
        "dict_type": section,
        "tuple_type": "a list, written [..., ...]",
        "string_pattern_mismatch": "letters, digits, dots, dashes and underscores, a letter or digit first "
        "(the study file's own name where no name is given)",
    }
    return ours.get(fault["type"], str(fault["msg"]).removeprefix("Input should be "))


def unknown_key(path: Path | str, location: Location, model: type[BaseModel]) -> StudyFileError:
    """Return the error for a key that the model does not have, with the nearest that it has."""
    known = _keys_at(location[:-1], model)
    near = difflib.get_close_matches(str(location[-1])[:100], known, n=1)
    return StudyFileError(
        "the study file has an unknown key",
        where=f"{path}: {key_text(location)}",
        expected=f"one of {', '.join(known)}",
        got=_short(str(location[-1])) or "''",
        remedy=f"did you mean {near[0]}?" if near else "remove it",
    )


def batches_of_varying(path: Path | str, batch_size: int, section: str) -> StudyFileError:
    """Return the error for files that take longer for some inputs, where several are to be timed at once."""
    return StudyFileError(
        f"files of the axis [{section}] take one input at a time",
        where=f"{path}: latency.batch_size",
        expected=f"1, where the study has the section [{section}]",
        got=str(batch_size),
        remedy=f"take that line out, or the section [{section}]",
    )


def random_inputs_of_varying(path: Path | str, section: str) -> StudyFileError:
    """Return the error for files that take longer for some inputs, where these are to be of no meaning."""
    return StudyFileError(
        f"how soon a file of the axis [{section}] answers depends on its inputs",
        where=f"{path}: latency.inputs",
        expected=f"'real', where the study has the section [{section}]",
        got="'random'",
        remedy=f"take that line out, or the section [{section}]",
    )


def multiple_without_preflight(path: Path | str) -> StudyFileError:
    """Return the error for channel counts that are to be what a preflight finds, where there is none."""
    return StudyFileError(
        "channel_multiple = 'auto' asks a preflight, and the study has none",
        where=f"{path}: preflight.layers",
        expected="1 or more, where channel_multiple in [recovery] is 'auto'",
        got="0",
        remedy="take that line out, or write a number for channel_multiple",
    )


def wrong_objective(path: Path | str, objective: str | None, what: str, expected: str) -> StudyFileError:
    """Return the error for an objective that a study with these targets cannot have."""
    return StudyFileError(
        what,
        where=f"{path}: latency.objective",
        expected=f"one of {expected}",
        got=repr(objective),
        remedy="name one of them, or leave the line out for the first target",
    )


def _keys_at(location: Location, model: Any) -> list[str]:
    for part in location:
        if isinstance(part, str):  # not a place in a list of sections
            model = _section_of(model.model_fields[part].annotation)
    return [name for name in model.model_fields if location or name != "folder"]


def _section_of(annotation: Any) -> Any:
    """Return the model that an annotation names, whether it may be left out and however often it may be given."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part)) is not None), None)


def key_text(location: Location) -> str:
    """Return a place in a study file as it is written there, such as ``bits.weights[0]``."""
    text = ""
    for part in location:
        name = part if isinstance(part, int) or _BARE.fullmatch(part) else json.dumps(_short(part), ensure_ascii=False)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def shown(value: object) -> str:
    """Return a value as Python writes it, as far as that is worth reading."""
    try:
        return _short(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, or what holds itself
        return f"something too large to show, of type {type(value).__name__}"


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 4 :]} ({len(text):,} characters)"
