"""Arrays from a file that may be damaged, and a file run on arrays, without torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DAMAGED
from ...spaces.data.named import contiguous, from_arrays, joined, to_arrays, with_rows
from ..storage.reading import check_is_file

if TYPE_CHECKING:
    from ...evaluators.runtimes.onnxruntime_runner import Runner

BATCH_SIZE = 256

_NO_ARCHIVE = (EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""RuntimeError: encrypted, or of a compression that is not known; MemoryError: of a size that was never meant."""


def read_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the arrays of an ``.npz`` and an empty text, or what is wrong with it in a few words.

    Args:
        path: The file.
        names: Arrays that it has to hold, or several of each such as ``inputs.tokens``, with as many rows each, one at
            least.
    """
    try:
        check_is_file(path)
        kept = np.load(path, allow_pickle=False)
        if isinstance(kept, np.ndarray):
            return {}, "it is one array, an .npz with several by name was expected"
        with kept:
            arrays = dict(kept)
    except FileNotFoundError:
        return {}, "there is no such file"
    except (OSError, *DAMAGED, *_NO_ARCHIVE) as error:
        return {}, f"it is damaged, cut short, or no .npz ({' '.join(str(error).split())})"
    missing = [name for name in names if from_arrays(name, arrays) is None]
    if missing:
        return {}, f"it has no array {' and none '.join(missing)}; it has {', '.join(sorted(arrays)) or 'nothing'}"
    wanted = {each: array for name in names for each, array in to_arrays(name, from_arrays(name, arrays)).items()}
    rows = {name: len(array) if array.ndim else 0 for name, array in wanted.items()}
    if len(set(rows.values())) > 1 or not all(rows.values()):
        told = ", ".join(f"{count} {name}" for name, count in rows.items())
        return {}, f"it holds {told}; as many of each were expected, one at least"
    return arrays, ""


def run_inputs(runner: Runner, inputs: Any) -> Any:
    """Return a file's outputs for inputs of any number, shape (n, ...); named ones where it has several.

    A file that accepts one batch size only gets that size, the last batch filled up with copies of its first input.

    Raises:
        CandidateFailure: Where the file cannot be run on them.
    """
    size = runner.fixed_batch_size or BATCH_SIZE
    outputs = []
    for start in range(0, len(inputs), size):
        batch = contiguous(inputs[start : start + size])
        rows = len(batch)
        if runner.fixed_batch_size is not None and rows < size:
            batch = with_rows(batch, size)
        outputs.append(runner.run(batch)[:rows])
    return joined(outputs)
