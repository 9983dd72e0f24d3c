"""The bones: imports go one way, the face is lazy, no module is loaded twice."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import karui
from karui.spaces.axes.builtin import AXES

PACKAGE = Path(str(karui.__file__)).parent
ORDER = ("errors", "spaces", "evaluators", "search", "studies")
MODULES = sorted(
    path for layer in ORDER for path in (PACKAGE / f"{layer}.py", *(PACKAGE / layer).rglob("*.py")) if path.is_file()
)
FORBIDDEN_IN_SEARCH = {"torch", "torchvision", "onnxruntime", "onnx", "matplotlib"}


def imported_modules(path: Path) -> set[str]:
    """Return the absolute dotted names that a file imports, relative ones resolved by its place in the package."""
    here = ("karui", *path.relative_to(PACKAGE).with_suffix("").parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            found |= {".".join((*base, *(node.module or alias.name).split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "karui" and len(parts) > 1 and parts[1] in ORDER else None


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = ORDER.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    layers = {layer for module in imported_modules(path) if (layer := layer_of(module)) is not None}
    backwards = {layer for layer in layers if ORDER.index(layer) > own}
    assert not backwards, f"{path.name} imports from {backwards}"


def test_the_check_sees_relative_imports() -> None:
    assert "karui.errors" in imported_modules(PACKAGE / "spaces" / "task.py")
    assert "karui.spaces.candidate" in imported_modules(PACKAGE / "search" / "record.py")


@pytest.mark.parametrize("path", sorted((PACKAGE / "search").rglob("*.py")), ids=lambda path: path.name)
def test_search_knows_no_torch(path: Path) -> None:
    assert not {module.split(".")[0] for module in imported_modules(path)} & FORBIDDEN_IN_SEARCH


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_karui_loads_nothing_heavy() -> None:
    heavy = "('torch', 'onnxruntime', 'optuna', 'pandas', 'matplotlib', 'pydantic', 'numpy')"
    assert run_python(f"import karui, sys; print([name for name in {heavy} if name in sys.modules])").strip() == "[]"


def test_importing_the_search_loads_no_torch() -> None:
    code = f"import karui.search.loop, sys; print(sorted({FORBIDDEN_IN_SEARCH!r} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("name", [name for name in karui.__all__ if not name.startswith("__")])
def test_every_name_of_the_face_is_there(name: str) -> None:
    assert getattr(karui, name).__name__ == name


def test_an_unknown_name_of_the_face_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        karui.nonsense  # noqa: B018


def test_every_package_is_installed() -> None:
    """An editable install finds what the list forgot; the wheel does not."""
    checkout = Path(__file__).parents[1]
    listed = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    layers = [checkout / layer for layer in ORDER if (checkout / layer).is_dir()]
    folders = [file.parent.relative_to(checkout) for layer in layers for file in layer.rglob("__init__.py")]
    assert sorted(listed) == sorted(["karui", *(".".join(("karui", *folder.parts)) for folder in folders)])


def test_no_module_is_loaded_twice() -> None:
    # pytest itself loads the root `__init__.py` under the checkout's name; being lazy, it must bring nothing more.
    import_module("karui.studies.run")
    places: dict[str, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file) in MODULES:
            places.setdefault(file, set()).add(name)
    assert places
    assert {file: names for file, names in places.items() if len(names) > 1} == {}


NAME_AXES = {
    "spaces/axes/builtin.py",  # the registry
    "studies/preflight/preflight.py",  # tries on small layers what fewer bits, zeros and fewer channels win
    "studies/preflight/preflight_sentences.py",
    "spaces/axes/students/axis.py",  # a student is the model with channels removed, told in the same sentence
}
"""The files that name an axis, its own folder and the public face aside."""


def test_no_other_file_names_an_axis() -> None:
    places = {place.rpartition(":")[2]: place.partition(":")[0] for place in AXES.places}
    folders = {module.rpartition(".")[0]: name for name, module in places.items()}
    named = set()
    for path in MODULES:
        file = path.relative_to(PACKAGE).as_posix()
        own = "karui." + file.rpartition("/")[0].replace("/", ".")
        text = path.read_text(encoding="utf-8")
        imports = {module for module in imported_modules(path) if module.rpartition(".")[2] in ("axis", "choice")}
        others = [(folder, name) for folder, name in folders.items() if folder != own]
        if any(f"{folder}.axis" in imports or f"{folder}.choice" in imports for folder, _ in others) or any(
            f"{folder}.axis:" in text for folder, _ in others
        ):
            named.add(file)
    assert named == NAME_AXES


def test_there_are_six_axes_and_each_has_a_folder() -> None:
    assert AXES.own == ("students", "cells", "stages", "sparsity", "bits", "exits")
    assert len({place.partition(":")[0] for place in AXES.places}) == len(AXES.own)
