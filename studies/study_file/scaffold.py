"""``karui init``: a study file and a task file to start from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from ...errors import KaruiError
from ..storage.folder import explain_os_errors, write_atomically

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write_scaffold(name: str, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.toml`` and ``NAME_task.py``, and return their paths.

    Args:
        name: Name of the study.
        folder: Where to write.

    Raises:
        KaruiError: Where the name cannot be one, or a file of that name is there already.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise KaruiError(
            "that cannot be the name of a study",
            where="NAME",
            expected="letters, digits, dots, dashes and underscores, a letter or digit first",
            got=repr(name),
        )
    study = folder / f"{name}.toml"
    task = folder / f"{re.sub(r'[^A-Za-z0-9_]', '_', name)}_task.py"
    for path in (study, task):
        if path.exists() or path.is_symlink():  # a link that leads nowhere is somebody's as well
            raise KaruiError(
                "that file is there already, and is left as it is",
                where=str(path),
                remedy="choose another name, or move the file away",
            )
    with explain_os_errors(folder, "current folder", "the command in another folder"):
        for path, template in ((study, "study.toml"), (task, "task.py")):
            write_atomically(path, _filled(template, name, task.name).encode())
    return study, task


def usual_study(name: str) -> dict[str, Any]:
    """Return the keys of the study file that ``karui init`` writes, as plain values."""
    return tomllib.loads(_filled("study.toml", name, f"{name}.py"))


def _filled(template: str, name: str, task_file: str) -> str:
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return text.replace("{name}", name).replace("{task_file}", task_file)
