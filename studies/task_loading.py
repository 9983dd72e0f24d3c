"""From ``task = "my_task.py:make_task"`` to a Task, with errors that point into the user's file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import KaruiError, TaskError

if TYPE_CHECKING:
    from ..spaces.task import Task


def load_task(reference: str, folder: Path, options: dict[str, Any]) -> Task:
    """Import the function that a study file names, call it, and check what it returns.

    Args:
        reference: ``file.py:function`` or ``dotted.module:function``.
        folder: What a relative file is relative to.
        options: Keyword arguments of the function.

    Raises:
        TaskError: Where the reference leads nowhere, or the function raises or returns something else.
    """
    from ..spaces.task import Task

    make_task = _find_function(reference, folder)
    _check_options(make_task, reference, options)
    try:
        task = make_task(**options)
    except KaruiError:
        raise
    except Exception as error:
        raise _raised("the task's function raised an error", reference, error) from error
    if not isinstance(task, Task):
        raise TaskError(
            "the task's function does not return a task",
            where=reference,
            expected="a karui.Task",
            got=f"{type(task).__module__}.{type(task).__qualname__}",
        )
    return task


def _find_function(reference: str, folder: Path) -> Callable[..., Any]:
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise TaskError(
            "the task is not named in a way karui can follow",
            where="task",
            expected='"my_task.py:make_task" or "package.module:make_task"',
            got=repr(reference),
        )
    module = _import_file(source, folder, reference) if source.endswith(".py") else _import_module(source, reference)
    function = getattr(module, name, None)
    if not callable(function):
        defined = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise TaskError(
            f"there is no function {name!r} there",
            where=reference,
            expected=f"one of the functions it defines: {', '.join(defined) or 'it defines none'}",
            got=name,
        )
    return function  # type: ignore[no-any-return]


def _import_file(source: str, folder: Path, reference: str) -> ModuleType:
    path = (folder / source).resolve()
    if not path.is_file():
        raise TaskError(
            "the task's file is missing",
            where=reference,
            expected="a Python file, relative to the study file",
            got=f"no file {path}",
        )
    # Registered under its name so that worker processes and pickled data sets find the module again.
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise TaskError("the task's file cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise _raised("the task's file raised an error when it was imported", reference, error) from error
    finally:
        sys.path.remove(str(path.parent))
    sys.modules.setdefault(path.stem, module)
    return module


def _import_module(source: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise _raised("the task's module cannot be imported", reference, error) from error


def _check_options(make_task: Callable[..., Any], reference: str, options: dict[str, Any]) -> None:
    try:
        inspect.signature(make_task).bind(**options)
    except TypeError as error:
        raise TaskError(
            "the task's function does not take these options",
            where=reference,
            expected=f"{getattr(make_task, '__name__', 'make_task')}{inspect.signature(make_task)}",
            got=f"{options or 'no options'} ({error})",
            remedy="correct [task_options] in the study file, or --data",
        ) from error


def _raised(what: str, reference: str, error: Exception) -> TaskError:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if "importlib" not in frame.filename), None)
    place = f"{reference}" if last is None else f"{reference}, at {last.filename}:{last.lineno}"
    return TaskError(
        what,
        where=place,
        got=f"{type(error).__name__}: {error}",
        remedy="run that function by itself in Python to see the whole traceback",
    )
