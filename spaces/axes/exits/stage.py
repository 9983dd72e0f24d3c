"""The stage of the build that gives a network's file an early exit and packs it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import CandidateFailure
from ...formats.onnx.quantization.preparation import RUNTIME_ERRORS
from ...task import Task, spread_batch
from .cut import STAGE, Cut
from .exit_file_check import ExitChoice, pack_with_exit

HEAD_SAMPLES = 1_000
"""Training inputs on which a head is trained, spread over the training data and not augmented."""


class ExitStage:
    """Makes files with an early exit, their heads trained on the same samples of one task.

    Args:
        task: The task; its training data are read when the first head is trained.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def make(self, source: Path, destination: Path, choice: ExitChoice) -> Cut:
        """Write the packed file with an exit; see :func:`~karui.spaces.axes.exits.exit_file_check.pack_with_exit`.

        Raises:
            CandidateFailure: Where the network has no cut, its outputs are no logits of classes, or the runtime cannot
                run what was made.
        """
        inputs, targets = self._samples
        try:
            return pack_with_exit(source, destination, choice, inputs=inputs, targets=targets)
        except RUNTIME_ERRORS as error:
            raise CandidateFailure(STAGE, f"{type(error).__name__}: {error}") from error

    @cached_property
    def _samples(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        inputs, targets = spread_batch(self._task.train, HEAD_SAMPLES)
        return inputs.numpy(), targets.numpy()
