"""A worker process: makes and measures one candidate after another for the search that started it.

It is started by :mod:`karui.studies.workers.pool` as a fresh interpreter, and speaks with it over its standard streams,
which it takes for itself first: what a task prints goes where errors go.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from ...errors import CandidateFailure, CandidateStopped, KaruiError, TargetUnavailable, describe_error
from ...search.executor import DEFAULT_STAGE, Evaluate, given, unexpected
from ...search.outcome import Outcome
from .orphans import die_with

Factory = Callable[[Callable[[str], None]], Evaluate]
"""Makes what a worker runs, within the worker; is given a function by which to say which stage a candidate is in."""

READY, STAGE, DONE, FAILED, STOPPED, UNEXPECTED = "ready", "stage", "done", "failed", "stopped", "unexpected"
STOP, WAITS = "stop", "waits"
"""The kinds of message that a worker sends."""

_LENGTH = struct.Struct("!Q")


def send(stream: BinaryIO, thing: Any) -> None:
    """Write one message.

    Raises:
        OSError: Where the other side is gone.
    """
    content = pickle.dumps(thing)
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message.

    Raises:
        EOFError: Where the other side is gone.
    """
    return pickle.loads(_read(stream, _LENGTH.unpack(_read(stream, _LENGTH.size))[0]))


def _read(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError("the stream has ended")
    return content


def main(parent: int) -> None:
    """Serve until there is nothing more to do.

    Args:
        parent: Process number of the search; without it nobody needs this process.
    """
    # Ctrl-C reaches every process of a terminal; the search alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
    faulthandler.enable()
    incoming, outgoing = _take_streams()
    with contextlib.suppress(EOFError, OSError):  # the search is gone, or wants no more
        _serve(incoming, outgoing)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):
        # A forked child that outlives this process must not make it seem alive.
        numbers = (incoming.fileno(), outgoing.fileno())
        os.register_at_fork(after_in_child=lambda: _close(numbers))
    return incoming, outgoing


def _close(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        os.close(number)


def _serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    stage = [DEFAULT_STAGE]

    def announce(name: str) -> None:
        stage[0] = name
        send(outgoing, (STAGE, name))

    try:
        factory: Factory = pickle.loads(receive(incoming))
        evaluate = factory(announce)
    except KaruiError as error:
        send(outgoing, (STOP, _portable(error)))
        return
    except Exception as error:
        send(outgoing, (STOP, _broken_start(error)))
        return
    send(outgoing, (READY,))
    while True:
        candidate, gates = receive(incoming)
        stage[0] = DEFAULT_STAGE
        send(outgoing, _answer(evaluate, candidate, gates, stage))


def _answer(evaluate: Evaluate, candidate: Any, gates: Any, stage: list[str]) -> tuple[Any, ...]:
    try:
        outcome: Outcome = evaluate(candidate, *given(gates))
    except CandidateFailure as failure:
        if (fault := unexpected(failure, failure.stage)) is not None:
            return UNEXPECTED, fault
        return FAILED, failure.stage, failure.reason
    except CandidateStopped as stopped:
        return STOPPED, stopped.gate, stopped.reason, stopped.excess
    except TargetUnavailable as error:
        return WAITS, error
    except KaruiError as error:
        return STOP, _portable(error)
    except (Exception, SystemExit) as error:
        return UNEXPECTED, unexpected(error, stage[0])
    return DONE, outcome


def _portable(error: KaruiError) -> KaruiError:
    """Return the error itself where it can be sent, or else one of the plainest kind that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class of the user's own may be made in any way
        return KaruiError(error.what, where=error.where, expected=error.expected, got=error.got, remedy=error.remedy)
    return error


def _broken_start(error: Exception) -> KaruiError:
    traceback.print_exc(file=sys.stderr)
    return KaruiError(
        "a worker process could not begin",
        got=describe_error(error),
        remedy="what the workers need must be importable by name: put the task's classes and functions into a file of "
        "their own, not into the script that is run",
    )
