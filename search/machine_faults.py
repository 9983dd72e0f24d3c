"""Errors of the machine that candidates only happen to meet, told from their own by what they are and say."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ..errors import describe_error
from .outcome import FaultKind

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
