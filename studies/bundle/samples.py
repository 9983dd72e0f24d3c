"""What a bundle tells of the task, written when the front is certified: later there may be neither task nor torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DAMAGED, OutputError
from ...spaces.artifact import file_digest
from ...spaces.data.named import Shapes, contiguous, from_arrays, parts_of, to_arrays
from ..storage.folder import RunFolder, write_atomically
from ..storage.reading import read_json
from .arrays import read_arrays

if TYPE_CHECKING:
    from ...spaces.task import Task

Arrays = dict[str, NDArray[Any]]

MOST_SAMPLES = 16
"""Inputs of the test split that a bundle holds at most."""

MOST_BYTES = 4_000_000
"""Bytes of these inputs at most, uncompressed; one of them is kept whatever its size."""


@dataclass(frozen=True)
class TaskPaper:
    """What whoever runs the file has to know of the task.

    Args:
        metric: What the metric is called.
        top1: Whether the metric is the share of rows whose largest output is the target class.
        input_shape: Shape of one input, without the batch axis; by name where there are several.
        preprocessing: How raw data become inputs, as the task tells it.
        labels: Names of the outputs, in their order; none where the task gives none.
        input_type: Type of the numbers of an input, as numpy calls it; by name where there are several.
        outputs: Names of the file's outputs where they have names of their own.
    """

    metric: str
    top1: bool
    input_shape: Shapes
    preprocessing: dict[str, Any] | str | None = None
    labels: tuple[str, ...] = field(default=())
    input_type: str | dict[str, str] = "float32"
    outputs: tuple[str, ...] = field(default=())


def write_samples(task: Task, files: Sequence[Path], folder: RunFolder) -> None:
    """Write what a bundle of each file needs of the task: a few test inputs, what the file answers, and the metadata.

    Args:
        task: The task.
        files: The ONNX files of the front.
        folder: The results folder; its ``deploy`` then holds ``task.json``, and for each file an ``.npz`` of its name
            with ``inputs``, ``outputs``, ``sha256`` and, where they are arrays, ``targets``. Of several inputs or
            outputs each is an array of its own, such as ``inputs.tokens``.

    Raises:
        CandidateFailure: Where onnxruntime cannot run a file that was just measured.
        OSError: Where the folder cannot be written.
    """
    from ...evaluators.accuracy import run_batches
    from ...evaluators.runtimes.onnxruntime_runner import Runner
    from ...spaces.task import top1_accuracy

    paper = TaskPaper(
        task.metric_name,
        task.metric is top1_accuracy,
        task.input_shape,
        _plain(task.preprocessing),
        tuple(task.labels),
        task.input_type,
        task.output_names,
    )
    write_atomically(folder.deploy / "task.json", json.dumps(asdict(paper), indent=2, ensure_ascii=False).encode())
    given = _sample_inputs(task)
    for left in folder.deploy.glob("*.npz"):
        if left.stem not in {file.stem for file in files}:
            left.unlink()
    for file in files:
        outputs = run_batches(Runner(file, stage="samples"), from_arrays("inputs", given), MOST_SAMPLES)
        arrays = {**given, **to_arrays("outputs", outputs), "sha256": np.array(file_digest(file))}
        write_atomically(folder.deploy / f"{file.stem}.npz", npz_bytes(arrays))


def read_task_paper(folder: RunFolder) -> TaskPaper | None:
    """Return what was written of the task, or None where an earlier version of karui certified the front.

    Raises:
        OutputError: Where it is damaged.
    """
    path = folder.deploy / "task.json"
    if not path.is_file():
        return None
    try:
        plain = read_json(path)
        labels = tuple(map(str, plain["labels"]))
        shape = _shapes(plain["input_shape"])
        outputs = tuple(map(str, plain.get("outputs", ())))
        return TaskPaper(**{**plain, "input_shape": shape, "labels": labels, "outputs": outputs})
    except (OSError, *DAMAGED) as error:
        raise _damaged(path, str(error)) from error


def read_samples(folder: RunFolder, file: Path, digest: str) -> Arrays | None:
    """Return ``inputs``, ``outputs`` and, where there are any, ``targets`` that were written of a file.

    Args:
        folder: The results folder.
        file: The ONNX file of the front.
        digest: Its SHA-256; what was written of another file is None.

    Raises:
        OutputError: Where it is damaged.
    """
    path = folder.deploy / f"{file.stem}.npz"
    if not path.is_file():
        return None
    arrays, fault = read_arrays(path, ("inputs", "outputs"))
    if fault or "sha256" not in arrays:
        raise _damaged(path, fault or "it does not say of which file it is")
    return arrays if str(arrays.pop("sha256")) == digest else None


def _shapes(plain: Any) -> Shapes:
    if isinstance(plain, dict):
        return {str(name): tuple(map(int, shape)) for name, shape in plain.items()}
    return tuple(map(int, plain))


def _damaged(path: Path, got: str) -> OutputError:
    return OutputError(
        "what certification left for bundles cannot be read",
        where=str(path),
        got=got,
        remedy="run the search again; it only writes the front anew",
    )


def npz_bytes(arrays: Arrays) -> bytes:
    """Return arrays as an ``.npz``, compressed."""
    content = BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _sample_inputs(task: Task) -> Arrays:
    from torch import Tensor

    from ...spaces.task import spread_batch

    first = parts_of(task.test[0][0]).values()
    affordable = MOST_BYTES // max(1, sum(part.numel() * part.element_size() for part in first))
    inputs, targets = spread_batch(task.test, max(1, min(MOST_SAMPLES, affordable)))
    arrays: Arrays = to_arrays("inputs", contiguous(inputs.numpy()))
    if isinstance(targets, Tensor):
        arrays["targets"] = targets.numpy()
    return arrays


def _plain(preprocessing: Any) -> dict[str, Any] | str | None:
    return preprocessing if preprocessing is None or isinstance(preprocessing, str) else dict(preprocessing)
