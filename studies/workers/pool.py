"""Worker processes: whatever one candidate does to its process, the search goes on.

A worker is a fresh Python interpreter (never a fork: torch's and onnxruntime's threads do not survive one), started
when it is first needed. Not by multiprocessing, which would run the user's own script a second time in every worker.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...errors import CandidateFailure, CandidateStopped, KaruiError
from ...search.executor import Closed, tell_nobody
from ...search.outcome import Result, UnexpectedError, WorkerLost
from ...search.stopping.pruning_rules import PruningRules
from ...spaces.candidate import Candidate
from .process import DONE, FAILED, READY, STAGE, STOP, STOPPED, UNEXPECTED, WAITS, Factory
from .worker import Worker

STARTS = 3
"""How often in a row workers may die while they start before the search gives up."""


class Workers:
    """An executor of worker processes, one for each thread that calls it.

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

    is_here = False

    def __init__(self, size: int, factory: Factory, *, candidate_seconds: float, output: Path | None = None) -> None:
        self.on_stage: Callable[[int, str], None] = tell_nobody
        self.size = size
        self._factory = _pickled(factory)
        self._seconds = candidate_seconds
        self._output = output
        # By thread: the system ends a worker with the thread that has started it.
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._is_closed = False

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        """Evaluate a candidate in this thread's worker, and return how that ends.

        Raises:
            KaruiError: Where a candidate or a starting worker raises it, or workers keep dying while they start.
            Closed: Where the workers were ended meanwhile.
        """
        seconds = self._seconds * candidate.epochs_factor
        while True:
            worker = self._worker()
            worker.begin(candidate, gates, seconds)
            result = self._follow(worker, number, seconds)
            if result is not None:
                return result

    def close(self) -> None:
        """End all workers at once."""
        with self._lock:
            self._is_closed = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.kill()

    def _worker(self) -> Worker:
        """Return this thread's worker, a new one where it has none."""
        thread = threading.get_ident()
        with self._lock:
            if self._is_closed:
                raise Closed
            if thread not in self._workers:
                self._workers[thread] = Worker(self._factory, self._output)
            return self._workers[thread]

    def _follow(self, worker: Worker, number: int, seconds: float) -> Result | None:
        """Return how a worker's candidate ends; None where the worker has died before it began."""
        while True:
            try:
                message = worker.inbox.get(timeout=max(0.0, worker.deadline - time.monotonic()))
            except queue.Empty:
                return self._stop_overdue(worker, f"{seconds / 60:g} minutes")
            if message is None:
                return self._bury(worker)
            kind, *content = message
            if kind == READY:
                worker.ready, self._failed_starts = True, 0
                worker.deadline = time.monotonic() + seconds
            elif kind == STAGE:
                worker.stage = content[0]
                self.on_stage(number, worker.stage)
            elif kind == STOP:
                raise content[0]
            else:
                if kind == UNEXPECTED:  # whatever state that has left the process in, the next one has a new one
                    self._end(worker)
                return _RESULTS[kind](*content)

    def _stop_overdue(self, worker: Worker, minutes: str) -> Result:
        self._end(worker)
        if not worker.ready:
            raise KaruiError("a worker process has not begun in time", expected=f"a task that loads within {minutes}")
        return WorkerLost(worker.stage, f"not done within {minutes}, so its worker process was stopped")

    def _bury(self, worker: Worker) -> Result | None:
        """See to a worker that has died by itself."""
        how = self._end(worker)
        if worker.ready:
            if worker.ended_by_signal_from_outside:
                return UnexpectedError(worker.stage, f"its worker process {how}", "", "signal")
            return WorkerLost(worker.stage, f"its worker process {how}")
        self._failed_starts += 1
        if self._failed_starts < STARTS:
            return None
        raise KaruiError(
            f"worker processes die while they start, {STARTS} in a row",
            where=None if self._output is None else str(self._output),
            got=f"the last one {how}",
            remedy="load the task by itself in Python to see why, or give workers = 0 to run without processes",
        )

    def _end(self, worker: Worker) -> str:
        """End a worker, and return how it ended.

        Raises:
            Closed: Where all are being ended.
        """
        how = worker.kill()
        with self._lock:
            self._workers.pop(threading.get_ident(), None)
            if self._is_closed:
                raise Closed
        return how


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
