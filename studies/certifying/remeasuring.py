"""The front's files loaded afresh and measured again, in a new process wherever that can have the task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...errors import CandidateFailure, KaruiError, TargetUnavailable
from ...evaluators.measurement import Measurement
from ...search.executor import Evaluate, Executor, InProcess
from ...search.objectives import OBJECTIVES, Objective
from ...search.outcome import Ending, Outcome, UnexpectedError
from ...search.record import TrialRecord
from ...spaces.artifact import Artifact, file_digest
from ..measuring.workbench import Workbench
from ..workers.pool import Workers
from .fresh import Fresh, averaged, undecided

if TYPE_CHECKING:
    from ...search.stopping.pruning_rules import PruningRules
    from ...spaces.candidate import Candidate
    from ..measuring.bench import Bench

ROUNDS = 2
"""How often the latency of a file is measured once more at most, where it decides who belongs to the front."""

Earlier = Mapping[str, Sequence[Mapping[str, Measurement]]]
"""Measurements of latency by name, in the order in which they were made, by the digests of the files."""

NOTHING_EARLIER: Earlier = MappingProxyType({})


_TRIES = 3
"""How often a file is tried that meets an error which is not its own, each time in a new process."""


def _no_end() -> float:
    return math.inf


@dataclass(frozen=True)
class MeasuredAgain:
    """What came of measuring again.

    Args:
        found: What could be measured, in the order in which it was asked for.
        lost: Why the others could not, by the number of the trial.
        late: The trials for whose files no time was left.
        same_process: Why that was in the search's own process; empty where it was in a new one.
    """

    found: tuple[Fresh, ...]
    lost: Mapping[int, str]
    same_process: str = ""
    late: tuple[int, ...] = ()


class Remeasure:
    """Measures a file that is there already: latency, load and test accuracy; asked again, its latency only.

    Which rows of validation it gets right is found out where another machine measured it, or an earlier version.

    It is an :class:`~karui.search.outcome.Evaluate` that makes nothing.

    Args:
        bench: Measures.
        artifacts: The files, by the keys of their candidates.
    """

    def __init__(self, bench: Bench, artifacts: Mapping[str, Artifact]) -> None:
        self._bench = bench
        self._artifacts = artifacts
        self._measured: set[str] = set()

    def __call__(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:  # noqa: ARG002
        """Measure the file of a candidate.

        Raises:
            CandidateFailure: Where it cannot be measured, or is not the one that it was.
        """
        artifact, bench = self._artifacts[candidate.key], self._bench
        if (digest := file_digest(artifact.path)) != artifact.digest:
            raise CandidateFailure("load", f"{artifact.path.name} was changed meanwhile, its sha256 is {digest}")
        evaluators = [bench.test_latency]
        if candidate.key not in self._measured:
            evaluators += [each for each in (bench.load, *bench.limited) if each not in evaluators]
            evaluators.append(bench.test_accuracy)
        with bench.lock.working():
            found: dict[str, Measurement] = {}
            for evaluator in evaluators:
                bench.reach(evaluator.name)
                found |= {item.name: item for item in evaluator.measure(artifact)}
            bench.complete_rows(artifact)
        self._measured.add(candidate.key)
        return Outcome(found, artifact.digest)


@dataclass(frozen=True)
class FreshProcess:
    """Sets up, in a new process, what measures again; see :data:`karui.studies.workers.process.Factory`.

    Args:
        workbench: Of the study.
        artifacts: The files, by the keys of their candidates.
    """

    workbench: Workbench
    artifacts: Mapping[str, Artifact]

    def __call__(self, announce: Callable[[str], None]) -> Evaluate:
        """Load the task and set the bench up.

        Raises:
            KaruiError: Where the task cannot be loaded any more.
        """
        return Remeasure(self.workbench.open(announce), self.artifacts)


def measure_again(
    wanted: Sequence[tuple[TrialRecord, Artifact]],
    bench: Bench,
    workbench: Workbench,
    happened: Callable[..., None],
    objectives: tuple[Objective, ...] = OBJECTIVES,
    earlier: Earlier = NOTHING_EARLIER,
    left: Callable[[], float] = _no_end,
) -> MeasuredAgain:
    """Measure files again, in a new process where that is possible.

    It is not where the task is an object that was given to a search without worker processes. Where a search without
    worker processes cannot have a new one (no memory for a second, say), its own does as well.

    Args:
        wanted: The trials and their files.
        bench: Of this process.
        workbench: What a new process sets its own bench up from.
        happened: Is told of errors that nobody expected; see :class:`~karui.search.record.Listener`.
        objectives: Those of the study.
        earlier: Latencies that were measured again while the search ran.
        left: Returns how many seconds there are.

    Raises:
        TargetUnavailable: Where a target does not answer.
        KaruiError: Where the target or the task is at fault.
    """
    spec, artifacts = workbench.spec, {record.key: artifact for record, artifact in wanted}
    reason = "the task is an object, given to a search without worker processes" if workbench.task else ""
    if spec.workers or not reason:
        try:
            factory, output = FreshProcess(workbench, artifacts), workbench.folder.worker_output
            with closing(Workers(1, factory, candidate_seconds=60 * spec.candidate_minutes, output=output)) as executor:
                return measure_with(executor, wanted, happened, objectives, earlier, left)
        except KaruiError as error:
            if spec.workers or isinstance(error, TargetUnavailable):
                raise
            reason = f"a new process could not be had: {error.what}"
    here = InProcess(Remeasure(bench, artifacts))
    return replace(measure_with(here, wanted, happened, objectives, earlier, left), same_process=reason)


def measure_with(
    executor: Executor,
    wanted: Sequence[tuple[TrialRecord, Artifact]],
    happened: Callable[..., None],
    objectives: tuple[Objective, ...] = OBJECTIVES,
    earlier: Earlier = NOTHING_EARLIER,
    left: Callable[[], float] = _no_end,
) -> MeasuredAgain:
    """Have files measured, and once more the latencies that decide who belongs to the front.

    Repeated latencies are averaged (:func:`~karui.evaluators.timing.repeated.average`). What the search itself
    measured does not count: it is by being low that a latency came to the front, and it would be too low on average.

    Where time runs out, latencies are not measured once more, and then the last files not at all; but one always is.

    Args:
        executor: Measures a candidate's file; see :class:`Remeasure`.
        wanted: The trials and their files.
        happened: As for :func:`measure_again`.
        objectives: Those of the study.
        earlier: As for :func:`measure_again`.
        left: As for :func:`measure_again`.
    """
    pace = _Pace(left)

    def measured() -> list[Fresh]:
        done = [(record, file) for record, file in wanted if record.number in taken]
        return [
            averaged(record, file, taken[record.number], earlier.get(file.digest, ()), objectives)
            for record, file in done
        ]

    taken: dict[int, list[Outcome]] = {}
    lost: dict[int, str] = {}
    late: list[int] = []
    for record, _ in wanted:
        if taken and not pace.allows(again=False):
            late.append(record.number)
            continue
        with pace.timed(again=False):
            result = _answer(executor, record)
        if isinstance(result, Outcome):
            taken[record.number] = [result]
            continue
        lost[record.number] = result.reason
        if isinstance(result, UnexpectedError):
            happened("unexpected error", trial=record.number, traceback=result.traceback)

    for _ in range(ROUNDS):
        for one in undecided(measured()):
            if not pace.allows(again=True):
                break
            with pace.timed(again=True):
                result = _answer(executor, one.record)
            if isinstance(result, Outcome):  # what fails now has been measured before
                taken[one.record.number].append(result)
    return MeasuredAgain(tuple(measured()), lost, late=tuple(late))


class _Pace:
    """Knows how long a file takes, the first time and once more; a new process makes the very first one the longest."""

    def __init__(self, left: Callable[[], float]) -> None:
        self._left = left
        self._seconds: dict[bool, list[float]] = {False: [], True: []}

    @contextmanager
    def timed(self, *, again: bool) -> Iterator[None]:
        before = self._left()
        yield
        if math.isfinite(before):
            self._seconds[again].append(before - self._left())

    def allows(self, *, again: bool) -> bool:
        """Say whether there is time for one more file."""
        known = self._seconds[again] or self._seconds[False]
        usual = max(known[1:] or known, default=0.0)
        return self._left() >= usual


def _answer(executor: Executor, record: TrialRecord) -> Ending:
    if record.candidate is None:
        raise ValueError(f"trial {record.number} has no candidate")
    tries = 0
    while True:
        tries += 1
        result = executor.run(record.number, record.candidate)
        if isinstance(result, TargetUnavailable):  # no file's fault: the same command measures it later
            raise result
        if not isinstance(result, UnexpectedError) or tries == _TRIES:
            return result
