"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ...errors import OutputError
from ..storage.folder import followed
from .sums import SUMS

_MADE = {"model.onnx", "config.json", "config.schema.json", "MODEL_CARD.md", "README.md", "run.py", "samples", SUMS}


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty folder beside the destination, which takes its place once all is well.

    A process that is killed meanwhile leaves the destination as it was, and beside it a hidden folder that ends in
    ``.part``. An earlier bundle is moved aside, as ``.old``, and removed once the new one stands. A symbolic link stays
    one: what it leads to is replaced.

    Raises:
        OutputError: Where the destination is a file, the current folder, or holds something else than a bundle.
        OSError: Where it cannot be written.
    """
    destination = followed(destination)
    _check_free(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    hidden = destination.absolute().parent / f".{destination.absolute().name}.{uuid4().hex[:8]}"
    made, aside = hidden.with_name(hidden.name + ".part"), hidden.with_name(hidden.name + ".old")
    made.mkdir()
    try:
        yield made
        if destination.exists():
            destination.rename(aside)
        try:
            made.rename(destination)
        except BaseException:
            if aside.exists():
                aside.rename(destination)
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _check_free(destination: Path) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise OutputError(
            "a file lies where the bundle is to go",
            where=str(destination),
            expected="no such path yet, an empty folder, or an earlier bundle",
            got="a file",
            remedy="name another --export",
        )
    if Path.cwd().is_relative_to(destination.resolve()):  # it is moved aside, and whoever stands in it would be, too
        raise OutputError(
            "the folder to export to is the current folder, or holds it",
            where=str(destination.resolve()),
            expected="a folder that can be replaced as a whole",
            got=f"the current folder is {Path.cwd()}",
            remedy="name a folder within it: --export bundle",
        )
    held = {path.name for path in destination.iterdir()}
    is_bundle = {"model.onnx", "config.json"} <= held and held <= _MADE
    if held and not is_bundle:
        foreign = sorted(held - _MADE) or sorted(held)
        raise OutputError(
            "the folder to export to holds something else than a bundle",
            where=str(destination),
            expected="no such folder yet, an empty one, or an earlier bundle and nothing else",
            got=", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""),
            remedy="name another --export, or move these files away",
        )
