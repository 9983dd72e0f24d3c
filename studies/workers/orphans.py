"""No process outlives the search that started it: seen to by the kernel, and by a guardian that needs nobody's help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

_LOOKS_EVERY_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End this process, and those that it will start, soon after its parent has ended, however that ended.

    Also where a thread of this process holds the interpreter's lock and never lets go. To be called first of all,
    before there are threads: it forks.

    Args:
        parent: Process number of the parent; without it nobody needs this process.
    """
    worker = os.getpid()
    if not hasattr(os, "fork"):
        threading.Thread(target=_watch_from_within, args=(parent,), daemon=True).start()
        return
    if not os.fork():
        _guard(worker, parent)
    if sys.platform == "linux":
        # Sent when the thread ends that has started this process: the search's own, which waits for the answers.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        _end_group(worker)


def _guard(worker: int, parent: int) -> None:
    """Wait until the worker or its parent has ended, and then end all that the worker has started; never return."""
    try:
        for number in range(3):  # the worker's streams: whoever reads them is to see when the worker has ended
            with contextlib.suppress(OSError):
                os.close(number)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # these are for the worker, which may end; then this does
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        while os.getppid() == worker and _is_there(parent):
            time.sleep(_LOOKS_EVERY_SECONDS)
        _end_group(worker)
    finally:
        os._exit(1)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watch_from_within(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOKS_EVERY_SECONDS)
    os._exit(1)


def _end_group(worker: int) -> None:
    """End all processes of this group, where it is the worker's own; this one is among them."""
    if os.getpgrp() == worker:
        os.killpg(worker, signal.SIGKILL)
    os._exit(1)
