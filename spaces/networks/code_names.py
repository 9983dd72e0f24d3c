"""Which names a piece of bytecode reads, and which modules are installed packages."""

from __future__ import annotations

import dis
import sys
import sysconfig
import types
from functools import cache
from pathlib import Path

_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")


def globals_read(code: types.CodeType) -> frozenset[str]:
    """Return the names that a function, and what is written in it, reads as globals: attributes are none."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(found).union(*(globals_read(each) for each in _inner(code)))


def names_of(code: types.CodeType) -> frozenset[str]:
    """Return every name in a function and in what is written in it: globals and attributes."""
    return frozenset(code.co_names).union(*(names_of(each) for each in _inner(code)))


def imports_of(code: types.CodeType) -> list[types.ModuleType]:
    """Return the modules that a function itself imports, those of installed packages left out."""
    names = sorted(step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")
    return [sys.modules[name] for name in names if name in sys.modules and not is_library(name)]


def is_known(module: str) -> bool:
    """Say whether what a module holds is known by its name: it is Python's own, torch's or numpy's."""
    top = module.partition(".")[0]
    return top in ("torch", "numpy") or top in sys.stdlib_module_names


@cache
def is_library(module: str) -> bool:
    """Say whether a module is Python's own or of an installed package: known by its name, and not edited."""
    top = module.partition(".")[0]
    if is_known(module) or top == __name__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return False
    places = [Path(path).resolve() for name in _PLACES if (path := sysconfig.get_path(name))]
    return any(Path(file).resolve().is_relative_to(place) for place in places)


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [each for each in code.co_consts if isinstance(each, types.CodeType)]
