"""One worker process as the search sees it: started, spoken to, ended."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from ...search.executor import DEFAULT_STAGE
from ...search.stopping.pruning_rules import PruningRules
from ...spaces.candidate import Candidate
from .process import receive, send

_SECONDS_TO_END = 10.0

_FROM_OUTSIDE = {-getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)}
"""How a process ends that gets such a signal, as its return code tells. SIGKILL is the kernel's own answer to memory
that ran out, and so the candidate's."""


class Worker:
    """One process as the search sees it.

    Args:
        factory: Pickled; makes, within the process, what evaluates candidates.
        output: File to which it appends what it prints.

    Attributes:
        inbox: Its messages, and None once it is of no more use.
        ready: Whether it has begun to take candidates.
        stage: Where its candidate is.
        deadline: When the candidate, or the start, has taken too long, by the monotonic clock.
    """

    def __init__(self, factory: bytes, output: Path | None) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.ready = False
        self.stage = DEFAULT_STAGE
        self.deadline = 0.0
        self._process = _launch(output)
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(factory)

    def begin(self, candidate: Candidate, gates: PruningRules | None, seconds: float) -> None:
        """Give it a candidate with its gates, and so many seconds for it."""
        self.stage = DEFAULT_STAGE
        self.deadline = time.monotonic() + seconds
        self._send((candidate, gates))

    @property
    def ended_by_signal_from_outside(self) -> bool:
        """Whether it was ended as a scheduler, a service manager or a person ends processes."""
        return self._process.returncode in _FROM_OUTSIDE

    def kill(self) -> str:
        """End the process and those it has started; return how it ended, in words that follow "the process"."""
        _kill(self._process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel; it ends when that lets go of it
            self._process.wait(_SECONDS_TO_END)
            _reap(self._process.pid)
        with contextlib.suppress(OSError):
            _stream(self._process.stdin).close()
        return _describe_exit(-9 if self._process.returncode is None else self._process.returncode)

    def _send(self, thing: Any) -> None:
        # A process that has died meanwhile is told of by the end of its own stream.
        with contextlib.suppress(OSError):
            send(_stream(self._process.stdin), thing)

    def _listen(self) -> None:
        stream = _stream(self._process.stdout)
        with contextlib.suppress(Exception):  # its end, or anything that makes no sense: it is of no more use
            while True:
                self.inbox.put(receive(stream))
        stream.close()
        # How it ended is known only a moment after its stream has.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        self.inbox.put(None)


def _launch(output: Path | None) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__package__}.process import main; main({os.getpid()})"
    # As the command line does for itself: torch's threads must not spin while they wait for each other.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    with contextlib.ExitStack() as stack:
        errors = None if output is None else stack.enter_context(output.open("ab"))
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            # A group of its own: what it starts can be ended with it.
            process_group=0 if os.name == "posix" else None,
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()


def _reap(group: int) -> None:
    """Take leave of what a worker had started and left to this process, where that stands for init in a container."""
    if os.name == "posix":
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reasons = {
        "SIGKILL": "was killed by SIGKILL, perhaps because memory ran out",
        "SIGSEGV": "ended by SIGSEGV, a segmentation fault in native code",
        "SIGABRT": "ended by SIGABRT, native code gave up",
    }
    return reasons.get(name, f"ended by {name}")


def _stream(stream: Any) -> BinaryIO:
    return stream  # type: ignore[no-any-return]
