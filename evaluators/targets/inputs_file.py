"""Inputs as a file, for targets that are not in this process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...spaces.data.named import Named, contiguous


class InputsFile:
    """Keeps the inputs of the last measurement in a file, written once for as long as they are the same array.

    A ``.npy`` for a single array, an ``.npz`` with an array of each name for several. It is gone with this object.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="karui-inputs-")
        self._written: Any = None
        self._path: Path | None = None

    def path_of(self, inputs: Any) -> Path:
        """Return the file that holds these inputs."""
        if self._path is None or self._written is not inputs:
            self._path = write_inputs(inputs, Path(self._folder.name))
            self._written = inputs
        return self._path


def write_inputs(inputs: Any, folder: Path) -> Path:
    """Write inputs to a file in a folder, and return it."""
    if isinstance(inputs, Named):
        path = folder / "inputs.npz"
        np.savez(path, **contiguous(inputs).parts)
        return path
    path = folder / "inputs.npy"
    np.save(path, np.ascontiguousarray(inputs), allow_pickle=False)
    return path


def read_inputs(path: Path) -> Any:
    """Return the inputs that :func:`write_inputs` wrote."""
    found = np.load(str(path), allow_pickle=False)
    return found if isinstance(found, np.ndarray) else Named({name: found[name] for name in found.files})
