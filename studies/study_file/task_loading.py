"""From ``task = "my_task.py:make_task"`` to a Task, with errors that point into the user's file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

    source, name = _parts_of(reference)
    # The function may import its neighbours only when it is called.
    with _importable(folder), _importable(_folder_of(source, folder)):
        make_task = _find_function(source, name, reference, folder)
        _check_options(make_task, reference, options)
        try:
            task = make_task(**options)
        except (KaruiError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() as well: it ends the task's function, not the search
            raise _raised("the task's function raised an error", reference, error, _file_of(make_task)) from error
    if not isinstance(task, Task):
        raise TaskError(
            "the task's function does not return a task",
            where=reference,
            expected="a karui.Task",
            got=f"{type(task).__module__}.{type(task).__qualname__}",
        )
    return task


def _parts_of(reference: str) -> tuple[str, str]:
    """Return the file or the module, and the function."""
    source, _, name = reference.rpartition(":")
    if not source or not name or "\0" in reference:
        raise TaskError(
            "the task is not named in a way karui can follow",
            where="task",
            expected='"my_task.py:make_task" or "package.module:make_task"',
            got=repr(reference),
        )
    return source, name


def _find_function(source: str, name: str, reference: str, folder: Path) -> Callable[..., Any]:
    module = _import_file(source, folder, reference) if source.endswith(".py") else _import_module(source, reference)
    try:
        function = getattr(module, name, None)
    except Exception as error:  # a module may have a __getattr__ of its own
        raise _raised("the task's function cannot be had", reference, error, _file_of(module)) from error
    if not callable(function):
        defined = sorted(key for key, value in getattr(module, "__dict__", {}).items() if inspect.isfunction(value))
        raise TaskError(
            f"there is no function {name!r} there",
            where=reference,
            expected=f"one of the functions it defines: {', '.join(defined) or 'it defines none'}",
            got=name,
        )
    return function  # type: ignore[no-any-return]


def _import_file(source: str, folder: Path, reference: str) -> ModuleType:
    path = _real(folder / source)
    if not os.path.isfile(path):  # noqa: PTH113 - which says no where pathlib raises
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
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _raised("the task's file raised an error when it was imported", reference, error, str(path)) from error
    return module


def _module_name(path: Path) -> str:
    """Return the file's own name, or one like it where a module from elsewhere has that name already."""
    taken = sys.modules.get(path.stem)
    if taken is None or getattr(taken, "__file__", None) == str(path):
        return path.stem
    return f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"


def _folder_of(source: str, folder: Path) -> Path:
    return _real(folder / source).parent if source.endswith(".py") else folder


def _real(path: Path) -> Path:
    """Return a path in full, as far as its links lead anywhere."""
    return Path(os.path.realpath(path))


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules that lie in a folder be imported, as if a script in it were run."""
    entry = str(_real(folder))
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # the task may have taken it out itself
            sys.path.remove(entry)


def _import_module(source: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _raised("the task's module cannot be imported", reference, error, _origin_of(source)) from error


def _origin_of(module: str) -> str | None:
    """Return the file that a module would be imported from, where that can be found out."""
    try:
        found = importlib.util.find_spec(module)
    except (Exception, SystemExit):  # of a package that it imports for that
        return None
    return found.origin if found else None


def _check_options(make_task: Callable[..., Any], reference: str, options: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(make_task)
    except (ValueError, TypeError):  # some built-in callables tell nothing of what they take; calling them will
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


def _file_of(made: Any) -> str | None:
    """Return the file that a module, or a function, is from."""
    if inspect.ismodule(made):
        return made.__file__
    code = getattr(inspect.unwrap(made), "__code__", None)
    return code.co_filename if code else None


def _raised(what: str, reference: str, error: BaseException, file: str | None = None) -> TaskError:
    place = _place_of(error, file)
    return TaskError(
        what,
        where=f"{reference}, at {place}" if place else reference,
        got=f"{type(error).__name__}: {error}",
        remedy="run that function by itself in Python to see the whole traceback",
    )


def _place_of(error: BaseException, file: str | None) -> str | None:
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
