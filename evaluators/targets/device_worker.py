"""The process on a device that measures: the very target that measures on karui's own machine, behind lines of JSON.

Part of what is sent to the device. One request a line on standard input, one answer a line on standard output.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class _Subscriptable:
    """Stands for a class of ``collections.abc`` in an alias such as ``Callable[[], int]``, which nothing ever asks."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


@contextlib.contextmanager
def mended_python() -> Iterator[None]:
    """Give Python 3.8 what the modules that are sent along take from later versions while they are loaded."""
    if not hasattr(functools, "cache"):
        functools.cache = functools.lru_cache(maxsize=None)
    if not hasattr(hashlib, "file_digest"):
        hashlib.file_digest = _file_digest  # type: ignore[assignment]
    kept = {
        name: getattr(collections.abc, name) for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")
    }
    for name, item in kept.items():
        if not hasattr(item, "__class_getitem__"):
            setattr(collections.abc, name, _Subscriptable)
    try:
        yield
    finally:
        for name, item in kept.items():
            setattr(collections.abc, name, item)


def _file_digest(file: Any, name: str) -> Any:
    digest = hashlib.new(name)
    for part in iter(lambda: file.read(2**20), b""):
        digest.update(part)
    return digest


def main(options: Any) -> None:
    """Answer until there are no more requests.

    Args:
        options: Keywords of the target.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed must not mix with the answers
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), options)) + "\n")
        answers.flush()


def answer(request: Any, options: Any) -> Any:
    """Return what came of a request, JSON types only."""
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401

        # These two first, so that they see Python as it is.
        with mended_python():
            from ...errors import CandidateFailure, KaruiError
            from ..timing.alternating import TimingSettings
            from .inputs_file import read_inputs
    except ImportError as error:
        return {"lacks": str(error)}
    try:
        target = _target(json.dumps(options))
        files = {role: Path(path) for role, path in request["files"].items()}
        reference, candidate = files.get("reference"), files.get("candidate")
        given = [TimingSettings(**request["settings"])] if request["settings"] else []
        inputs = [read_inputs(files["inputs"])] if "inputs" in files else []
        arguments = [path for path in (reference, candidate) if path is not None]
        found = getattr(target, request["what"])(*arguments, *inputs, *given)
    except ImportError as error:
        return {"lacks": str(error)}
    except CandidateFailure as failure:
        return {"failed": [failure.stage, failure.reason]}
    except KaruiError as error:
        return {"error": [error.what, error.where, error.expected, error.got, error.remedy]}
    return {"found": found.to_dict() if hasattr(found, "to_dict") else found}


@functools.lru_cache(maxsize=4)
def _target(options: str) -> Any:
    with mended_python():
        from .local import LocalTarget

    return LocalTarget(**json.loads(options))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
