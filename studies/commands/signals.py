"""What ends a search from outside, made to end it as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_NAMES = ("SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """A scheduler, a service manager, ``kill`` or the end of a terminal wants this process to end.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What a shell makes of a process that such a signal has ended."""
        return 128 + self.number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise :class:`Terminated`; once, so that nothing keeps the ending from its end.

    What is ignored already stays so, as under ``nohup``.
    """
    kept, terminals = {}, _terminals()  # of one that is gone nobody can tell that it was one
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        kept = {number: signal.getsignal(number) for number in numbers}
        kept = {number: handler for number, handler in kept.items() if handler is signal.SIG_DFL}

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in kept:
            signal.signal(each, signal.SIG_IGN)
        if number != signal.SIGTERM:
            _leave(terminals)
        raise Terminated(number)

    for number in kept:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in kept:
            signal.signal(number, signal.SIG_DFL)


def _terminals() -> list[int]:
    """Return those of the standard streams that are a terminal."""
    found = []
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none
            if stream.isatty():
                found.append(stream.fileno())
    return found


def _leave(terminals: list[int]) -> None:
    """Write no more to a terminal that is gone, which would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in terminals:
        os.dup2(nowhere, number)
    os.close(nowhere)
