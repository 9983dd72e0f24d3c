"""A kind of target from outside: a device whose clock counts the bytes of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from karui.evaluators.timing.alternating import PairTiming, TimingSettings
from karui.evaluators.timing.over_inputs import InputsTiming


class CountingTarget:
    """A device on which a file takes a millisecond for so many bytes.

    Args:
        name: Its name in the study.
        bytes_per_ms: Bytes of a file that take a millisecond.
        threads: Not used.
        provider: Not used.
        tell: Not used: it never waits.
    """

    def __init__(
        self, name: str, bytes_per_ms: float = 1_000.0, threads: int = 1, provider: str = "", tell: Any = None
    ) -> None:
        self.name = name
        self._bytes_per_ms = bytes_per_ms

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Return the times of both."""
        reference, candidate = (path.stat().st_size / self._bytes_per_ms for path in (reference_path, candidate_path))
        return PairTiming(reference, 0.0, candidate, candidate, candidate / reference, 0.0, 10, (1, 1))

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Refuse: no axis of this package depends on inputs."""
        raise NotImplementedError

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming | None:
        """Return None: it does not tell."""
        return None

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return None: it does not tell."""
        return None

    def conditions(self) -> dict[str, Any]:
        """Return what its times depend on."""
        return self.fingerprint()

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes it another target."""
        return {"processor": "counting", "bytes_per_ms": self._bytes_per_ms}

    def close(self) -> None:
        """Nothing is open."""
