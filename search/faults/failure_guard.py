"""Errors that are no candidate's: told from their own, who is tried again, and when to stop."""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import KaruiError, describe_error
from ...spaces.building.recipe import RECOVERY, training_names
from ..outcome import FaultKind, Outcome, UnexpectedError

_MACHINE_ERRNOS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ESTALE, errno.ENODEV)
)

_SAYING: tuple[tuple[FaultKind, tuple[str, ...]], ...] = (
    # Before what is said of the accelerator: "CUDA error: out of memory" leaves it usable.
    (
        "memory",
        (
            "out of memory",
            "outofmemory",
            "cannot allocate memory",
            "can't allocate memory",
            "not enough memory",
            "failed to allocate memory",
            "alloc_failed",
            "bad_alloc",
            "bad allocation",
        ),
    ),
    (
        "accelerator",
        (
            "acceleratorerror",
            "cuda error",
            "cuda failure",
            "cuda driver error",
            "cuda runtime error",
            "cudart_error",
            "cuda initialization",
            "cuda-capable device",
            "no cuda gpus",
            "cudnn error",
            "cudnn_status",
            "cudnn failure",
            "cublas_status",
            "cublas failure",
            "cublas error",
            "cufft_",
            "cusolver error",
            "cusparse_status",
            "nccl error",
            "hip error",
            "hip failure",
            "miopen error",
            "rocblas",
            "unspecified launch failure",
            "illegal memory access",
            "device-side assert",
            "fell off the bus",
            "mps backend",
            "tensorrt ep failed",
        ),
    ),
    ("machine", ("no space left on device", "too many open files", "input/output error", "disk quota exceeded")),
)


def machine_fault(error: BaseException) -> FaultKind | None:
    """Return what of the machine an exception, or one that it came of, is an error of; None where of nothing.

    Libraries raise plain RuntimeErrors for much of this, so that what they say has to tell; a candidate of whom it
    tells wrongly is tried again some times before it is given up, and that is all.
    """
    for each in _chain(error):
        if (kind := _kind_of(each)) is not None:
            return kind
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: BaseException | None = error
    while waiting is not None and id(waiting) not in seen:
        seen.add(id(waiting))
        yield waiting
        waiting = waiting.__cause__ or (None if waiting.__suppress_context__ else waiting.__context__)


def _kind_of(error: BaseException) -> FaultKind | None:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        return "machine"
    # torch.OutOfMemoryError and torch.AcceleratorError by their names: a search never loads torch.
    said = f"{' '.join(each.__name__ for each in type(error).__mro__)} {describe_error(error)}".lower()
    return next((kind for kind, marks in _SAYING if any(mark in said for mark in marks)), None)


IN_A_ROW = 3
"""So many identical errors, without a candidate between them that came through where they happened, stop a search."""

OF_ANY_KIND_IN_A_ROW = 6
"""Likewise errors that differ from each other."""

TRIES = 3
"""So often a candidate is tried that alone meets an error, while others come through, before the error is its own."""

TRIES_AFTER_SIGNALS = 10
"""Likewise where somebody ends its worker process from outside, which says little about the candidate."""

_REMEDIES: dict[FaultKind, str] = {
    "memory": "see what else uses the memory, then give fewer --workers, a smaller batch_size in [recovery], or "
    'device = "cpu" there',
    "accelerator": "see that the accelerator and its driver work (a reset or a restart may help), who else uses it, "
    'or give device = "cpu" in [recovery]',
    "machine": "make room on the disk, or raise the limit that the error names",
    "signal": "see what sends signals to karui's worker processes (a scheduler, a service manager, a memory watcher)",
    "bug": "log.jsonl in the results folder has the whole traceback: mend it where it is your task's, else report it",
}
_GOES_ON = "the same command goes on then, and tries the candidates again that met it"


@dataclass
class FailureGuard:
    """Decides what becomes of candidates that met an error which is not their own, as far as can be told.

    Each is tried again, but not before another candidate has come through where it failed, or nothing else is left to
    do: an error that all meet is told from one candidate's own by that, and soon.
    """

    _row: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list), init=False)
    """By error, the candidates that met it since one came through."""
    _stage: dict[str, str] = field(default_factory=dict, init=False)
    _tries: dict[str, int] = field(default_factory=lambda: defaultdict(int), init=False)
    _passed: bool = field(default=False, init=False)
    _trained: bool = field(default=False, init=False)
    _held: dict[str, str] = field(default_factory=dict, init=False)
    _of_any_kind: int = field(default=0, init=False)

    def came_through(self, key: str, outcome: Outcome) -> None:
        """Take in that a candidate was measured."""
        trainings = training_names()
        trained = not outcome.stages or any(each.stage in trainings and not each.cached for each in outcome.stages)
        self._passed, self._trained = True, self._trained or trained
        self._of_any_kind = 0
        self.forget(key)
        for error in [error for error in self._row if trained or self._stage[error] not in trainings]:
            self._row[error].clear()

    def forget(self, key: str) -> None:
        """Have nothing more to do with a candidate."""
        self._tries.pop(key, None)
        self._held.pop(key, None)

    def note(self, key: str, error: UnexpectedError) -> bool:
        """Take in an error; return whether its candidate is to be tried again, else the error is its own.

        Args:
            key: Of the candidate.
            error: What it met.

        Raises:
            KaruiError: Where going on would only repeat the same error all night.
        """
        same = _signature(error)
        row = self._row[same]
        row.append(key)
        self._stage[same] = error.stage
        self._tries[key] += 1
        self._of_any_kind += 1
        others_pass = self._trained if error.stage in training_names() else self._passed
        is_alone = set(row) == {key}
        limit = TRIES_AFTER_SIGNALS if error.kind == "signal" else TRIES
        if is_alone and others_pass:
            if self._tries[key] >= limit:
                row.clear()
                self.forget(key)
                return False
        elif len(row) >= IN_A_ROW or self._of_any_kind >= OF_ANY_KIND_IN_A_ROW:
            raise stopped_by(error, len(row))
        self._held[key] = same
        return True

    def may_be_tried(self, key: str) -> bool:
        """Say whether another candidate has come through since where this one met its error."""
        return not self._row[self._held[key]] if key in self._held else True


def stopped_by(error: UnexpectedError, times: int) -> KaruiError:
    """Return the error with which a search stops that meets one again and again that is no candidate's."""
    often = f"{times} times in a row" if times > 1 else "once"
    return KaruiError(
        f"an error that is no candidate's came {often}",
        where=f"stage {error.stage}",
        got=error.reason,
        remedy=f"{_REMEDIES[error.kind]}; {_GOES_ON}",
    )


def _signature(error: UnexpectedError) -> str:
    """Return what identical errors have in common; what a machine lacks is the same at whatever size or address."""
    if error.kind in ("memory", "accelerator", "signal"):
        training = RECOVERY if error.stage in training_names() else ""
        return f"{error.kind} {training}"
    return f"{error.kind} {error.stage} {re.sub(r'0x[0-9a-f]+|[0-9]+', '#', error.reason)}"
