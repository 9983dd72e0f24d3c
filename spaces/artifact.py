"""Artifact: the one ONNX file of a candidate, and the record of how it was made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


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
        path: The ONNX file.
        digest: SHA-256 of its bytes, hexadecimal.
        stages: The stages that made it, in their order.
    """

    path: Path
    digest: str
    stages: tuple[StageRecord, ...] = ()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
