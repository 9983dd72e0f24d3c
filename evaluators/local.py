"""The machine that karui itself runs on, as a target."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from ..errors import CandidateFailure, KaruiError
from ..spaces.artifact import file_digest
from .load_memory import measure_load_peak
from .runtime import CPU_PROVIDER, Runner, check_provider
from .timing import PairTiming, TimingSettings, time_interleaved
from .timing_over_inputs import InputsTiming, time_over_inputs


class LocalTarget:
    """Measures latency on this machine, reference and candidate side by side in this process.

    Args:
        threads: Threads within an operator.
        provider: Execution provider of onnxruntime.

    Raises:
        KaruiError: Where the provider is not available, or ``threads`` is not positive.
    """

    name = "local"

    def __init__(self, threads: int = 1, provider: str = CPU_PROVIDER) -> None:
        if threads < 1:
            raise KaruiError(
                "the number of threads has no meaning", where="threads", expected="1 or more", got=str(threads)
            )
        check_provider(provider)
        self._threads = threads
        self._provider = provider
        self._reference: tuple[str, Runner] | None = None

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.Target`."""
        reference = self._open_reference(reference_path, inputs)
        candidate = self._open(candidate_path)
        return time_interleaved(lambda: reference.run(inputs), lambda: candidate.run(inputs), settings)

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.Target`."""
        batches = [inputs[row : row + 1] for row in range(len(inputs))]
        reference = self._open_reference(reference_path, batches[0])
        candidate = self._open(candidate_path)
        return time_over_inputs(
            lambda row: reference.run(batches[row]),
            lambda row: candidate.run(batches[row]),
            len(batches),
            max_seconds=settings.max_seconds,
            min_block_ms=settings.min_block_ms,
        )

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming:
        """Time the opening of a candidate; see :class:`~karui.evaluators.targets.Target`."""
        with _blamed_on_reference(reference_path):
            self._open(reference_path, "load")
        return time_interleaved(
            lambda: self._open(reference_path, "load"), lambda: self._open(candidate_path, "load"), settings
        )

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes; see :class:`~karui.evaluators.targets.Target`."""
        return measure_load_peak(path, self._provider, self._threads)

    def conditions(self) -> dict[str, Any]:
        """Return what a latency on this target depends on."""
        return {
            "target": self.name,
            "host": platform.node(),
            "processor": processor_name(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "provider": self._provider,
            "threads": self._threads,
        }

    def close(self) -> None:
        """Let go of the reference."""
        self._reference = None

    def _open(self, path: Path, stage: str = "latency") -> Runner:
        return Runner(path, stage=stage, provider=self._provider, threads=self._threads)

    def _open_reference(self, path: Path, inputs: NDArray[Any]) -> Runner:
        digest = file_digest(path)
        with _blamed_on_reference(path):
            if self._reference is None or self._reference[0] != digest:
                self._reference = (digest, self._open(path))
            runner = self._reference[1]
            runner.run(inputs)
        return runner


@contextmanager
def _blamed_on_reference(path: Path) -> Iterator[None]:
    """A reference that fails must not be taken for a failure of the candidate."""
    try:
        yield
    except CandidateFailure as failure:
        raise KaruiError(
            "the reference cannot be run on this target, so nothing can be compared with it",
            where=str(path),
            got=failure.reason,
        ) from failure


@cache
def processor_name() -> str:
    """Return the processor's model name, as far as the operating system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return entries.get("model name") or entries.get("Model") or platform.processor() or platform.machine()
