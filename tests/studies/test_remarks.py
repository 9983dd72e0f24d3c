"""What the user should know of how candidates were measured: told once."""

from __future__ import annotations

from pathlib import Path

from karui.evaluators.measurement import Measurement
from karui.search.outcome import Outcome
from karui.studies.watching.log import LoggedWatcher, SearchLog
from karui.studies.watching.remarks import MeasuringRemarks
from karui.studies.watching.watcher import Watcher

from .conftest import make_record

BUSY = {"busy": True, "others_share": 0.374}


def test_each_kind_is_told_once() -> None:
    remarks = MeasuringRemarks()
    assert remarks.of({"busy": False, "others_share": 0.02, "throttled": False, "fallback": "none"}) == []
    (busy,) = remarks.of(BUSY)
    assert "37 % of the cores" in busy
    fallback, *others = remarks.of({**BUSY, "provider": "X", "fallback": "12 of 40 nodes ran on the CPU"})
    assert (fallback, others) == ("12 of 40 nodes ran on the CPU: X does not have their operators", [])
    (throttled,) = remarks.of({**BUSY, "throttled": True})
    assert "slowed itself down" in throttled
    assert MeasuringRemarks().of(BUSY) == [busy]


def test_a_search_on_a_busy_machine_says_so_once(tmp_path: Path) -> None:
    notes: list[str] = []

    class Noting(Watcher):
        def note(self, text: str) -> None:
            notes.append(text)

    watcher = LoggedWatcher(Noting(), SearchLog(tmp_path / "log.jsonl"))
    quiet = make_record(0, 1.0, 1.0, 0.5)
    latency = Measurement("latency_ms", 1.0, "ms", conditions=BUSY)
    for record in (quiet, *(make_record(number, 1.0, 1.0, 0.5) for number in (1, 2))):
        if record.number and record.outcome:
            object.__setattr__(record, "outcome", Outcome({**record.outcome.measurements, "latency_ms": latency}, "00"))
        watcher.ended(record)
        assert len(notes) == min(record.number, 1)
