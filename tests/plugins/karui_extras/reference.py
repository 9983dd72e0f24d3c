"""Runtimes from outside: one that reads ONNX, by the evaluator that defines it, and one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from karui.errors import CandidateFailure, KaruiError
from karui.evaluators.runtimes.runtime import Runtime


class EvaluatedFile:
    """A file opened by onnx itself.

    Args:
        path: The file.
        stage: Where its failures are told.
        provider: There is but one.
        threads: Not used.
    """

    def __init__(self, path: Path, *, stage: str, provider: str, threads: int) -> None:
        self._stage = stage
        self.fixed_batch_size: int | None = None
        path.stat()
        try:
            self._evaluator = ReferenceEvaluator(str(path))
        except Exception as error:
            raise CandidateFailure(stage, f"onnx cannot read the file: {error}") from error

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the output for one batch."""
        try:
            (output,) = self._evaluator.run(None, {self._evaluator.input_names[0]: batch})
        except Exception as error:
            raise CandidateFailure(self._stage, f"onnx cannot run the file: {error}") from error
        return np.asarray(output)


def check_provider(provider: str) -> None:
    """Refuse all but the one."""
    if provider != "CPUExecutionProvider":
        raise KaruiError("onnx runs on the CPU alone", where="provider", got=provider)


REFERENCE = Runtime(EvaluatedFile, check_provider, lambda: str(onnx.__version__), formats=("onnx",))
PAPER = Runtime(EvaluatedFile, check_provider, lambda: "1", formats=("paper",))
