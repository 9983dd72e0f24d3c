"""The bones: imports go one way, the face is lazy, no module is loaded twice."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from dataclasses import fields
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import karui
from karui.spaces.axes.axis import NetworkAxis, all_axes
from karui.spaces.axis_registry import AXES
from karui.spaces.building.recipe import training_names, trainings_of
from karui.spaces.candidate import Candidate

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


ROOMS = ("rounding", "training", "formats", "step", "axes", "building")
"""Rooms of ``spaces``, each of which imports from none that comes later, not even for types."""


@pytest.mark.parametrize("number", range(len(ROOMS)), ids=ROOMS)
def test_rooms_of_spaces_are_ordered(number: int) -> None:
    room, later = ROOMS[number], ROOMS[number + 1 :]
    files = [path for path in MODULES if path.relative_to(PACKAGE).with_suffix("").parts[:2] == ("spaces", room)]
    assert files
    for path in files:
        reached = {module.split(".")[2] for module in imported_modules(path) if module.startswith("karui.spaces.")}
        assert not reached.intersection(later), f"{path.name} imports from {reached.intersection(later)}"


def test_rounding_knows_no_format_and_no_torch() -> None:
    for path in (PACKAGE / "spaces" / "rounding").rglob("*.py"):
        assert not {module.split(".")[0] for module in imported_modules(path)} & {"onnx", "onnxruntime", "torch"}


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = ORDER.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    layers = {layer for module in imported_modules(path) if (layer := layer_of(module)) is not None}
    backwards = {layer for layer in layers if ORDER.index(layer) > own}
    assert not backwards, f"{path.name} imports from {backwards}"


def named_modules() -> dict[str, set[str]]:
    """Return, of each module of the package, which others it imports when it is loaded or run: not for types alone."""
    files = {".".join(("karui", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in MODULES}
    return {name: _imports_of(name, file, files) for name, file in files.items()}


def _imports_of(name: str, file: Path, files: dict[str, Path]) -> set[str]:
    here = name.split(".")
    imported: set[str] = set()
    left: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            module = ".".join([*here[: len(here) - node.level], *(node.module or "").split(".")]).rstrip(".")
            imported |= {module, *(f"{module}.{alias.name}" for alias in node.names)} & files.keys()
        left += ast.iter_child_nodes(node)
    return imported - {name}


IMPORTS = named_modules()


def test_no_modules_import_each_other() -> None:
    assert "karui.search.trial_index" in IMPORTS["karui.search.proposals"]
    assert "karui.spaces.candidate" in IMPORTS["karui.search.record"]
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("room", ["spaces", "evaluators", "studies"])
def test_folders_of_a_room_import_one_way(room: str) -> None:
    """What lies beside the folders counts as a folder of its own."""
    folders: dict[str, set[str]] = {}
    for name, imported in IMPORTS.items():
        if name.startswith(f"karui.{room}."):
            own = name.split(".")[2]
            within = {other.split(".")[2] for other in imported if other.startswith(f"karui.{room}.")}
            folders.setdefault(own, set()).update(within - {own})
    assert len(folders) > 8
    list(TopologicalSorter(folders).static_order())


def test_the_check_sees_relative_imports() -> None:
    assert "karui.errors" in imported_modules(PACKAGE / "spaces" / "task.py")
    assert "karui.spaces.candidate" in imported_modules(PACKAGE / "search" / "record.py")


@pytest.mark.parametrize("path", sorted((PACKAGE / "search").rglob("*.py")), ids=lambda path: path.name)
def test_search_knows_no_torch(path: Path) -> None:
    assert not {module.split(".")[0] for module in imported_modules(path)} & FORBIDDEN_IN_SEARCH


def test_whoever_follows_a_trial_reads_few_files() -> None:
    files = [path.name for path in (PACKAGE / "search").glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(files) <= 14, "what a trial passes; what it is judged by lies in folders"


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
    "spaces/axis_registry.py": "the registry",
    "spaces/candidate.py": "holds what they choose, in the words in which its users and its JSON say it",
    "spaces/building/probes/variants.py": "which axis a probe of a layer is for",
    "studies/preflight/preflight_sentences.py": "what fewer bits, zeros and fewer channels win on a target, in words",
    "studies/results/tables.py": "the columns of trials.csv, in their order",
    # The same words for other things: arguments and fields of their own, which no candidate comes near.
    "spaces/building/untrained_proxy.py": "what a step of training is told of zeros",
    "spaces/training/recovery.py": "an argument",
    "spaces/training/qat/rounded_network.py": "where the training fails",
    "evaluators/row_scores.py": "bits of an array",
    "search/outcome.py": "the stages of a build",
    "search/record.py": "the stages of a build",
    "studies/watching/log.py": "the stages of a build",
    "studies/report/points.py": "the bits of a layer in a file",
}
"""The files that name an axis or what one chooses, the axes' own folders and the public face aside, and why."""

