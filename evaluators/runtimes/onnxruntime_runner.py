"""Opening and running a file with onnxruntime, where a failure of the file is told from a fault of karui."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import (
    onnxruntime_pybind11_state as _runtime_state,
)

from ...errors import CandidateFailure, KaruiError
from ...spaces.data.named import Named, feeds_of

CPU_PROVIDER = "CPUExecutionProvider"

# onnxruntime's exceptions share no base class, and which of them exist depends on its version. NoSuchFile is left
# out on purpose: a file that karui made and that is gone is no fault of the candidate.
_RUNTIME_ERROR_NAMES = (
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelRequiresCompilation",
    "NoModel",
    "NotImplemented",
    "RuntimeException",
)
RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(_runtime_state, name) for name in _RUNTIME_ERROR_NAMES if hasattr(_runtime_state, name)
)
"""What onnxruntime raises where a file cannot be loaded or run."""


def check_names(names: Sequence[str], batch: Any, stage: str) -> None:
    """Check that a batch holds what a file takes.

    Args:
        names: Of the file's inputs.
        batch: An array, or named ones.
        stage: Stage under which a failure is recorded.

    Raises:
        CandidateFailure: Where an input is missing, or one array is given for several inputs.
    """
    given = batch.names if isinstance(batch, Named) else names[:1]
    if missing := [name for name in names if name not in given]:
        raise CandidateFailure(stage, f"the file takes {', '.join(names)}; nothing was given for {', '.join(missing)}")


def check_provider(provider: str) -> None:
    """Check that this installation of onnxruntime has the execution provider.

    Raises:
        KaruiError: Where it has not, naming those that it has.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise KaruiError(
            "onnxruntime has no such execution provider",
            where="provider",
            expected=f"one of {', '.join(available)}",
            got=provider,
            remedy="name an available provider, or install the build of onnxruntime that has it",
        )


class Runner:
    """One file opened.

    Args:
        path: The ONNX file.
        stage: Stage under which a failure of the file is recorded.
        provider: Execution provider.
        threads: Threads within an operator; 0 lets onnxruntime take every core.
        profile: With which path the file begins that a profile is written to; None for no profile.

    Raises:
        CandidateFailure: Where the file cannot be loaded.
        KaruiError: Where the provider is not available or cannot be started.
    """

    def __init__(
        self, path: Path, *, stage: str, provider: str = CPU_PROVIDER, threads: int = 1, profile: Path | None = None
    ) -> None:
        check_provider(provider)
        self._stage = stage
        self._session = self._open(path, provider, _session_options(threads, profile))
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input_names = tuple(each.name for each in inputs)
        self._output_names = [each.name for each in outputs]
        batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
        self.fixed_batch_size: int | None = batch if isinstance(batch, int) else None
        """The only batch size that the file accepts, or None where it takes any."""

    def run(self, batch: Any) -> Any:
        """Return the output for one batch of inputs; see :class:`~karui.evaluators.runtimes.runtime.OpenedFile`.

        Raises:
            CandidateFailure: Where onnxruntime cannot run the file on this batch.
        """
        check_names(self._input_names, batch, self._stage)
        try:
            outputs = self._session.run(self._output_names, feeds_of(self._input_names, batch))
        except RUNTIME_ERRORS as error:
            raise CandidateFailure(self._stage, f"onnxruntime cannot run the file: {error}") from error
        return outputs[0] if len(outputs) == 1 else Named(dict(zip(self._output_names, outputs)))  # noqa: B905

    def end_profile(self) -> Path:
        """Return the file that the profile of all runs so far was written to."""
        return Path(self._session.end_profiling())

    def _open(self, path: Path, provider: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        try:
            session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=_with_cpu(provider))
        except RUNTIME_ERRORS as error:
            raise CandidateFailure(self._stage, f"onnxruntime cannot load the file: {error}") from error
        # Where a provider cannot start, onnxruntime goes on with the CPU and says so only in its log.
        if session.get_providers()[0] != provider:
            raise KaruiError(
                "the execution provider is installed but could not be started",
                where="provider",
                expected=provider,
                got=", ".join(session.get_providers()),
                remedy="check the driver and the libraries that the provider needs",
            )
        session.disable_fallback()
        return session


def _session_options(threads: int, profile: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Idle threads of one session would otherwise spin into the other session's block; within a run they spin as
    # they do once deployed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A failure travels as an exception with its reason; the log would repeat it on the terminal.
    options.log_severity_level = 4
    return options


def _with_cpu(provider: str) -> Sequence[str]:
    return [provider] if provider == CPU_PROVIDER else [provider, CPU_PROVIDER]
