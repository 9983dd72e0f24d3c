"""karui (軽い, "light"): search how to make a trained PyTorch model light.

The names below are loaded when first used, so that ``import karui`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import KaruiError, NothingFits
    from .spaces.axes.bits.axis import BitsAxis
    from .spaces.axes.cells.axis import CellsAxis
    from .spaces.axes.exits.axis import ExitsAxis
    from .spaces.axes.sparsity.axis import SparsityAxis
    from .spaces.axes.stages.axis import StagesAxis
    from .spaces.axes.students.axis import StudentsAxis
    from .spaces.task import Task
    from .studies.choosing.choose import pick
    from .studies.compress import compress
    from .studies.objective import Objective
    from .studies.plotting.figures import plot_front, plot_hypervolume
    from .studies.results.read import load_front
    from .studies.run import StudyResult, run_study
    from .studies.study_file.spec import StudySpec
    from .studies.study_file.spec_reading import load_spec
    from .studies.watching.watcher import Watcher

__version__ = "0.1.0"

_HOME = {
    "BitsAxis": "spaces.axes.bits.axis",
    "CellsAxis": "spaces.axes.cells.axis",
    "ExitsAxis": "spaces.axes.exits.axis",
    "KaruiError": "errors",
    "NothingFits": "errors",
    "Objective": "studies.objective",
    "SparsityAxis": "spaces.axes.sparsity.axis",
    "StagesAxis": "spaces.axes.stages.axis",
    "StudentsAxis": "spaces.axes.students.axis",
    "StudyResult": "studies.run",
    "StudySpec": "studies.study_file.spec",
    "Task": "spaces.task",
    "Watcher": "studies.watching.watcher",
    "compress": "studies.compress",
    "load_front": "studies.results.read",
    "load_spec": "studies.study_file.spec_reading",
    "pick": "studies.choosing.choose",
    "plot_front": "studies.plotting.figures",
    "plot_hypervolume": "studies.plotting.figures",
    "run_study": "studies.run",
}

__all__ = [
    "BitsAxis",
    "CellsAxis",
    "ExitsAxis",
    "KaruiError",
    "NothingFits",
    "Objective",
    "SparsityAxis",
    "StagesAxis",
    "StudentsAxis",
    "StudyResult",
    "StudySpec",
    "Task",
    "Watcher",
    "__version__",
    "compress",
    "load_front",
    "load_spec",
    "pick",
    "plot_front",
    "plot_hypervolume",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
