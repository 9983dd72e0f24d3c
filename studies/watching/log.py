"""``log.jsonl``: what was tried, stopped and failed, and why; one JSON object a line, for the next morning."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ...errors import DAMAGED, without_secrets
from ...search.record import TrialRecord, utc_now
from ...spaces.candidate import Candidate
from ..study_file.spec import StudySpec
from .remarks import MeasuringRemarks
from .watcher import Watcher


class SearchLog:
    """Appends lines to a log that several processes may write.

    Each line is one write to a file opened for appending, so that lines of two processes never mix; a process that is
    killed loses at most the line it was writing. Where one looks at the end while another is writing there, an empty
    line may come between the two.

    Args:
        path: The file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time (UTC) and the process; fields of no value are left out.

        Raises:
            OSError: Where it cannot be written.
        """
        given = {name: _shown(value) for name, value in fields.items() if value not in (None, "", {}, [])}
        line = json.dumps({"time": utc_now(), "event": event, "pid": os.getpid(), **given}, ensure_ascii=False)
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(file).st_size
            # Whoever was killed in the middle of a line has that line alone spoilt.
            is_torn = size > 0 and os.lseek(file, -1, os.SEEK_END) >= 0 and os.read(file, 1) != b"\n"
            # A path may hold half of a surrogate pair; as it is escaped here, JSON reads it again.
            os.write(file, b"\n" * is_torn + line.encode("utf-8", "backslashreplace") + b"\n")
        finally:
            os.close(file)


def _shown(value: Any) -> Any:
    """Return a value of JSON without the secrets that its texts may hold, such as a traceback that names a URL."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: _shown(part) for key, part in value.items()}
    return [_shown(part) for part in value] if isinstance(value, (list, tuple)) else value


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log in the order of its lines; lines that were cut off are left out.

    Raises:
        OSError: Where it cannot be read.
    """
    events: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        add_event(events, line)
    return events


_LONG_AGO = "1970-01-01T00:00:00.000+00:00"

_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("trial", "trials", "pid", "workers", "seed"), int),
    **dict.fromkeys(("text", "reason", "stage", "state", "summary", "key", "host", "study"), str),
    **dict.fromkeys(("values", "stages", "versions"), dict),
    "seconds": (int, float),
}


def add_event(events: list[dict[str, Any]], line: bytes) -> None:
    """Add the event of one line of a log to those before it, unless it is none, or holds other things than an event.

    One without a time is of the time of the one before it.
    """
    try:
        event = json.loads(line.decode(errors="replace"))
        event.setdefault("time", events[-1]["time"] if events else _LONG_AGO)
        if not isinstance(event["event"], str) or datetime.fromisoformat(event["time"]).tzinfo is None:
            return
    except DAMAGED:
        return  # what a killed search was writing, or somebody else has
    for name, kind in _KINDS.items():
        value = event.get(name, kind)
        if value is not kind and (isinstance(value, bool) or not isinstance(value, kind)):
            return
        if isinstance(value, int) and not 0 <= value < 2**63:
            return
    events.append(event)


class LogTail:
    """The events of a log, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.events: list[dict[str, Any]] = []

    def look(self) -> None:
        """Take in the lines that were written since; one that is being written is left for the next look."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.split(b"\n"):
            add_event(self.events, line)


class LoggedWatcher(Watcher):
    """A watcher that keeps a log of what it hands on to another.

    Args:
        watcher: Is told everything.
        log: Where it is kept.
    """

    def __init__(self, watcher: Watcher, log: SearchLog) -> None:
        self._watcher = watcher
        self._log = log
        self._remarks = MeasuringRemarks()

    def phase(self, text: str) -> None:
        """Something that takes a while begins."""
        self._log.write("phase", text=text)
        self._watcher.phase(text)

    def note(self, text: str) -> None:
        """Something was found out."""
        self._log.write("note", text=text)
        self._watcher.note(text)

    def searching(self, spec: StudySpec, baseline: dict[str, float], known: Sequence[TrialRecord]) -> None:
        """The search begins or goes on."""
        self._watcher.searching(spec, baseline, known)

    def begun(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be made."""
        self._log.write("trial begun", trial=number, key=candidate.key, summary=candidate.describe())
        self._watcher.begun(number, candidate)

    def reached(self, number: int, stage: str) -> None:
        """A candidate has come to a stage, or waits."""
        self._log.write("trial reached", trial=number, stage=stage)
        self._watcher.reached(number, stage)

    def ended(self, record: TrialRecord) -> None:
        """A trial of this search has ended."""
        self._log.write("trial ended", **_fields(record))
        self._watcher.ended(record)
        latency = record.outcome.measurements.get("latency_ms") if record.outcome else None
        for sentence in self._remarks.of(latency.conditions if latency else {}):
            self.note(sentence)

    def seen(self, record: TrialRecord) -> None:
        """A trial of another search has ended; that search has it in a log of its own."""
        self._watcher.seen(record)

    def happened(self, event: str, **details: Any) -> None:
        """Something has happened."""
        self._log.write(event, **details)
        self._watcher.happened(event, **details)


def _fields(record: TrialRecord) -> dict[str, Any]:
    outcome = record.outcome
    return {
        "trial": record.number,
        "state": record.state,
        "key": record.key,
        "summary": record.summary,
        "stage": record.stage,
        "reason": record.reason,
        "seconds": round(record.seconds, 3),
        "notes": list(outcome.notes) if outcome else [],
        "stages": {stage.stage: round(stage.seconds, 3) for stage in outcome.stages} if outcome else {},
        "values": {name: item.value for name, item in outcome.measurements.items()} if outcome else {},
        "feasible": record.feasible if outcome else None,
    }
