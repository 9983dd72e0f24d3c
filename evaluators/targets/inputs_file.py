"""Inputs as a file, for targets that are not in this process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray


class InputsFile:
    """Keeps the inputs of the last measurement in a ``.npy`` file, written once for as long as they are the same array.

    The file is gone with this object.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="karui-inputs-")
        self._written: NDArray[Any] | None = None

    def path_of(self, inputs: NDArray[Any]) -> Path:
        """Return the file that holds these inputs."""
        path = Path(self._folder.name) / "inputs.npy"
        if self._written is not inputs:
            np.save(path, np.ascontiguousarray(inputs), allow_pickle=False)
            self._written = inputs
        return path
