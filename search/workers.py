"""Worker processes: whatever one candidate does to its process, the search goes on.

A worker is a fresh Python interpreter (never a fork: torch's and onnxruntime's threads do not survive one), started
when it is first needed. Not by multiprocessing, which would run the user's own script a second time in every worker.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CandidateFailure, CandidateStopped, KaruiError
from ..spaces.candidate import Candidate
from .crew import Event, Reached
from .gates import Gates
from .outcome import Result, UnexpectedError
from .worker import Worker
from .worker_process import DONE, FAILED, READY, STAGE, STOP, STOPPED, UNEXPECTED, WAITS, Factory

STARTS = 3
"""How often in a row workers may die while they start before the search gives up."""


class Workers:
    """A crew of worker processes.

    A worker that dies, or takes longer for a candidate than it may, costs that candidate only
    (:class:`~karui.search.outcome.WorkerLost`); another one takes its place when it is needed. So it does after an
    error that is not the candidate's, since a broken accelerator is whole only for a new process.

    Args:
        size: How many processes.
        factory: Makes, within each process, what evaluates candidates; it is pickled.
        candidate_seconds: Longest time for one candidate, and for the start of a worker; as many times as long for a
            candidate that is trained for so many times the epochs.
        output: File to which workers append what they print; where this process prints, where left out.

    Raises:
        KaruiError: Where the factory cannot be pickled.
    """

    def __init__(self, size: int, factory: Factory, *, candidate_seconds: float, output: Path | None = None) -> None:
        self._size = size
        self._factory = _pickled(factory)
        self._seconds = candidate_seconds
        self._output = output
        self._inbox: queue.Queue[tuple[Worker, Any]] = queue.Queue()
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self._error: KaruiError | None = None

    @property
    def size(self) -> int:
        """How many processes there may be."""
        return self._size

    def submit(self, ticket: int, candidate: Candidate, gates: Gates | None = None) -> None:
        """Begin a candidate in a worker that has nothing to do, or in a new one."""
        idle = next((worker for worker in self._workers if worker.ticket is None), None)
        worker = idle or self._start()
        worker.begin(ticket, candidate, gates, self._seconds_for(candidate))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has happened as soon as anything has, or nothing after so many seconds.

        Raises:
            KaruiError: Where a candidate or a starting worker raises it, or workers keep dying while they start.
        """
        end = time.monotonic() + seconds
        events: list[Event] = []
        while not events:
            if self._error is not None:
                raise self._error
            events += self._stop_overdue()
            now = time.monotonic()
            if events or now >= end:
                break
            first = min([end, *(worker.deadline for worker in self._workers if worker.ticket is not None)])
            with contextlib.suppress(queue.Empty):
                events += self._take(*self._inbox.get(timeout=max(0.0, first - now)))
        while not self._inbox.empty():
            events += self._take(*self._inbox.get())
        return events

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _seconds_for(self, candidate: Candidate | None) -> float:
        return self._seconds * (candidate.epochs_factor if candidate else 1)

    def _start(self) -> Worker:
        worker = Worker(self._factory, self._inbox, self._output)
        self._workers.append(worker)
        return worker

    def _stop_overdue(self) -> list[Event]:
        events: list[Event] = []
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.ticket is not None and now >= worker.deadline]:
            minutes = f"{self._seconds_for(worker.candidate) / 60:g} minutes"
            worker.kill()
            self._workers.remove(worker)
            if not worker.ready:
                self._error = KaruiError(
                    "a worker process has not begun in time", expected=f"a task that loads within {minutes}"
                )
                continue
            events.append(worker.lost(f"not done within {minutes}, so its worker process was stopped"))
        return events

    def _take(self, worker: Worker, message: Any) -> list[Event]:
        if worker not in self._workers:
            return []  # it was stopped; what it said before no longer counts
        if message is None:
            return self._bury(worker)
        kind, *content = message
        if kind == READY:
            worker.ready, self._failed_starts = True, 0
            worker.deadline = time.monotonic() + self._seconds_for(worker.candidate)
            return []
        if kind == STOP:
            self._error = self._error or content[0]
            worker.ticket = None
            return []
        if kind == STAGE:
            worker.stage = content[0]
            return [Reached(worker.ticket, worker.stage)] if worker.ticket is not None else []
        if kind == UNEXPECTED:  # whatever state that has left the process in, the next candidate has a new one
            self._workers.remove(worker)
            worker.kill()
        return [worker.answer(_RESULTS[kind](*content))]

    def _bury(self, worker: Worker) -> list[Event]:
        """See to a worker that has died by itself."""
        self._workers.remove(worker)
        how = worker.kill()
        if worker.ticket is None:
            return []
        if worker.ready:
            if worker.ended_by_signal_from_outside:
                return [worker.answer(UnexpectedError(worker.stage, f"its worker process {how}", "", "signal"))]
            return [worker.lost(f"its worker process {how}")]
        self._failed_starts += 1
        if self._failed_starts < STARTS:
            seconds = self._seconds_for(worker.candidate)
            self._start().begin(worker.ticket, worker.candidate, worker.gates, seconds)
        else:
            self._error = KaruiError(
                f"worker processes die while they start, {STARTS} in a row",
                where=None if self._output is None else str(self._output),
                got=f"the last one {how}",
                remedy="load the task by itself in Python to see why, or give workers = 0 to run without processes",
            )
        return []


_RESULTS: dict[str, Callable[..., Result]] = {
    DONE: lambda outcome: outcome,
    FAILED: CandidateFailure,
    STOPPED: CandidateStopped,
    UNEXPECTED: lambda error: error,
    WAITS: lambda error: error,
}


def _pickled(factory: Factory) -> bytes:
    try:
        return pickle.dumps(factory)
    except Exception as error:  # whatever an object's own way of being pickled raises
        raise KaruiError(
            "what the worker processes are to run cannot be handed to them",
            expected="functions and classes that lie in a module, and data that can be pickled",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            remedy="name the task in the study as file.py:function, or run without processes (workers=0)",
        ) from error
