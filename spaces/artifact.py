"""Artifact: the one file of a candidate, and the record of how it was made."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

USUAL_FORMAT = "onnx"
"""The format of a file where nothing else is said."""

BASELINE_FILE, EXPORTED_ANEW = "baseline.onnx", "baseline-exported-anew.onnx"
"""The baseline's file in a results folder, and what it is compared with where a study has begun with it."""


@dataclass(frozen=True)
class StageRecord:
    """How one stage of the build went.

    Args:
        stage: Name of the stage.
        seconds: Wall-clock time that it took.
        cached: Whether its output was found rather than made.
    """

    stage: str
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Artifact:
    """A file that can be measured and deployed, byte for byte the same.

    Args:
        path: The file.
        digest: SHA-256 of its bytes, hexadecimal.
        stages: The stages that made it, in their order.
        notes: What it was made of otherwise than asked for, a sentence each.
        format: What kind of file it is, one of :data:`~karui.spaces.formats.format.FORMATS`.
    """

    path: Path
    digest: str
    stages: tuple[StageRecord, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = USUAL_FORMAT


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file whole or not at all: beside its final place, then moved there.

    Raises:
        OSError: Where it cannot be written; the old file, if any, is then still whole.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp hides the file from everybody else; a deployable file has the permissions of any other new file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
