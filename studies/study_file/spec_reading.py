"""Reading a study file: TOML, parsed by pydantic, with errors that name file, key, value and remedy."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ...errors import StudyFileError
from ...spaces.axis_registry import AXES
from ..storage.shared_files import absolute_location
from .spec import StudySpec, told_at
from .spec_faults import (
    batches_of_varying,
    key_text,
    multiple_without_preflight,
    random_inputs_of_varying,
    shown,
    unknown_key,
    wrong_objective,
)
from .spec_sections import GatesSpec
from .target_spec import fault_of_objective
from .toml_reading import explain_reading, find_fault, read_toml

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
    plain = read_toml(path)
    if "folder" in plain:
        raise unknown_key(path, ("folder",), StudySpec)
    return parse_spec({"name": path.stem, **plain, "folder": path.resolve().parent}, path)


def parse_spec(plain: dict[str, Any], path: Path) -> StudySpec:
    """Check the content of a study file, or of a mapping like it.

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


class SpecChanges(TypedDict, total=False):
    """What a caller may give instead of what a study says; None leaves it as it is.

    Args:
        trials: Candidates to evaluate in all.
        hours: Longest time of this run.
        seed: Seed.
        data: Folder of the data, handed to the task's function as ``data_dir``.
        workers: Processes that make and measure candidates; 0 for none.
        cache: Folder of trained networks that studies share.
        artifacts: Folder that several machines share, or fsspec URL, where the files of all candidates are kept.
        gates: Whether candidates are stopped as the study says; False to evaluate every one to its end.
    """

    trials: int | None
    hours: float | None
    seed: int | None
    data: str | Path | None
    workers: int | None
    cache: str | Path | None
    artifacts: str | Path | None
    gates: bool


def resolve_spec(study: str | Path | StudySpec, **instead: Unpack[SpecChanges]) -> StudySpec:
    """Read the study and put in what the caller gives instead of what the file says.

    Raises:
        StudyFileError: Where the study cannot be read, or what is given has no meaning.
        TypeError: On a keyword that there is not.
    """
    if unknown := instead.keys() - SpecChanges.__annotations__.keys():
        raise TypeError(f"an unexpected keyword argument: {min(unknown)!r}")
    spec = study if isinstance(study, StudySpec) else load_spec(study)
    given = {name: instead.get(name) for name in ("trials", "hours", "seed", "workers")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if (data := instead.get("data")) is not None:
        changes["task_options"] = {**spec.task_options, "data_dir": str(data)}
    if not instead.get("gates", True):
        changes["gates"] = GatesSpec(stop_at=())
    if (cache := instead.get("cache")) is not None:
        changes["cache"] = {**spec.cache.model_dump(), "folder": str(Path(cache).absolute())}
    if (artifacts := instead.get("artifacts")) is not None:
        changes["artifacts"] = absolute_location(str(artifacts))
    return change_spec(spec, changes, f"study {spec.name}, as it is called") if changes else spec


def check_space(spec: StudySpec, where: Path | str) -> None:
    """Refuse a study that has nothing to search, whose latency cannot be measured as its axes need it, or that asks
    a preflight which it has not.

    Raises:
        StudyFileError: Where no axis is given, the objective is no target, or files whose time depends on the
            input are to run several inputs at once, or random ones, or where channels are to go by a preflight of no
            layers.
    """
    if (fault := fault_of_objective(spec.latency.objective, spec.target)) is not None:
        raise wrong_objective(where, spec.latency.objective, *fault)
    varying = next((name for name, axis in spec.space.by_name.items() if axis.depends_on_input), None)
    if varying is not None and spec.latency.batch_size != 1:
        raise batches_of_varying(where, spec.latency.batch_size, varying)
    if varying is not None and spec.latency.inputs == "random":
        raise random_inputs_of_varying(where, varying)
    if spec.recovery.channel_multiple == "auto" and not spec.preflight.layers:
        raise multiple_without_preflight(where)
    if not spec.space.axes:
        raise StudyFileError(
            "the study searches nothing: it has no axis",
            where=str(where),
            expected=f"at least one of the sections {', '.join(f'[{name}]' for name in AXES.names)}",
            got="none of them",
            remedy="add a section, for example  [bits]  with  weights = [4, 8, 32]",
        )


def _find(study: str) -> Path:
    if study in bundled_studies():
        return _BUNDLED / f"{study}.toml"
    path = Path(study)
    with explain_reading(path):
        if "\0" not in study and path.exists():
            return _checked(path)
    near = difflib.get_close_matches(study[:200], [*bundled_studies(), *_nearby(path)], n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]}? " if near else ""
    raise StudyFileError(
        f"there is no study {shown(study)}",
        expected=f"a study file (.toml), or one of the bundled studies: {', '.join(bundled_studies())}",
        got="no such file" if path.suffix == ".toml" else "an unknown name",
        remedy=f"{suggestion}`karui init NAME` writes a study file to start from",
    )


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise StudyFileError(
            "a study file was expected, not a folder", where=str(path), remedy="name the .toml file in it"
        )
    if not path.is_file():  # a pipe may never end, and a device has no end
        raise StudyFileError(
            "a study file was expected, not a pipe or a device",
            where=str(path),
            expected="a regular file, which a search that goes on can read again",
            remedy="write it to a file",
        )
    return path


def _nearby(path: Path) -> list[str]:
    """Return the study files that lie where one was looked for."""
    try:
        return [str(candidate) for candidate in path.parent.glob("*.toml")][:1000]
    except (OSError, ValueError):
        return []


def _validate(plain: dict[str, Any], where: Path | str) -> StudySpec:
    if (fault := find_fault(plain)) is not None:
        location, expected, got = fault
        raise StudyFileError(
            "the study file says something that has no meaning",
            where=f"{where}: {key_text(location)}",
            expected=expected,
            got=got,
            remedy="correct the value",
        )
    with told_at(where):
        return StudySpec(**plain)
