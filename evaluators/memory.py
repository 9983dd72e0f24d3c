"""Memory of a running session, where the target can tell it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..errors import KaruiError
from ..spaces.artifact import Artifact
from ..spaces.data.named import contiguous
from .measurement import Measurement
from .metric import Metric
from .targets.target import MeasuresMemory, Target

PAGE_BYTES = 4096
"""What resident memory is counted in. Of two files, of 27 KB and of 47 MB, measured eight times each, all measurements
of one lay within a page of each other."""


class MemoryEvaluator:
    """Measures ``session_peak_bytes`` of a file: by how much a fresh process grows that opens it and runs it.

    It is known to a page.

    Args:
        target: Where to measure.
        inputs: One batch of real data, shape (batch, *input_shape).

    Raises:
        KaruiError: Where the target is of a kind that measures no memory.
    """

    name = "memory"

    def __init__(self, target: Target, inputs: NDArray[Any]) -> None:
        if not isinstance(target, MeasuresMemory):
            raise _no_memory(target)
        self._target = target
        self._inputs = contiguous(inputs)

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return one measurement, ``session_peak_bytes``.

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the target does not tell the peak, or is at fault.
        """
        peak_bytes = self._target.session_peak_bytes(artifact.path, self._inputs)
        if peak_bytes is None:
            raise _no_memory(self._target)
        conditions = {**self._target.conditions(), "batch_size": len(self._inputs)}
        return (Measurement("session_peak_bytes", peak_bytes, "bytes", float(PAGE_BYTES), conditions=conditions),)


def _no_memory(target: Target) -> KaruiError:
    return KaruiError(
        "the memory of a session cannot be measured on this target",
        where=f"target {target.name}",
        expected="a system that tells the peak of a process, such as Linux or macOS",
        remedy="take max_memory out of [bounds] and memory out of further_objectives",
    )


MEMORY = Metric(
    name="memory",
    measurement="session_peak_bytes",
    direction="minimize",
    unit="bytes",
    bound="max_memory",
    title="Memory of a session, highest",
    evaluator=lambda by: MemoryEvaluator(by.target, by.inputs),
)
