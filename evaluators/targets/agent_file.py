"""The one file that is sent to a device: the agent, and every module that it imports, in a zip that Python runs."""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

_PACKAGE = Path(__file__).resolve().parents[2]
_FIRST = ("evaluators/targets/device_agent.py", "evaluators/targets/device_worker.py")
_MAIN = "import sys\nfrom karui.evaluators.targets.device_agent import main\nmain(sys.argv[0], sys.argv[1])\n"
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AgentFile:
    """What is sent.

    Args:
        content: The zip.
        digest: Its SHA-256, which is the version that both sides have to have.
    """

    content: bytes
    digest: str


@cache
def agent_file() -> AgentFile:
    """Return the agent's file; the same modules give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        modules = shipped_modules()
        packages = {
            "karui/__init__.py",
            *(f"karui/{folder}/__init__.py" for name in modules for folder in PurePosixPath(name).parents[:-1]),
        }
        _add(archive, "__main__.py", _MAIN)
        for name in sorted(packages):
            _add(archive, name, "")
        for name in modules:
            _add(archive, f"karui/{name}", (_PACKAGE / name).read_text(encoding="utf-8"))
    content = stream.getvalue()
    return AgentFile(content, hashlib.sha256(content).hexdigest())


def shipped_modules() -> tuple[str, ...]:
    """Return the files, relative to the package, that the agent consists of: what it imports, and what that imports."""
    waiting, found = list(_FIRST), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(name)
    return tuple(sorted(found))


def _imported(name: str) -> Iterator[str]:
    """Yield the modules of karui that a module imports, which it does by relative names."""
    folder = (_PACKAGE / name).parent
    for node in ast.walk(ast.parse((_PACKAGE / name).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder.joinpath(*[".."] * (node.level - 1)).resolve()
        modules = [node.module] if node.module else [alias.name for alias in node.names]
        for module in modules:
            path = base.joinpath(*module.split(".")).with_suffix(".py")
            if path.is_file():
                yield path.relative_to(_PACKAGE).as_posix()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), text)
