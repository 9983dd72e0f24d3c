"""karui (軽い, "light"): search how to make a trained PyTorch model light.

The names below are loaded when first used, so that ``import karui`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import KaruiError
    from .spaces.task import Task

__version__ = "0.1.0"

_HOME = {
    "KaruiError": "errors",
    "Task": "spaces.task",
}

__all__ = ["KaruiError", "Task", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
