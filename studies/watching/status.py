"""What a search is doing right now, read from its storage and its log without being in its way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.trial import TrialState

from ...errors import StudyFileError
from ...search.heartbeat import SILENT_SECONDS, is_here, owner_is_gone
from ...search.objectives import Objective
from ...search.record import TrialRecord, read_record
from ...search.statistics.front import HypervolumeHistory
from ...search.stopping.early_stopping import RuleReport, report_rules
from ..results.read import Results
from ..results.tables import front_records, names_of
from ..storage.storage_errors import explain_storage_errors
from ..storage.store import open_study
from ..storage.stored_objectives import stored_objectives
from ..storage.study_notes import read_baseline
from ..study_file.spec_reading import load_spec
from .log import LogTail


@dataclass(frozen=True)
class Running:
    """A candidate in flight.

    Args:
        trial: Its number.
        stage: Where it is, as far as the log tells.
        summary: What it is.
        seconds: Since it began.
    """

    trial: int
    stage: str
    summary: str
    seconds: float


@dataclass(frozen=True)
class StudyStatus:
    """What a search is doing at one moment.

    Args:
        name: Of the study.
        phase: What takes a while now, or why the search ended.
        is_running: Whether a search is at it.
        counts: How many trials are in each state.
        wanted: How many are wanted in all; None where that is not known.
        running: The candidates in flight.
        front: The front so far.
        objectives: Those of the study.
        baseline: The baseline's value of each; None before they are measured.
        volumes: The hypervolume after each measured trial.
        gates: How each gate did.
        failures: How many failed at each stage, with the latest reason.
        seconds_left: About how long it will take; None where that cannot be told.
    """

    name: str
    phase: str
    is_running: bool
    counts: Mapping[str, int]
    wanted: int | None
    running: tuple[Running, ...]
    front: tuple[TrialRecord, ...]
    objectives: tuple[Objective, ...]
    baseline: tuple[float, ...] | None
    volumes: tuple[float, ...]
    gates: tuple[RuleReport, ...]
    failures: Mapping[str, tuple[int, str]]
    seconds_left: float | None

    @property
    def done(self) -> int:
        """How many trials count towards what is wanted."""
        return self.counts.get("evaluated", 0) + self.counts.get("failed", 0)


class StatusReader:
    """Looks at a study again and again; what has ended is read once.

    Args:
        results: Where the study's results are.
        study: As the user named it, for the time limit that its file may set.

    Raises:
        OutputError: Where the storage holds no such study.
    """

    def __init__(self, results: Results, study: str) -> None:
        self._results = results
        self._study = open_study(results.storage, results.name, create=False)
        self._objectives = stored_objectives(self._study)
        self._log = LogTail(results.folder.log)
        self._ended: dict[int, TrialRecord] = {}
        self._growth: HypervolumeHistory | None = None
        try:
            self._hours = load_spec(study).hours
        except StudyFileError:
            self._hours = None

    def look(self) -> StudyStatus:
        """Return what the search is doing now.

        Raises:
            OutputError: Where the storage cannot be read.
        """
        self._log.look()
        with explain_storage_errors(self._results.storage):
            known = read_baseline(self._study)
            trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended[trial.number] = read_record(trial)
        in_flight = [trial for trial in trials if trial.state == TrialState.RUNNING and "begun" in trial.user_attrs]
        working = [trial for trial in in_flight if not owner_is_gone(trial.user_attrs.get("owner"))]
        records = [self._ended[number] for number in sorted(self._ended)]
        baseline = None
        if known is not None:
            baseline = tuple(known[1][name].value for name in names_of(self._objectives))
        is_running = self._is_running(bool(working))
        return StudyStatus(
            name=self._results.name,
            phase=self._phase(is_running),
            is_running=is_running,
            counts=Counter(record.state for record in records if not record.is_promoted),
            wanted=self._begun[-1].get("trials") if self._begun else None,
            running=tuple(self._running(trial) for trial in working),
            front=tuple(front_records(records, self._objectives)),
            objectives=self._objectives,
            baseline=baseline,
            volumes=self._volumes(records, baseline),
            gates=report_rules(records, self._objectives),
            failures=_failures(records),
            seconds_left=self._seconds_left() if is_running else None,
        )

    @property
    def _begun(self) -> list[dict[str, Any]]:
        return [event for event in self._log.events if event["event"] == "search begun"]

    def _is_running(self, works: bool) -> bool:
        """Say whether a search is there: one works on a candidate, or has begun, not ended, and is still alive."""
        open_searches: dict[Any, dict[str, Any]] = {}
        for event in self._log.events:
            if event["event"] == "search begun":
                open_searches[event.get("pid")] = event
            elif event["event"] == "search ended":
                open_searches.pop(event.get("pid"), None)
        return works or any(self._is_alive(event) for event in open_searches.values())

    def _is_alive(self, begun: Mapping[str, Any]) -> bool:
        if not is_here(begun):
            return _age_seconds(self._log.events[-1]["time"]) < SILENT_SECONDS
        try:
            os.kill(int(begun["pid"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _phase(self, is_running: bool) -> str:
        events = reversed(self._log.events)
        if not is_running:
            last = next((event for event in events if event["event"] in ("search begun", "search ended")), None)
            if last is not None and last["event"] == "search ended":
                return f"ended: {last.get('reason', '')}"
            return "not running; the same search command goes on from here"
        for event in events:
            if event["event"] == "phase":
                return str(event.get("text", ""))
            if event["event"].startswith("trial "):
                break  # phases come before the first trial and after the last one
        return "searching"

    def _running(self, trial: Any) -> Running:
        events = self._log.events
        reached = [
            event for event in events if event["event"] == "trial reached" and event.get("trial") == trial.number
        ]
        stage = str(reached[-1].get("stage", "")) if reached else ""
        summary = str(trial.user_attrs.get("summary", ""))
        return Running(trial.number, stage, summary, _age_seconds(trial.user_attrs["begun"]))

    def _volumes(self, records: Sequence[TrialRecord], baseline: tuple[float, ...] | None) -> tuple[float, ...]:
        if baseline is None:
            return ()
        if self._growth is None:
            self._growth = HypervolumeHistory(baseline, self._objectives)
        measured = [record for record in records if record.outcome is not None]
        # trials may end out of their order; whichever ended since the last look comes now
        for record in measured:
            if record.number not in self._growth.seen:
                self._growth.add(record.number, record.values(names_of(self._objectives)), record.feasible)
        return tuple(self._growth.volumes)

    def _seconds_left(self) -> float | None:
        """Return how long this search will take at the pace that it has had, and no longer than it may.

        The pace is that since its first candidate: a baseline may take longer to train than many candidates.
        """
        events, begun = self._log.events, self._begun[-1:]
        since = [event for event in events if begun and event["time"] >= begun[0]["time"]]
        first = next((event["time"] for event in since if event["event"] == "trial begun"), None)
        hours = begun[0].get("hours", self._hours) if begun else None
        # of the whole run, from its begin until its front is measured again
        limit = None if hours is None else max(0.0, 3600 * hours - _age_seconds(begun[0]["time"]))
        if first is None:
            return limit
        elapsed = _age_seconds(first)
        done, done_since = (sum(map(_counts, each)) for each in (events, since))
        left = (begun[0]["trials"] - done) * elapsed / done_since if done_since and "trials" in begun[0] else None
        if limit is not None:
            left = limit if left is None else min(left, limit)
        return None if left is None else max(0.0, left)


def _failures(records: Sequence[TrialRecord]) -> dict[str, tuple[int, str]]:
    failed = [record for record in records if record.state == "failed"]
    counts = Counter(record.stage for record in failed)
    latest = {record.stage: record.reason for record in failed}
    return {stage: (count, latest[stage]) for stage, count in counts.most_common()}


def _counts(event: Mapping[str, Any]) -> bool:
    return event["event"] == "trial ended" and event.get("state") in ("evaluated", "failed")


def _age_seconds(time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
