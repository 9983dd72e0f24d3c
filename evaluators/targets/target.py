"""Target: where latency is measured; and the registry of the targets that there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ...spaces.registry import Registry
from ..timing.alternating import PairTiming, TimingSettings
from ..timing.energy_timing import PairEnergy
from ..timing.over_inputs import InputsTiming


class Target(Protocol):
    """A machine that runs files.

    One call covers a whole interleaved measurement, so that a target behind a network sends the files and the inputs
    over, loops there, and brings one :class:`PairTiming` back.
    """

    @property
    def name(self) -> str:
        """The target's name in the study, or that of its kind."""

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference, interleaved, within one process of the target.

        Args:
            reference_path: The file that all candidates are compared with.
            candidate_path: The file to time.
            inputs: One batch, shape (batch, *input_shape).
            settings: When to stop, and how long a block lasts.

        Raises:
            CandidateFailure: Stage ``latency``, where the candidate's file cannot be loaded or run.
            TargetUnavailable: Where the target does not answer.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference on many inputs, one at a time, within one process of the target.

        Args:
            reference_path: The file that all candidates are compared with.
            candidate_path: The file to time; it may accept one input at a time only.
            inputs: Shape (n, *input_shape), n >= 1.
            settings: Its ``max_seconds`` and ``min_block_ms`` hold.

        Raises:
            CandidateFailure: Stage ``latency``, where the candidate's file cannot be loaded or run.
            TargetUnavailable: Where the target does not answer.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming | None:
        """Time how long a candidate takes to be opened against the reference, interleaved; None where it cannot tell.

        Args:
            reference_path: The file that all candidates are compared with.
            candidate_path: The file to open.
            settings: When to stop, and how long a block lasts.

        Raises:
            CandidateFailure: Stage ``load``, where the candidate's file cannot be opened.
            KaruiError: Where the reference cannot be opened, or the target is at fault.
        """

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return by how many bytes a fresh process grows at most while it opens a file.

        Args:
            path: The file to open.

        Returns:
            Bytes of resident memory, positive; None where the target cannot tell.

        Raises:
            CandidateFailure: Stage ``load``, where the file cannot be opened.
            KaruiError: Where the target is at fault.
        """

    def conditions(self) -> dict[str, Any]:
        """Return what a latency depends on (machine, provider, threads, versions), JSON types only.

        All of :meth:`fingerprint` is in it.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes this target another one, JSON types only: what was measured before counts no more then.

        Settings of target and machine (runtime, its version, provider, threads, processor, governor), and nothing that
        changes by itself (temperature, frequency, load) or is but a name.
        """

    def close(self) -> None:
        """Let go of what is open, such as a connection; what is measured next opens it again."""


@runtime_checkable
class MeasuresMemory(Protocol):
    """A target that can tell how much memory a file takes while it runs."""

    def session_peak_bytes(self, path: Path, inputs: NDArray[Any]) -> int | None:
        """Return by how many bytes a fresh process grows at most while it opens a file and runs it.

        Args:
            path: The file.
            inputs: One batch, shape (batch, *input_shape).

        Returns:
            Bytes of resident memory, positive; None where the target cannot tell.

        Raises:
            CandidateFailure: Stage ``load``, where the file cannot be opened or run.
            KaruiError: Where the target is at fault.
        """


@runtime_checkable
class MeasuresEnergy(Protocol):
    """A target that can tell how much energy an inference takes."""

    def energy_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairEnergy | None:
        """Meter a candidate beside the reference, interleaved, within one process of the target.

        Args:
            reference_path: The file that all candidates are compared with.
            candidate_path: The file to meter.
            inputs: One batch, shape (batch, *input_shape).
            settings: Its ``max_seconds`` holds.

        Returns:
            None where the target exposes no energy.

        Raises:
            CandidateFailure: Stage ``latency``, where the candidate's file cannot be loaded or run.
            KaruiError: Where the reference cannot be run, or the target is at fault.
        """

    def close(self) -> None:
        """Let go of what is open; the next measurement opens it again."""


TARGETS: Registry[Callable[..., Target]] = Registry(
    "karui.targets",
    {
        "local": "karui.evaluators.targets.local:LocalTarget",
        "ssh": "karui.evaluators.targets.ssh:SshTarget",
        "command": "karui.evaluators.targets.command:CommandTarget",
    },
)
"""Every kind of target, by name: karui's own, then those of other packages; called with its options as keywords.

One that has the attribute ``is_here`` measures on this machine, where nothing else may run meanwhile."""
