"""The runtimes that a file can be opened with, behind one protocol; and the registry of those that there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from ...errors import KaruiError
from ...spaces.artifact import USUAL_FORMAT
from .onnxruntime_runner import CPU_PROVIDER, Runner, check_provider
from .openvino_runner import OpenVinoRunner, check_device, openvino_version
from .runtime_registry import RUNTIMES


class OpenedFile(Protocol):
    """A file that a runtime has opened."""

    @property
    def fixed_batch_size(self) -> int | None:
        """The only batch size that the file accepts, or None where it takes any."""

    def run(self, batch: Any) -> Any:
        """Return the output for one batch of inputs.

        Args:
            batch: An array; for a file of several inputs a :class:`~karui.spaces.data.named.Named` of arrays.

        Returns:
            An array; of a file of several outputs named arrays.

        Raises:
            CandidateFailure: Where the runtime cannot run the file on this batch.
        """


class OpensFile(Protocol):
    """How a runtime opens a file."""

    def __call__(self, path: Path, *, stage: str, provider: str, threads: int) -> OpenedFile:
        """Open it.

        Args:
            path: The file, of a format that it reads.
            stage: Stage under which a failure of the file is recorded.
            provider: What runs it: an execution provider or device of the runtime.
            threads: Threads of one inference.

        Raises:
            CandidateFailure: Where the file cannot be loaded.
            KaruiError: Where runtime or provider are not available.
        """


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Args:
        open: Opens a file.
        check: Refuses, by a :class:`~karui.errors.KaruiError`, a provider that is not available.
        version: Returns the version that is installed.
        formats: Names of the formats that it reads, of :data:`~karui.spaces.formats.format.FORMATS`.
    """

    open: OpensFile
    check: Callable[[str], None]
    version: Callable[[], str]
    formats: tuple[str, ...] = (USUAL_FORMAT,)


ONNXRUNTIME = Runtime(Runner, check_provider, lambda: str(onnxruntime.__version__))
OPENVINO = Runtime(OpenVinoRunner, check_device, openvino_version)


def find_runtime(name: str) -> Runtime:
    """Return a runtime by its name.

    Raises:
        KaruiError: Where there is none of that name.
    """
    if name not in RUNTIMES:
        raise KaruiError(
            "there is no such runtime", where="runtime", expected=f"one of {', '.join(RUNTIMES)}", got=name
        )
    return RUNTIMES[name]


def check_reads(name: str, format_name: str, *, where: str = "runtime") -> None:
    """Check that a runtime reads a format.

    Args:
        name: Of the runtime.
        format_name: Of the format.
        where: Where the runtime is named.

    Raises:
        KaruiError: Where it does not, naming the runtimes that do; and where there is no such runtime.
    """
    formats = find_runtime(name).formats
    if format_name not in formats:
        raise KaruiError(
            "the runtime cannot read the files that are made",
            where=where,
            expected=f"one that reads {format_name}: {', '.join(_readers_of(format_name)) or 'none is installed'}",
            got=f"{name}, which reads {', '.join(formats) or 'none'}",
            remedy="name another runtime there",
        )


def _readers_of(format_name: str) -> list[str]:
    return [name for name, runtime in RUNTIMES.all.items() if format_name in runtime.formats]


def works_in_calling_thread(provider: str, threads: int) -> bool:
    """Say whether all the work of an inference is done by the thread that asks for it."""
    return threads == 1 and provider in (CPU_PROVIDER, "CPU")
