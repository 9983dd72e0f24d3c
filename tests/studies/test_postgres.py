"""Searches on a real PostgreSQL server: one makes the tables, one has the turn, nothing twice, the silent are gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.trial import TrialState

from karui.errors import OutputError
from karui.search.heartbeat import SILENT_SECONDS
from karui.search.loop import Budget
from karui.search.record import read_records
from karui.studies.storage.server_turns import ServerTurns
from karui.studies.storage.storage_turns import alone_on_server, turns_of
from karui.studies.storage.store import open_study
from karui.studies.watching.watcher import Watcher

from .test_cooperation import SPACE, Searches, loop_on

# --- what cannot be opened --------------------------------------------------------------------------------------------


def test_a_missing_driver_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        OutputError, match=r"cannot be used(?s:.*)psycopg(?s:.*)pip install 'karui\[postgres\]'"
    ) as caught:
        open_study("postgresql+psycopg://me:secret@127.0.0.1:1/db", "mine", create=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("karui:secret@127.0.0.1:{port}/missing", 'database "missing" does not exist'),
        ("stranger:secret@127.0.0.1:{port}/postgres", 'role "stranger" does not exist'),
        ("locked:secret@127.0.0.1:{port}/postgres", 'password authentication failed for user "locked"'),
        ("karui:secret@127.0.0.1:1/postgres", "Connection refused"),
    ],
)
def test_a_server_that_cannot_be_used_is_told(postgres_port: int, place: str, told: str, create: bool) -> None:
    storage = f"postgresql+psycopg://{place.format(port=postgres_port)}"
    with pytest.raises(OutputError, match=r"storage cannot be used(?s:.*)that the server runs") as caught:
        open_study(storage, "mine", create=create)
    assert told in str(caught.value.got)
    assert "secret" not in str(caught.value)


# --- many at once -----------------------------------------------------------------------------------------------------

OPEN = """
import sys
from karui.studies.storage.store import open_study
print("ready", flush=True)
sys.stdin.readline()
print(open_study(sys.argv[1], "mine", create=True)._study_id, flush=True)
"""

COUNT = """
import sys, time
from pathlib import Path
from karui.studies.storage.storage_turns import turns_of
turns, counter = turns_of(sys.argv[1], "mine"), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    with turns():
        count = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(count + 1))
"""

HOLD = """
import sys
from karui.studies.storage.storage_turns import turns_of
with turns_of(sys.argv[1], "mine")():
    print("held", flush=True)
    sys.stdin.readline()
"""


def run_at_once(code: str, count: int, *arguments: object) -> list[str]:
    """Start processes, let them go once all are ready, and return what each printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * count, ended
    return [out for out, _ in ended]


def test_one_of_those_that_begin_at_once_makes_the_tables(postgres_url: str) -> None:
    assert run_at_once(OPEN, 3, postgres_url) == ["1\n"] * 3


def test_one_at_a_time_has_the_turn(postgres_url: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    run_at_once(COUNT, 3, postgres_url, counter)
    assert counter.read_text() == "60"


@pytest.fixture
def holder(postgres_url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, postgres_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_search_leaves_its_turn(postgres_url: str, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def waits() -> None:
        said.append("waits")
        holder.kill()

    turns = turns_of(postgres_url, "mine")
    assert isinstance(turns, ServerTurns)
    with turns(waits):
        assert said == ["waits"]
    with turns(pytest.fail):
        pass


def test_turns_of_other_names_are_independent(postgres_url: str, holder: subprocess.Popen[str]) -> None:
    with turns_of(postgres_url, "other")(), alone_on_server(postgres_url, "baseline of mine", pytest.fail):
        assert holder.poll() is None


def test_a_turn_goes_on_though_the_server_has_dropped_its_connection(postgres_url: str) -> None:
    turns = turns_of(postgres_url, "mine")
    with turns(), psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    with turns():
        pass


def test_a_server_that_is_gone_is_told_as_the_storage_that_it_is() -> None:
    turns = turns_of("postgresql+psycopg://karui@127.0.0.1:1/postgres", "mine")
    with pytest.raises(optuna.exceptions.StorageInternalError, match="no turn"), turns():
        pass


# --- searches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def searches(tmp_path: Path, postgres_url: str) -> Iterator[Searches]:
    made = Searches(tmp_path, postgres_url)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_searches_try_everything_once(searches: Searches, count: int) -> None:
    for _ in range(count):
        searches.start(1000, seconds=0.0)
    searches.go()
    for process in searches.processes:
        assert process.communicate(timeout=560)[0] == "every candidate of the space has been tried\n"
    every = sorted({candidate.canonical().key for _, candidate in SPACE.points()})
    assert sorted(searches.tried()) == every
    records = read_records(searches.study)
    assert sorted(record.key for record in records if record.state == "evaluated") == every
    assert {record.state for record in records} <= {"evaluated", "duplicate", "waiting"}


ELSEWHERE = """
import socket
socket.gethostname = lambda: "another-host"
"""


def test_a_silent_search_of_another_host_is_taken_over_and_not_before(searches: Searches) -> None:
    process = searches.start(1000, seconds=600, before=ELSEWHERE)
    searches.go()
    while not searches.diary.exists():
        time.sleep(0.05)
    (left,) = searches.tried()
    process.kill()
    process.wait()
    (trial,) = searches.study.get_trials(states=(TrialState.RUNNING,))
    assert trial.user_attrs["owner"]["host"] == "another-host"

    def search(trials: int) -> list[tuple[str, str]]:
        loop_on(searches.study, turns_of(searches.storage)).run(Budget(trials), Watcher(), [])
        return [(record.key, record.state) for record in read_records(searches.study)]

    assert (left, "running") in search(4), "nobody knows yet that it is gone"
    pulses = searches.study.user_attrs["pulses"]
    assert trial.user_attrs["owner"]["search"] in pulses
    searches.study.set_user_attr("pulses", {name: at - SILENT_SECONDS - 1 for name, at in pulses.items()})
    found = search(6)
    assert (left, "interrupted") in found
    assert (left, "evaluated") in found
    assert not searches.study.get_trials(states=(TrialState.RUNNING,))
    evaluated = [key for key, state in found if state == "evaluated"]
    assert len(evaluated) == len(set(evaluated)) == 6