ROUND = ("spaces/rounding/", "spaces/formats/")
"""Rooms where the same words are fields of BitChoice, which knows of no candidate."""

OWN_OF_CANDIDATES = {"architecture", "epochs_factor", "further"}
"""The fields of a candidate that are no axis's."""

CHOICES = {each.name for each in fields(Candidate)} - OWN_OF_CANDIDATES
FOLDERS = {place.partition(":")[0].rpartition(".")[0] for place in AXES.places}
CLASSES = {place.rpartition(":")[2] for place in AXES.places}


def words_of_axes() -> set[str]:
    """Return what axes are called: their sections, the kinds of their networks, and the steps that are theirs alone."""
    kinds = {axis.kind for axis in all_axes().values() if issubclass(axis, NetworkAxis)}
    return {*AXES.own, *kinds, *(name for axis in all_axes().values() for name in axis.trainings), "exit"}


def names_of_axes(path: Path) -> list[str]:
    """Return where a file reads what an axis chooses, imports from its folder, or names it."""
    words, prefixes = words_of_axes(), tuple(axis.prefix for axis in all_axes().values())
    named = [module for module in imported_modules(path) if any(module.startswith(f"{each}.") for each in FOLDERS)]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) if name in CHOICES:
                named.append(name)
            case ast.Constant(value=str(text)) if text in words | CHOICES:
                named.append(text)
            case ast.Constant(value=str(text)) if text.startswith(prefixes) and " " not in text:
                named.append(text)
            case ast.Constant(value=str(text)) if any(f"{each}.axis:" in text for each in FOLDERS):
                named.append(text)
            case ast.Name(id=name) | ast.alias(name=name) if name in CLASSES:
                named.append(name)
    return named


def test_no_other_file_names_an_axis() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in MODULES}
    own = {folder.removeprefix("karui.").replace(".", "/") for folder in FOLDERS}
    others = {
        file: path for file, path in files.items() if file.rpartition("/")[0] not in own and not file.startswith(ROUND)
    }
    assert {file for file, path in others.items() if names_of_axes(path)} == set(NAME_AXES)


@pytest.mark.parametrize(
    "line",
    [
        "bits = candidate.weight_bits",
        "Candidate(exit_depth=0.3)",
        "plain['candidate'].get('removed_channels')",
        "spec.axis(BitsAxis)",
        "import karui.spaces.axes.exits.compose",
        "parameters['bits.weights']",
        "kind == 'cell'",
        "step.name == 'aware training'",
    ],
)
def test_a_named_axis_is_seen(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    file = tmp_path / "search" / "other.py"
    file.parent.mkdir()
    file.write_text(line, encoding="utf-8")
    assert names_of_axes(file)


KNOW_OTHER_AXES = {
    ("students", "sparsity"): "a student is the model with channels removed, told in the same sentence",
    ("sparsity", "bits"): "what is zeroed at once is zeroed by the same pass that rounds",
}
"""Which axis imports from the folder of which other one, and why; an axis may well read what those before it chose."""


def test_axes_know_few_of_each_other() -> None:
    known = set()
    for folder in FOLDERS:
        for path in (PACKAGE / folder.removeprefix("karui.").replace(".", "/")).glob("*.py"):
            imports = imported_modules(path)
            others = {each for each in FOLDERS - {folder} if any(name.startswith(f"{each}.") for name in imports)}
            known |= {(folder.rpartition(".")[2], other.rpartition(".")[2]) for other in others}
    assert known == set(KNOW_OTHER_AXES)


def test_formats_know_no_candidate_and_no_axis() -> None:
    """So that words which are those of an axis are their own there."""
    for path in MODULES:
        if path.relative_to(PACKAGE).as_posix().startswith(ROUND):
            imports = imported_modules(path)
            assert "karui.spaces.candidate" not in imports
            assert not any(module.startswith("karui.spaces.axes") for module in imports)


def test_an_axis_names_the_steps_that_train() -> None:
    """What the search takes for trainings are those of the recipe."""
    candidates = (Candidate(weight_bits=4, bit_training="aware"), Candidate(removed_channels=0.5), Candidate())
    trained = {name for candidate in candidates for name, _ in trainings_of(candidate)}
    assert trained == training_names()


def test_there_are_six_axes_and_each_has_a_folder() -> None:
    assert AXES.own == ("students", "cells", "stages", "sparsity", "bits", "exits")
    assert len({place.partition(":")[0] for place in AXES.places}) == len(AXES.own)
