"""Whether a bundle's file is as accurate on given data as its configuration says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError
from ...evaluators.runtimes.onnxruntime_runner import Runner
from .arrays import read_arrays, run_inputs
from .check import Check
from .config import BundleConfig

_Z = 1.959963984540054


def read_data(path: Path) -> dict[str, NDArray[Any]]:
    """Return ``inputs`` and ``targets`` of an ``.npz``.

    Raises:
        KaruiError: Where it cannot be read, or does not hold as many of both.
    """
    arrays, fault = read_arrays(path, ("inputs", "targets"))
    if fault:
        raise KaruiError(
            "the data cannot be used",
            where=f"--data {path}",
            expected="an .npz with the arrays inputs, prepared as for the model, and targets, a class index for each",
            got=fault,
        )
    return arrays


def check_accuracy(bundle: Path, config: BundleConfig, data: dict[str, NDArray[Any]]) -> Check:
    """Check that accuracy on the data is not below that on the test split by more than chance.

    Missed where the difference of the two shares lies outside its 95 % interval, put together of the Wilson interval of
    what was measured here and the one that the configuration gives (Newcombe, Statistics in Medicine 1998, method 10).

    Args:
        bundle: The folder.
        config: Its configuration.
        data: As :func:`read_data` returns it.

    Raises:
        KaruiError: Where the inputs are not of the shape that the file takes.
    """
    task, said = config.task, config.measurements.get("test_accuracy")
    if task is None or said is None or not task.top1:
        metric = "" if task is None else f" {task.metric!r}"
        return Check(
            "accuracy",
            "not comparable",
            f"the task's metric{metric} is not known to be the share of rows whose largest output is the target class, "
            "and it is not in the bundle",
        )
    if isinstance(task.input_shape, dict) or isinstance(task.input_type, dict):
        return Check("accuracy", "not comparable", "the file takes several inputs, and accuracy is checked for one")
    inputs, targets = _of_type(data["inputs"], task.input_type), data["targets"]
    _check_data(inputs, targets, task.input_shape)
    try:
        outputs = run_inputs(Runner(bundle / "model.onnx", stage="verify"), inputs)
    except CandidateFailure as failure:
        return Check("accuracy", "missed", f"the file does not run on the data: {failure.reason}")
    if outputs.shape[:1] != targets.shape or outputs.ndim != 2:
        told = f"the file answers with outputs of shape {outputs.shape}, one row of classes for each input was expected"
        return Check("accuracy", "not comparable", told)
    return _judge(int((outputs.argmax(axis=1) == targets).sum()), len(targets), said.value, said.spread)


def _judge(right: int, rows: int, said: float, said_spread: float) -> Check:
    found = right / rows
    low, high = wilson_interval(right, rows)
    lost, allowed = said - found, math.hypot(said_spread, high - found)
    text = (
        f"{found:.4f} on {rows:,} rows (95 %: {low:.4f} to {high:.4f}), {said:.4f} ± {said_spread:.4f} was measured on "
        "the test split"
    )
    if lost > allowed:
        text += f": {100 * lost:.2f} points fewer, {100 * allowed:.2f} may be chance"
    numbers = {"found": found, "low": low, "high": high, "rows": rows, "said": said, "said_spread": said_spread}
    return Check("accuracy", "missed" if lost > allowed else "kept", text, numbers)


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, JASA 1927).

    Args:
        right: How many of the rows are right.
        rows: How many there are, one at least.
    """
    share, square = right / rows, _Z * _Z / rows
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / rows + square / (4 * rows)) / (1 + square)
    # Where none or all are right the share itself is an end, which rounding may miss.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def _of_type(inputs: NDArray[Any], wanted: str) -> NDArray[Any]:
    """Return the inputs in the type that the file takes.

    Raises:
        KaruiError: Where whole numbers are wanted and others come.
    """
    kind = np.dtype(wanted)
    fitted: NDArray[Any] = np.asarray(inputs).astype(kind)
    if not np.issubdtype(kind, np.floating) and not np.array_equal(fitted, inputs):
        raise KaruiError(
            "the data are not inputs of this model",
            where="--data: inputs",
            expected=f"numbers that {wanted} can hold",
            got=f"others, in {inputs.dtype}",
            remedy="prepare them as MODEL_CARD.md says",
        )
    return fitted


def _check_data(inputs: NDArray[Any], targets: NDArray[Any], input_shape: list[int]) -> None:
    if list(inputs.shape[1:]) != input_shape:
        raise KaruiError(
            "the data are not inputs of this model",
            where="--data: inputs",
            expected=f"shape (n, {', '.join(map(str, input_shape))})",
            got=str(inputs.shape),
            remedy="prepare them as MODEL_CARD.md says",
        )
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise KaruiError(
            "the data have no class indices as targets",
            where="--data: targets",
            expected="whole numbers, shape (n,)",
            got=f"{targets.dtype}, shape {targets.shape}",
        )
