"""The log: whole lines from several processes, and what was cut off harms nothing else."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from karui.search.record import TrialRecord
from karui.spaces.candidate import Candidate
from karui.studies.watching.log import LoggedWatcher, SearchLog, read_log
from karui.studies.watching.watcher import Watcher

from .conftest import make_record

WRITER = """
import sys
from pathlib import Path
from karui.studies.watching.log import SearchLog

log = SearchLog(Path(sys.argv[1]))
for number in range(200):
    log.write("tried", writer=sys.argv[2], number=number, text="x" * (number * 7 % 900))
"""


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert len([line for line in path.read_text().splitlines() if line]) == 600
    events = read_log(path)
    for name in "abc":
        own = [event for event in events if event["writer"] == name]
        assert [event["number"] for event in own] == list(range(200))
        assert [len(event.get("text", "")) for event in own] == [number * 7 % 900 for number in range(200)]


@pytest.mark.parametrize("kept", [0, 1, 10, -1])
def test_a_line_that_was_cut_off_is_lost_alone(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "log.jsonl"
    log = SearchLog(path)
    log.write("first", text="größer")
    log.write("second")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    whole = kept == -1  # all of it but the end of the line
    assert [event["event"] for event in read_log(path)] == ["first"] + ["second"] * whole
    log.write("third")
    assert [event["event"] for event in read_log(path)] == ["first"] + ["second"] * whole + ["third"]
    assert read_log(path)[0]["text"] == "größer"


def test_lines_say_when_and_leave_out_what_there_is_not(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    SearchLog(tmp_path / "log.jsonl").write("tried", number=0, reason="", stage=None, values={}, ok=False)
    (event,) = read_log(tmp_path / "log.jsonl")
    assert before <= datetime.fromisoformat(event.pop("time")) <= datetime.now(UTC)
    assert isinstance(event.pop("pid"), int)
    assert event == {"event": "tried", "number": 0, "ok": False}


def test_what_a_watcher_is_told_is_kept_and_handed_on(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []

    class Told(Watcher):
        def phase(self, text: str) -> None:
            told.append(("phase", text))

        def begun(self, number: int, candidate: Candidate) -> None:
            told.append(("begun", number))

        def reached(self, number: int, stage: str) -> None:
            told.append(("reached", number, stage))

        def ended(self, record: TrialRecord) -> None:
            told.append(("ended", record.number))

        def seen(self, record: TrialRecord) -> None:
            told.append(("seen", record.number))

        def happened(self, event: str, **details: Any) -> None:
            told.append((event, details))

    watcher = LoggedWatcher(Told(), SearchLog(tmp_path / "log.jsonl"))
    watcher.phase("loading the task")
    watcher.begun(3, Candidate(weight_bits=4))
    watcher.reached(3, "waiting to measure")
    watcher.ended(make_record(3, 1000.0, 2.5, 0.9))
    watcher.seen(make_record(4, 1000.0, 2.5, 0.9))
    watcher.ended(TrialRecord(5, "failed", "packing", "too large", {}, Candidate(), None, False, 0.5))
    watcher.happened("worker lost", trial=6, reason="was killed")
    assert told == [
        ("phase", "loading the task"),
        ("begun", 3),
        ("reached", 3, "waiting to measure"),
        ("ended", 3),
        ("seen", 4),
        ("ended", 5),
        ("worker lost", {"trial": 6, "reason": "was killed"}),
    ]
    events = [
        {k: v for k, v in event.items() if k not in ("time", "pid")} for event in read_log(tmp_path / "log.jsonl")
    ]
    assert events[0] == {"event": "phase", "text": "loading the task"}
    assert events[1]["key"] == Candidate(weight_bits=4).key
    assert events[2] == {"event": "trial reached", "trial": 3, "stage": "waiting to measure"}
    assert events[3]["values"] == {"size_bytes": 1000.0, "latency_ratio": 0.25, "latency_ms": 2.5, "accuracy": 0.9}
    assert (events[3]["state"], events[3]["seconds"], events[3]["feasible"]) == ("evaluated", 1.5, True)
    assert events[4] == {
        "event": "trial ended", "trial": 5, "state": "failed", "stage": "packing", "reason": "too large",
        "key": Candidate().key, "summary": Candidate().describe(), "seconds": 0.5,
    }  # fmt: skip
    assert events[5] == {"event": "worker lost", "trial": 6, "reason": "was killed"}
    assert len(events) == 6, "another search's trials are in its own lines"
