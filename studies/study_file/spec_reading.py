"""Reading a study file: TOML, parsed by pydantic, with errors that name file, key, value and remedy."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import StudyFileError
from .spec import StudySpec
from .spec_faults import (
    batches_with_exits,
    explain,
    key_text,
    multiple_without_preflight,
    random_inputs_with_exits,
    unknown_key,
    wrong_objective,
)
from .target_spec import fault_of_objective

_BUNDLED = Path(__file__).parents[1]


def bundled_studies() -> list[str]:
    """Return the names of the studies that karui brings along."""
    return sorted(path.stem for path in _BUNDLED.glob("*.toml"))


def load_spec(study: str | Path) -> StudySpec:
    """Read a study file, or a bundled study by its name.

    Raises:
        StudyFileError: Where there is no such study, or its file is no valid study file.
    """
    path = _find(str(study))
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyFileError(
            "the study file is not valid TOML", where=str(path), got=str(error), remedy="correct that line"
        ) from error
    except OSError as error:
        raise StudyFileError("the study file cannot be read", where=str(path), got=str(error)) from error
    if "folder" in plain:
        raise unknown_key(path, ("folder",), StudySpec)
    return parse_spec({"name": path.stem, **plain, "folder": path.resolve().parent}, path)


def parse_spec(plain: dict[str, Any], path: Path) -> StudySpec:
    """Check the content of a study file.

    Raises:
        StudyFileError: On an unknown key, a wrong type or a value out of range; it lists every fault.
    """
    spec = _validate(plain, path)
    if not spec.task:
        raise StudyFileError(
            "the study file names no task",
            where=f"{path}: task",
            expected='"my_task.py:make_task" or "package.module:make_task"',
            got="nothing",
            remedy='add a line such as  task = "my_task.py:make_task"',
        )
    check_space(spec, path)
    return spec


def change_spec(spec: StudySpec, changes: dict[str, Any], where: str) -> StudySpec:
    """Return a study with some of its keys changed, checked as if the study file said so.

    Raises:
        StudyFileError: On a value that has no meaning.
    """
    return _validate({**{name: getattr(spec, name) for name in StudySpec.model_fields}, **changes}, where)


def check_space(spec: StudySpec, where: Path | str) -> None:
    """Refuse a study that has nothing to search, whose latency cannot be measured as its axes need it, or that asks
    a preflight which it has not.

    Raises:
        StudyFileError: Where no axis is given, the objective is no target, or exits are to run several inputs at once,
            or random ones, or where channels are to go by a preflight of no layers.
    """
    if (fault := fault_of_objective(spec.latency.objective, spec.target)) is not None:
        raise wrong_objective(where, spec.latency.objective, *fault)
    if spec.exits is not None and spec.latency.batch_size != 1:
        raise batches_with_exits(where, spec.latency.batch_size)
    if spec.exits is not None and spec.latency.inputs == "random":
        raise random_inputs_with_exits(where)
    if spec.recovery.channel_multiple == "auto" and not spec.preflight.layers:
        raise multiple_without_preflight(where)
    if not any((spec.bits, spec.sparsity, spec.students, spec.cells, spec.stages, spec.exits)):
        raise StudyFileError(
            "the study searches nothing: it has no axis",
            where=str(where),
            expected="at least one of the sections [bits], [sparsity], [students], [cells], [stages], [exits]",
            got="none of them",
            remedy="add a section, for example  [bits]  with  weights = [4, 8, 32]",
        )


def _find(study: str) -> Path:
    if study in bundled_studies():
        return _BUNDLED / f"{study}.toml"
    path = Path(study)
    if path.is_file():
        return path
    if path.is_dir():
        raise StudyFileError("a study file was expected, not a folder", where=study, remedy="name the .toml file in it")
    nearby = [str(candidate) for candidate in (path.parent if str(path.parent) else Path()).glob("*.toml")]
    near = difflib.get_close_matches(study, [*bundled_studies(), *nearby], n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]}? " if near else ""
    raise StudyFileError(
        f"there is no study {study!r}",
        expected=f"a study file (.toml), or one of the bundled studies: {', '.join(bundled_studies())}",
        got="no such file" if path.suffix == ".toml" else "an unknown name",
        remedy=f"{suggestion}`karui init NAME` writes a study file to start from",
    )


def _validate(plain: dict[str, Any], where: Path | str) -> StudySpec:
    if (location := _find_boolean(plain)) is not None:
        # pydantic would take true for 1.
        raise StudyFileError(
            "the study file says something that has no meaning",
            where=f"{where}: {key_text(location)}",
            expected="a number, a text, a list or a section",
            got="true or false",
            remedy="correct the value",
        )
    try:
        return StudySpec.model_validate(plain)
    except ValidationError as error:
        raise explain(error, where, StudySpec) from None


def _find_boolean(thing: Any, location: tuple[int | str, ...] = ()) -> tuple[int | str, ...] | None:
    if isinstance(thing, bool):
        return location
    parts = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    found = (_find_boolean(part, (*location, key)) for key, part in parts if (*location, key) != ("task_options",))
    return next((place for place in found if place is not None), None)
