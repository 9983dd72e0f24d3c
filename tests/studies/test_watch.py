"""The live view: what it sees of a search, and that it is in nobody's way."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from karui.search.heartbeat import owner_mark
from karui.studies.results.read import find_results
from karui.studies.watching.durations import describe_seconds
from karui.studies.watching.log import LogTail
from karui.studies.watching.status import StatusReader
from karui.studies.watching.watch import frame, sparkline, watch
from karui.studies.watching.watcher import WAITING_FOR_MEASURING

from .conftest import Command
from .made_up import made_up_trials, store_trials

NOBODY = 4_000_000
"""No process has that number: Linux counts to 4,194,304 at most, and begins at 1."""


def tell(folder: Path, event: str, *, minutes_ago: float = 0.0, pid: int | None = None, **fields: Any) -> None:
    when = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat(timespec="milliseconds")
    line = {"time": when, "event": event, "pid": pid or os.getpid(), **fields}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def begin(folder: Path, minutes_ago: float = 10.0, pid: int | None = None) -> None:
    tell(folder, "search begun", minutes_ago=minutes_ago, pid=pid, host=platform.node(), trials=50, workers=1)


def run_trial(storage: str, summary: str, owner: dict[str, Any]) -> int:
    study = optuna.load_study(study_name="made-up", storage=storage)
    trial = study.ask()
    begun = (datetime.now(UTC) - timedelta(seconds=65)).isoformat()
    for name, value in {"owner": owner, "begun": begun, "summary": summary}.items():
        trial.set_user_attr(name, value)
    return trial.number


def printed(folder: Path) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(frame(StatusReader(find_results(folder), str(folder)).look()))
    return console.export_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder of 30 trials."""
    store_trials(tmp_path, made_up_trials(30))
    return tmp_path


def test_it_sees_counts_the_front_failures_and_who_is_gone(folder: Path) -> None:
    trials = made_up_trials(30)
    begin(folder)
    tell(folder, "phase", text="searching")
    gone = run_trial(f"sqlite:///{folder / 'study.db'}", "left behind", {**owner_mark(), "pid": NOBODY})
    status = StatusReader(find_results(folder), str(folder)).look()
    assert dict(status.counts) == trials["state"].value_counts().to_dict()
    assert (status.phase, status.is_running, status.wanted) == ("searching", True, 50)
    assert sorted(record.number for record in status.front) == sorted(trials.loc[trials["on_front"], "trial"])
    assert gone == 30
    assert status.running == ()
    failed = trials[trials["state"] == "failed"]
    if len(failed):
        assert status.failures == {"recovery": (len(failed), "the loss is not finite")}
    assert list(status.volumes) == sorted(status.volumes)
    assert len(status.volumes) == (trials["state"] == "evaluated").sum()


def test_a_frame_shows_stages_and_takes_text_for_text(folder: Path) -> None:
    from karui.search import heartbeat

    begin(folder)
    started = time.monotonic()
    mark = owner_mark("here")
    heartbeat._HERE.add("here")
    try:
        number = run_trial(f"sqlite:///{folder / 'study.db'}", "a candidate [red]in brackets[/red]", mark)
        tell(folder, "trial reached", trial=number, stage="export")
        shown = printed(folder)
    finally:
        heartbeat._HERE.discard("here")
    line = next(line for line in shown.splitlines() if "in brackets" in line)
    shown_number, stage, minutes, minute_unit, seconds, second_unit = line.split()[:6]
    assert (shown_number, stage, minute_unit, second_unit) == (str(number), "export", "min", "s")
    late = time.monotonic() - started
    assert 65 <= 60 * int(minutes) + int(seconds) <= 66 + late, "it began 65 seconds before it was noted"
    assert "[red]in brackets[/red]" in line
    assert "hypervolume" in shown
    assert "about" not in shown, "nothing has been measured in this search, so that it has no pace"


def test_numbers_are_whole_on_a_narrow_terminal(folder: Path) -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    status = StatusReader(find_results(folder), str(folder)).look()
    console.print(frame(status))
    lines = console.export_text().splitlines()
    for record in status.front[:5]:
        assert any(
            line.split()[0] == str(record.number) and f"{record.values(['accuracy'])[0]:.4f}" in line
            for line in lines
            if line.strip()
        )


def test_what_is_told_is_the_phase_or_that_it_searches(folder: Path) -> None:
    reader = StatusReader(find_results(folder), str(folder))
    begin(folder)
    tell(folder, "phase", text="measuring the baseline")
    assert reader.look().phase == "measuring the baseline"
    tell(folder, "trial begun", trial=0)
    assert reader.look().phase == "searching"
    tell(folder, "phase", text="measuring the front again")
    assert reader.look().phase == "measuring the front again"


