"""What a device does while this machine trains: it measures those files again of whom noise leaves the front open.

Only where all targets are other devices. What is measured on this machine has it for itself, so that measuring again
would keep workers from training: nothing stands idle there before the search is over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import CandidateFailure, TargetUnavailable
from ...evaluators.measurement import Measurement
from ...evaluators.timing.repeated import average
from ...search.objectives import OBJECTIVES, Objective
from ...search.record import TrialRecord
from ...search.statistics.noise import Differences
from ...spaces.artifact import Artifact, file_digest
from ..results.tables import edge_records, front_records
from .fresh import Fresh, undecided

if TYPE_CHECKING:
    from ..measuring.bench import Bench

MOST_TIMES = 3
"""How often a file is measured again while a search runs at most; at its end it is measured once more in any case."""

AFTER_GONE_SECONDS = 60.0
"""A device that did not answer is left alone for so long, or for as long as its error says where that is longer."""

AFTER_BUSY_SECONDS = 5.0
"""One on which somebody else was measuring stands idle no sooner than after this."""

Latencies = Mapping[str, Measurement]
"""What one measurement of a file's latency comes to, by name."""


class _Waits(Exception):
    """Raised in place of waiting: for a device that somebody else measures on, or that does not answer."""


class IdleMeasuring:
    """Measures, at each call, one file once more: the one of whom noise leaves it most open whether it is on the front.

    What a search measured itself was low where its file came to the front, and so is known too well on average. Its
    place is taken by what is measured here, as soon as there is any.

    Args:
        records: Returns all trials.
        bench: Of the search's own process; its workers have their own.
        happened: Is told of each measurement; see :class:`~karui.search.record.Listener`.
        clock: Seconds that only grow.
        objectives: Those of the study.
        differences: How well differences of files are known; values count as independent without it.
    """

    def __init__(
        self,
        records: Callable[[], Sequence[TrialRecord]],
        bench: Bench,
        happened: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        objectives: tuple[Objective, ...] = OBJECTIVES,
        differences: Differences | None = None,
    ) -> None:
        self.taken: dict[str, list[Latencies]] = {}
        """What was measured, by the digest of the file, in the order in which it was."""
        self._records = records
        self._bench = bench
        self._happened = happened
        self._clock = clock
        self._objectives = objectives
        self._differences = differences
        self._not_before = -math.inf
        self._files: dict[str, Artifact | None] = {}
        self._cannot: set[str] = set()
        self._known = (0, 0)
        self._open: list[Fresh] = []

    def __call__(self) -> bool:
        """Measure one file, and say whether that was done; see :class:`~karui.search.loop.SearchLoop`.

        It waits for nothing: where the device is in use or does not answer, nothing is done for a while.
        """
        if self._clock() < self._not_before:
            return False
        one = next(filter(self._may_be_measured, self._undecided()), None)
        if one is None:
            return False
        try:
            self._keep(one, self._measure(one.artifact))
        except CandidateFailure:  # measured at the end it is told why, if it is there still
            self._cannot.add(one.artifact.digest)
        except _Waits:
            self._not_before = self._clock() + AFTER_BUSY_SECONDS
            return False
        except TargetUnavailable as error:
            self._not_before = self._clock() + max(error.retry_seconds, AFTER_GONE_SECONDS)
            return False
        return True

    def _may_be_measured(self, one: Fresh) -> bool:
        digest = one.artifact.digest
        return digest not in self._cannot and len(self.taken.get(digest, ())) < MOST_TIMES

    def _undecided(self) -> list[Fresh]:
        """Return those of whom latency leaves it open whether they belong to the front, the most open first."""
        records = self._records()
        known = (sum(record.outcome is not None for record in records), sum(map(len, self.taken.values())))
        if known != self._known:  # with some hundred trials this takes a second
            self._open, self._known = undecided(self._found(records)), known
        return self._open

    def _found(self, records: Sequence[TrialRecord]) -> list[Fresh]:
        """Return the files of the front and of its edge as they are known now."""
        found = []
        for record in self._candidates(records):
            if record.outcome is None or (artifact := self._file_of(record, record.outcome.digest)) is None:
                continue
            known = record.outcome.measurements
            found.append(Fresh(record, artifact, {**known, **self._mean_of(artifact.digest)}, self._objectives))
        return found

    def _candidates(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        front = front_records(records, self._objectives)
        return [*front, *edge_records(records, objectives=self._objectives, differences=self._differences)]

    def _file_of(self, record: TrialRecord, digest: str) -> Artifact | None:
        """Return the file of a trial where it is at hand; looked for once."""
        if digest not in self._files:
            kept = self._bench.kept_artifact(record)
            self._files[digest] = kept if kept is not None and kept.digest == digest else None
        return self._files[digest]

    def _mean_of(self, digest: str) -> Latencies:
        taken = self.taken.get(digest, ())
        return {name: average([one[name] for one in taken]) for name in taken[0]} if taken else {}

    def _measure(self, artifact: Artifact) -> Latencies:
        if not artifact.path.exists() or file_digest(artifact.path) != artifact.digest:
            raise CandidateFailure("latency", f"{artifact.path.name} was changed meanwhile")
        with self._without_waiting():
            return {item.name: item for item in self._bench.test_latency.measure(artifact)}

    @contextmanager
    def _without_waiting(self) -> Iterator[None]:
        """Let whatever would wait for a device raise instead, and leave nothing open there."""
        told, self._bench.tell = self._bench.tell, _refuse
        try:
            yield
        finally:
            self._bench.tell = told
            self._bench.targets.close()  # workers measure next: nothing of this process stays in a device's memory

    def _keep(self, one: Fresh, found: Latencies) -> None:
        taken = self.taken.setdefault(one.artifact.digest, [])
        taken.append(found)
        latency = found["latency_ms"]
        self._happened(
            "measured again while idle",
            trial=one.record.number,
            latency_ms=latency.value,
            latency_ms_spread=latency.spread,
            times=len(taken),
        )


def _refuse(text: str) -> None:
    raise _Waits(text)
