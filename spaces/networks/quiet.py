"""Silence around what libraries print while they trace a network, from wherever they print it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

import torch

_LOGGERS = ("torch.onnx",)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing of what this thread does meanwhile reach the terminal; what goes wrong is told by exceptions.

    That holds for what is written by Python, and for what C++ writes to the process' own outputs. What other threads
    print by Python in the meantime is printed as ever; their warnings are not shown.
    """
    _SILENCE.begin()
    try:
        yield
    finally:
        _SILENCE.end()


class _Silence:
    """What is silent in the process: shared, because outputs and filters of warnings are the process' own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: Counter[int] = Counter()
        self._held = contextlib.ExitStack()

    def begin(self) -> None:
        with self._lock:
            if not self._threads:
                self._held = self._all_silenced()
            self._threads[threading.get_ident()] += 1

    def end(self) -> None:
        with self._lock:
            self._threads[threading.get_ident()] -= 1
            self._threads += Counter()  # drops what is zero
            if not self._threads:
                self._held.close()

    def is_silent(self) -> bool:
        """Say whether the calling thread is."""
        return threading.get_ident() in self._threads

    def _all_silenced(self) -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for name in _LOGGERS:
                logger = logging.getLogger(name)
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL)
            # on an operator that it does not know the exporter prints the whole graph
            stack.callback(setattr, torch._C, "_jit_onnx_log", torch._C._jit_onnx_log)
            torch._C._jit_onnx_log = lambda *_: None
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                self._silence_output(descriptor, name, stack)
            return stack.pop_all()

    def _silence_output(self, descriptor: int, name: str, stack: contextlib.ExitStack) -> None:
        stream: TextIO | None = getattr(sys, name)
        _flush(stream)
        try:
            kept = os.dup(descriptor)
        except OSError:  # a process without that output
            kept = None
        passing = stream
        if kept is not None:
            stack.callback(os.close, kept)
            if stream is not None and _descriptor_of(stream) == descriptor:
                passing = os.fdopen(kept, "w", 1, stream.encoding, stream.errors, closefd=False)
                stack.callback(passing.close)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            if descriptor == 2 and faulthandler.is_enabled():
                # what a crash says is no noise
                faulthandler.enable(kept)
                stack.callback(faulthandler.enable, descriptor)
            stack.callback(os.dup2, kept, descriptor)
            stack.callback(_flush, None)
        if stream is not None:
            setattr(sys, name, _Passing(stream, passing, self))
            stack.callback(setattr, sys, name, stream)


class _Passing:
    """Stands for an output: what silent threads write is dropped, what others write goes on."""

    def __init__(self, stream: TextIO, passing: TextIO | None, silence: _Silence) -> None:
        self._stream, self._passing, self._silence = stream, passing, silence

    def write(self, text: str) -> int:
        if self._passing is not None and not self._silence.is_silent():
            self._passing.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._passing is not None:
            self._passing.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_SILENCE = _Silence()


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _flush(stream: TextIO | None) -> None:
    """Write out what Python's stream and C's still hold, so that it goes where it was meant to."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)