def left_about(seconds: float | None, minutes: float, started: float) -> bool:
    """Whether so many minutes are left, but for what has gone by, and for the pace that falls meanwhile."""
    late = time.monotonic() - started
    return seconds is not None and abs(seconds - 60 * minutes) <= 1 + 2 * late


def test_the_time_left_is_that_of_the_pace_so_far(folder: Path) -> None:
    started = time.monotonic()
    begin(folder, minutes_ago=25)  # and a quarter of an hour for the baseline
    assert StatusReader(find_results(folder), str(folder)).look().seconds_left is None
    tell(folder, "trial begun", minutes_ago=10, trial=0)
    for number in range(20):
        tell(folder, "trial ended", minutes_ago=5, trial=number, state="evaluated")
    seconds = StatusReader(find_results(folder), str(folder)).look().seconds_left
    assert left_about(seconds, 15, started), "20 in 10 minutes, 30 to go"


def test_the_time_left_is_no_more_than_the_command_gave(folder: Path) -> None:
    started = time.monotonic()
    tell(folder, "search begun", minutes_ago=25, host=platform.node(), trials=50, hours=0.5)
    reader = StatusReader(find_results(folder), str(folder))
    assert left_about(reader.look().seconds_left, 5, started), "the baseline is part of it"
    tell(folder, "trial begun", minutes_ago=10, trial=0)
    for number in range(20):
        tell(folder, "trial ended", minutes_ago=5, trial=number, state="evaluated")
    assert left_about(reader.look().seconds_left, 5, started)


def test_whoever_waits_is_seen(folder: Path) -> None:
    begin(folder)
    tell(folder, "phase", text=WAITING_FOR_MEASURING)
    assert WAITING_FOR_MEASURING in printed(folder)


def test_a_search_that_ended_or_was_killed_does_not_run(folder: Path) -> None:
    begin(folder)
    assert StatusReader(find_results(folder), str(folder)).look().is_running
    tell(folder, "search ended", reason="the time is up")
    ended = StatusReader(find_results(folder), str(folder)).look()
    assert (ended.is_running, ended.phase, ended.seconds_left) == (False, "ended: the time is up", None)
    begin(folder, pid=NOBODY)
    assert not StatusReader(find_results(folder), str(folder)).look().is_running


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    tail.look()
    path.write_text('{"event": "one"}\n{"event": "tw')
    tail.look()
    assert [event["event"] for event in tail.events] == ["one"]
    path.write_text('{"event": "one"}\n{"event": "two"}\nno json\n[1]\n{"event": "three"}\n')
    tail.look()
    assert [event["event"] for event in tail.events] == ["one", "two", "three"]


def test_it_ends_when_the_search_ends(folder: Path) -> None:
    begin(folder)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            tell(folder, "search ended", reason="all 50 trials are done")

    with (folder / "seen.txt").open("w") as file:
        watch(str(folder), Console(file=file, force_terminal=True, width=120), sleep=sleep, every_seconds=0.5)
    assert naps == [0.5, 0.5]
    assert "all 50 trials are done" in (folder / "seen.txt").read_text()


def test_ctrl_c_ends_the_view_quietly(folder: Path) -> None:
    begin(folder)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with (folder / "seen.txt").open("w") as file:
        watch(str(folder), Console(file=file, force_terminal=True, width=120), sleep=interrupted)
    assert "made-up" in (folder / "seen.txt").read_text()


def test_the_database_is_free_while_it_is_watched(folder: Path) -> None:
    reader = StatusReader(find_results(folder), str(folder))
    before = reader.look()
    with closing(sqlite3.connect(folder / "study.db", timeout=0)) as connection, connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE studies SET study_name = study_name")
    assert reader.look().counts == before.counts


def test_the_command_prints_one_frame(karui_command: Command, tmp_path: Path) -> None:
    store_trials(tmp_path / "runs", made_up_trials(20))
    finished = karui_command("watch", "runs", "--once")
    assert (finished.code, finished.err) == (0, "")
    assert "made-up" in finished.out
    assert "front so far" in finished.out
    missing = karui_command("watch", "digits", "--once")
    assert missing.code == 2
    assert "there are no results of 'digits' yet" in missing.err


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=200).map(sorted))
def test_a_sparkline_of_what_grows_never_falls(values: list[float]) -> None:
    line = sparkline(tuple(values))
    assert len(line) == min(len(values), 40)
    assert list(line) == sorted(line)
    assert (line[-1] == "█") == (values[-1] > 0)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (7500, "2 h 05 min")])
def test_times_have_two_units_at_most(seconds: float, words: str) -> None:
    assert describe_seconds(seconds) == words
