"""The machine that karui itself runs on, as a target."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError
from ...spaces.artifact import file_digest
from ..runtimes.onnxruntime_runner import CPU_PROVIDER
from ..runtimes.placement import describe_fallback, profile_nodes
from ..runtimes.runtime import OpenedFile, find_runtime, works_in_calling_thread
from ..timing.alternating import Clock, PairTiming, TimingSettings, never_waits, time_interleaved, waiting_clock
from ..timing.energy_meter import find_meter
from ..timing.energy_timing import PairEnergy, meter_interleaved
from ..timing.machine_state import describe_change, read_governor, read_state
from ..timing.over_inputs import InputsTiming, time_over_inputs
from ..timing.pinning import allowed_cores, pinned
from .load_memory import measure_load_peak, measure_session_peak


class LocalTarget:
    """Measures latency on this machine, reference and candidate side by side in this process.

    While it measures, the threads of this process keep to as many cores as they need. Where one thread does all the
    work, the time for which others had its core does not count.

    Args:
        threads: Threads within an operator.
        provider: Execution provider of onnxruntime; with OpenVINO its device, and the default is its CPU.
        runtime: One of :data:`~karui.evaluators.runtimes.runtime_registry.RUNTIMES`.
        root: Under which ``proc`` and ``sys`` lie.

    Raises:
        KaruiError: Where runtime or provider are not available, or ``threads`` is not positive.
    """

    name = "local"

    is_here = True

    def __init__(
        self,
        threads: int = 1,
        provider: str = CPU_PROVIDER,
        runtime: str = "onnxruntime",
        root: Path = Path("/"),
    ) -> None:
        if threads < 1:
            raise KaruiError(
                "the number of threads has no meaning", where="threads", expected="1 or more", got=str(threads)
            )
        self._runtime = find_runtime(runtime)
        self._runtime.check(provider)
        self._runtime_name = runtime
        self._threads = threads
        self._provider = provider
        self._root = root
        self._reference: tuple[str, OpenedFile] | None = None

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.target.Target`."""
        with self._watched() as machine:
            reference = self._open_reference(reference_path, inputs)
            candidate = self._open(candidate_path)
            timing = time_interleaved(
                lambda: reference.run(inputs), lambda: candidate.run(inputs), settings, waited=self._waited()
            )
        return replace(timing, machine={**machine, **self._placement(candidate_path, inputs)})

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.target.Target`."""
        batches = [inputs[row : row + 1] for row in range(len(inputs))]
        with self._watched() as machine:
            reference = self._open_reference(reference_path, batches[0])
            candidate = self._open(candidate_path)
            timing = time_over_inputs(
                lambda row: reference.run(batches[row]),
                lambda row: candidate.run(batches[row]),
                len(batches),
                max_seconds=settings.max_seconds,
                min_block_ms=settings.min_block_ms,
                waited=self._waited(),
            )
        return replace(timing, machine={**machine, **self._placement(candidate_path, batches[0])})

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming:
        """Time the opening of a candidate; see :class:`~karui.evaluators.targets.target.Target`."""
        with self._watched() as machine:
            with _blamed_on_reference(reference_path):
                self._open(reference_path, "load")
            timing = time_interleaved(
                lambda: self._open(reference_path, "load"),
                lambda: self._open(candidate_path, "load"),
                settings,
                waited=self._waited(),
            )
        return replace(timing, machine=machine)

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes; see :class:`~karui.evaluators.targets.target.Target`."""
        return measure_load_peak(path, self._provider, self._threads, self._runtime_name)

    def session_peak_bytes(self, path: Path, inputs: NDArray[Any]) -> int | None:
        """Return how much memory opening and running a file takes; see
        :class:`~karui.evaluators.targets.target.MeasuresMemory`.
        """
        return measure_session_peak(path, inputs, self._provider, self._threads, self._runtime_name)

    def energy_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairEnergy | None:
        """Meter a candidate beside the reference; see :class:`~karui.evaluators.targets.target.MeasuresEnergy`."""
        meter = find_meter(self._root)
        if meter is None:
            return None
        with self._watched():
            reference = self._open_reference(reference_path, inputs)
            candidate = self._open(candidate_path)
            return meter_interleaved(
                lambda: reference.run(inputs), lambda: candidate.run(inputs), meter, max_seconds=settings.max_seconds
            )

    def conditions(self) -> dict[str, Any]:
        """Return what a latency on this target depends on."""
        return {
            "target": self.name,
            "host": platform.node(),
            "processor": processor_name(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            **self.fingerprint(),
        }

    def close(self) -> None:
        """Let go of the reference."""
        self._reference = None

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes this target another one; see :class:`~karui.evaluators.targets.target.Target`."""
        governor = read_governor(allowed_cores(), self._root)
        return {
            "target": self.name,
            "processor": processor_name(),
            "runtime": self._runtime_name,
            self._runtime_name: self._runtime.version(),
            "provider": self._provider,
            "threads": self._threads,
            **({} if governor is None else {"governor": governor}),
        }

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        """Keep to the cores that are needed; yield what will say, at the end, how the machine was meanwhile."""
        told: dict[str, Any] = {}
        with pinned(self._threads, self._root) as cores:
            used = allowed_cores() if cores is None else cores
            before = read_state(used, self._root)
            yield told
            told |= describe_change(before, read_state(used, self._root))
            told["pinned_cores"] = None if cores is None else list(cores)

    def _waited(self) -> Clock:
        return waiting_clock() if works_in_calling_thread(self._provider, self._threads) else never_waits

    def _placement(self, path: Path, inputs: NDArray[Any]) -> dict[str, Any]:
        """Return how many nodes of a file ran where, for a provider that may leave some to the processor."""
        if self._runtime_name != "onnxruntime" or self._provider == CPU_PROVIDER:
            return {}
        nodes = profile_nodes(path, inputs, self._provider, self._threads)
        return {"nodes": nodes, "fallback": describe_fallback(nodes) or "none"}

    def _open(self, path: Path, stage: str = "latency") -> OpenedFile:
        return self._runtime.open(path, stage=stage, provider=self._provider, threads=self._threads)

    def _open_reference(self, path: Path, inputs: NDArray[Any]) -> OpenedFile:
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
