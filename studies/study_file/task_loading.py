"""From ``task = "my_task.py:make_task"`` to a Task, with errors that point into the user's file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...errors import KaruiError, TaskError

if TYPE_CHECKING:
    from ...spaces.task import Task


def load_task(reference: str, folder: Path, options: dict[str, Any]) -> Task:
    """Import the function that a study file names, call it, and check what it returns.

    Args:
        reference: ``file.py:function`` or ``dotted.module:function``.
        folder: What a relative file is relative to; modules that lie there can be imported as well.
        options: Keyword arguments of the function.

    Raises:
        TaskError: Where the reference leads nowhere, or the function raises or returns something else.
    """
    from ...spaces.task import Task

    # The function may import its neighbours only when it is called.
    with _importable(folder), _importable(_folder_of(reference, folder)):
        make_task = _find_function(reference, folder)
        _check_options(make_task, reference, options)
        try:
            task = make_task(**options)
        except KaruiError:
            raise
        except Exception as error:
            raise _raised("the task's function raised an error", reference, error, _file_of(make_task)) from error
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
    name = _module_name(path)
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise TaskError("the task's file cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(module_spec)
    before = sys.modules.get(name)
    # Registered before it runs: dataclasses look their own module up, and so does whoever pickles its classes.
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        if not isinstance(error, Exception):
            raise
        raise _raised("the task's file raised an error when it was imported", reference, error, str(path)) from error
    return module


def _module_name(path: Path) -> str:
    """Return the file's own name, or one like it where a module from elsewhere has that name already."""
    taken = sys.modules.get(path.stem)
    if taken is None or getattr(taken, "__file__", None) == str(path):
        return path.stem
    return f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"


def _folder_of(reference: str, folder: Path) -> Path:
    source = reference.rpartition(":")[0]
    return (folder / source).resolve().parent if source.endswith(".py") else folder


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules that lie in a folder be imported, as if a script in it were run."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import_module(source: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise _raised("the task's module cannot be imported", reference, error, _origin_of(source)) from error


def _origin_of(module: str) -> str | None:
    """Return the file that a module would be imported from, where that can be found out."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return found.origin if found else None


def _check_options(make_task: Callable[..., Any], reference: str, options: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(make_task)
    except ValueError:  # some built-in callables tell nothing of what they take; calling them will
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise TaskError(
            "the task's function does not take these options",
            where=reference,
            expected=f"{getattr(make_task, '__name__', 'make_task')}{signature}",
            got=f"{options or 'no options'} ({error})",
            remedy="correct [task_options] in the study file, or --data",
        ) from error


def _file_of(function: Callable[..., Any]) -> str | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_filename if code else None


def _raised(what: str, reference: str, error: Exception, file: str | None = None) -> TaskError:
    place = _place_of(error, file)
    return TaskError(
        what,
        where=f"{reference}, at {place}" if place else reference,
        got=f"{type(error).__name__}: {error}",
        remedy="run that function by itself in Python to see the whole traceback",
    )


def _place_of(error: Exception, file: str | None) -> str | None:
    """Return file and line of the last place in the user's own file, or else of the last one that is not karui's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    own = [frame for frame in frames if frame.filename == file]
    last = next(reversed(own or frames), None)
    return f"{last.filename}:{last.lineno}" if last else None
