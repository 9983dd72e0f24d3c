"""The study in its storage: opened or explained, never with a password, and gone on with under one meaning only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from karui.errors import OutputError, StudyFileError
from karui.evaluators.measurement import Measurement
from karui.search.objectives import LIMITS, OBJECTIVES, Objective, latency_on
from karui.studies.report.material import count_ended
from karui.studies.storage.folder import RunFolder
from karui.studies.storage.storage_errors import explain_storage_errors, without_password
from karui.studies.storage.storage_turns import turns_of
from karui.studies.storage.store import open_study, study_name
from karui.studies.storage.stored_objectives import name_values, stored_objectives
from karui.studies.storage.study_notes import check_meaning, note_baseline, read_baseline, training_seed
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import parse_spec

ACCURACY = {"accuracy": Measurement("accuracy", 0.5, "1", 0.1, 20, {"split": "validation"})}


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def test_a_study_is_made_once_and_found_again(tmp_path: Path) -> None:
    made = open_study(url(tmp_path), "mine", create=True)
    made.set_user_attr("mark", 1)
    for create in (True, False):
        found = open_study(url(tmp_path), "mine", create=create)
        assert found.user_attrs == {"mark": 1}
        assert [direction.name for direction in found.directions] == ["MINIMIZE", "MINIMIZE", "MAXIMIZE"]


MORE = (*OBJECTIVES, LIMITS[0], latency_on("pi5"))


def test_a_study_is_found_again_with_its_objectives(tmp_path: Path) -> None:
    open_study(url(tmp_path), "mine", create=True, objectives=MORE)
    open_study(url(tmp_path), "plain", create=True)
    for objectives, name in ((MORE, "mine"), (OBJECTIVES, "plain")):
        again = open_study(url(tmp_path), name, create=True, objectives=objectives)
        assert (
            stored_objectives(again) == stored_objectives(open_study(url(tmp_path), name, create=False)) == objectives
        )


@pytest.mark.parametrize(("before", "after"), [(MORE, OBJECTIVES), (OBJECTIVES, MORE), (MORE, (*MORE[:4], LIMITS[1]))])
def test_objectives_may_be_corrected_until_there_are_results(
    tmp_path: Path, before: tuple[Objective, ...], after: tuple[Objective, ...]
) -> None:
    open_study(url(tmp_path), "mine", create=True, objectives=before)
    study = open_study(url(tmp_path), "mine", create=True, objectives=after)
    assert stored_objectives(study) == after
    note_baseline(study, "00", ACCURACY)
    with pytest.raises(OutputError, match=r"has other objectives(?s:.*)expected: the objectives of the study file"):
        open_study(url(tmp_path), "mine", create=True, objectives=before)
    assert stored_objectives(open_study(url(tmp_path), "mine", create=False)) == after


def test_a_study_of_somebody_elses_is_told(tmp_path: Path) -> None:
    optuna.create_study(storage=url(tmp_path), study_name="mine", directions=["minimize", "maximize"])
    for create in (True, False):
        with pytest.raises(OutputError, match=r"is not karui's(?s:.*)minimize, maximize"):
            open_study(url(tmp_path), "mine", create=create)
    named = optuna.create_study(storage=url(tmp_path), study_name="other", directions=["minimize"] * 3)
    name_values(named, (*OBJECTIVES[:2], Objective("loss", "minimize", "1")))
    with pytest.raises(OutputError, match=r"is not karui's(?s:.*)not size_bytes, latency_ms, loss"):
        open_study(url(tmp_path), "other", create=True)


def test_a_study_that_is_not_there_is_told(tmp_path: Path) -> None:
    open_study(url(tmp_path), "mine", create=True)
    with pytest.raises(OutputError, match=r"holds no study 'other'(?s:.*)karui search"):
        open_study(url(tmp_path), "other", create=False)


def test_the_one_study_of_a_storage_is_found_by_itself(tmp_path: Path) -> None:
    open_study(url(tmp_path), "mine", create=True)
    assert study_name(url(tmp_path), "folder") == "mine"
    open_study(url(tmp_path), "second", create=True)
    assert study_name(url(tmp_path), "folder") == "folder"


NAMES: tuple[str, ...] = (
    "a?b",
    "a#b",
    "a%41",
    "a%zz",
    "%",
    "a:b",
    "me:pw@host",
    "a b",
    "a+b",
    "a;b",
    "a&b=c",
    "a\nb",
    "é漢🙂",
    "~",
    "-x",
)
NAMES += ("-x", "{SCHEMA_VERSION}", "{}", "{0.x}", "a\\b", "'q\"", "$HOME", "*", ":memory:", "file:x", "...", "x" * 200)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_holds_its_own_database(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / name)
    folder.prepare()
    open_study(folder.own_storage, "mine", create=True)
    assert open_study(folder.own_storage, "mine", create=False).study_name == "mine"
    assert study_name(folder.own_storage, "other") == "mine"
    assert count_ended(folder.own_storage, "mine") == 0
    with turns_of(folder.own_storage)():
        assert {"study.db", "study.db.turns"} <= {path.name for path in folder.path.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies beside it"


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20))
@settings(deadline=None, max_examples=200, derandomize=True, database=None)
def test_the_url_of_a_folder_leads_to_that_folder(name: str) -> None:
    for folder in (Path("/") / name, Path(name), Path("runs") / name):
        url = make_url(RunFolder(folder).own_storage.format())
        assert (url.drivername, url.database) == ("sqlite", str(folder / "study.db"))
        assert not url.query


@pytest.mark.parametrize("name", ["a\0b", os.fsdecode(b"a\xff")])
def test_a_folder_that_no_text_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"results folder cannot be used(?s:.*)in the name(?s:.*)another --out"):
        RunFolder(tmp_path / name).prepare()


@pytest.mark.parametrize("storage", ["sqlite:///{folder}/a?b/study.db", "sqlite:///{folder}/study.db?mode=ro"])
def test_what_sqlite_would_leave_out_of_a_url_is_refused(tmp_path: Path, storage: str) -> None:
    with pytest.raises(OutputError, match=r"cannot be used(?s:.*)behind the question mark(?s:.*)write %3F"):
        open_study(storage.format(folder=tmp_path), "mine", create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(OutputError, match=r"cannot be used(?s:.*)study\.db(?s:.*)not a database(?s:.*)moved away"):
        open_study(url(tmp_path), "mine", create=True)


@pytest.mark.parametrize(
    ("storage", "got"),
    [
        ("nosuch://user:secret@host/db", "nosuch"),
        ("postgresql+nosuchdriver://user:secret@host/db", "nosuchdriver"),
        ("postgresql://user:secret@host:port/db", "'port'"),
        ("nosuch://:secret@host/1", "nosuch"),
        ("nosuch://user:se@secret@host/1", "nosuch"),
        ("nosuch://host/db?user=me&password=secret&x=1", "nosuch"),
        ("sqlite:////tmp/{nosuch}/study.db", "nosuch"),
        ("sqlite:////tmp/{/study.db", "expected '}'"),
        ("sqlite:////tmp/x.db?timeout=long", "long"),
        ("no url at all", "parse"),
        ("", "parse"),
        ("sqlite:////proc/karui/study.db", "unable to open"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told_without_its_password(storage: str, got: str) -> None:
    with pytest.raises(OutputError, match=r"storage cannot be used(?s:.*)check the URL") as caught:
        open_study(storage, "mine", create=True)
    assert got in str(caught.value.got)
    assert "secret" not in str(caught.value)


def test_bugs_are_not_taken_for_a_storage_that_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="bug"), explain_storage_errors(url(tmp_path)):
        raise RuntimeError("bug")


SAFE = st.text("abcXYZ0123456789_-", min_size=1, max_size=8)


@settings(deadline=None)
@given(user=SAFE, password=st.text("abc@:/#!0", min_size=1, max_size=8).map("PW".__add__), host=SAFE)
def test_no_password_is_ever_shown(user: str, password: str, host: str) -> None:
    shown = without_password(f"cannot reach postgresql://{user}:{password}@{host}:5432/db now")
    assert shown == f"cannot reach postgresql://{user}:***@{host}:5432/db now"


def test_what_holds_no_password_is_shown_as_it_is() -> None:
    for text in ("sqlite:////tmp/a:b/study.db", "postgresql://host:5432/db", "me@example.org"):
        assert without_password(text) == text


# --- meaning ----------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {"name": "mine", "task": "t.py:f", "bits": {"weights": [4, 32]}, "trials": 5}


def spec(**changes: Any) -> StudySpec:
    return parse_spec({**PLAIN, **changes}, Path("mine.toml"))


def meaning(**changes: Any) -> dict[str, Any]:
    return spec(**changes).meaning()


def test_a_study_goes_on_where_a_later_version_has_more_keys(tmp_path: Path) -> None:
    students = {"families": ["shallower"], "widths": [0.5]}
    now = spec(students=students)
    before = now.meaning()
    del before["students"]["resolutions"], before["latency"]["inputs"], before["target"]
    del before["further_objectives"]
    study = open_study(url(tmp_path), "mine", create=True)
    check_meaning(study, before, {}, "mine")
    note_baseline(study, "00", ACCURACY)
    check_meaning(study, now.meaning(), now.usual(), "mine")
    other = spec(students={**students, "resolutions": [1.0, 0.5]})
    with pytest.raises(
        StudyFileError, match=r"students\.resolutions = \[1\.0\](?s:.*)students\.resolutions = \[1\.0, 0\.5\]"
    ):
        check_meaning(study, other.meaning(), other.usual(), "mine")
    drawn = spec(students=students, latency={"inputs": "random"})
    with pytest.raises(StudyFileError, match=r"latency\.inputs = 'real'(?s:.*)latency\.inputs = 'random'"):
        check_meaning(study, drawn.meaning(), drawn.usual(), "mine")
    more = spec(students=students, further_objectives=["load"])
    with pytest.raises(StudyFileError, match=r"further_objectives = \[\](?s:.*)further_objectives = \['load'\]"):
        check_meaning(study, more.meaning(), more.usual(), "mine")


def test_a_changed_study_file_is_refused_with_the_key(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    check_meaning(study, meaning(), {}, "mine")
    note_baseline(study, "00", ACCURACY)
    study = open_study(url(tmp_path), "mine", create=True)
    check_meaning(study, meaning(trials=9, hours=3.0, seed=4, sampler="random"), {}, "mine")
    check_meaning(study, meaning(recovery={"final_factor": 4}), {}, "mine")
    assert "final_factor" not in meaning()["recovery"], "studies from before it go on"
    with pytest.raises(
        StudyFileError, match=r"has changed(?s:.*)bits\.weights = \[4, 32\](?s:.*)bits\.weights = \[4\]"
    ):
        check_meaning(study, meaning(bits={"weights": [4]}), {}, "mine")
    with pytest.raises(StudyFileError, match=r"bounds\.min_accuracy = None(?s:.*)bounds\.min_accuracy = 0\.9"):
        check_meaning(study, meaning(bounds={"min_accuracy": 0.9}), {}, "mine")
    check_meaning(study, meaning(), {}, "mine")


def test_a_study_from_before_there_were_exits_goes_on(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    before = meaning()
    assert before.pop("exits") is None
    check_meaning(study, before, {}, "mine")
    note_baseline(study, "00", ACCURACY)
    check_meaning(study, meaning(), {}, "mine")
    with pytest.raises(StudyFileError, match=r"exits = None(?s:.*)'thresholds': \[0\.8, 0\.9, 0\.95\]"):
        check_meaning(study, meaning(exits={}), {}, "mine")


def test_a_study_file_may_be_corrected_until_there_are_results(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    check_meaning(study, meaning(task="wrong.py:f"), {}, "mine")
    check_meaning(study, meaning(), {}, "mine")
    study.ask()
    with pytest.raises(StudyFileError, match=r"task = 't\.py:f'(?s:.*)task = 'wrong\.py:f'"):
        check_meaning(study, meaning(task="wrong.py:f"), {}, "mine")


def test_training_goes_by_the_seed_that_the_study_began_with(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    assert training_seed(study, 3) == 3
    assert training_seed(study, 4) == 4
    note_baseline(study, "00", ACCURACY)
    assert training_seed(study, 5) == 4


def test_the_baseline_is_read_back_as_it_was_noted(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    assert read_baseline(study) is None
    note_baseline(study, "ab", ACCURACY)
    assert read_baseline(open_study(url(tmp_path), "mine", create=False)) == ("ab", ACCURACY)


# --- how entries reach the disk ---------------------------------------------------------------------------------------


def _pragma(study: optuna.Study, name: str) -> Any:
    with study._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_a_search_writes_ahead_to_a_log(tmp_path: Path) -> None:
    study = open_study(url(tmp_path), "mine", create=True)
    assert (_pragma(study, "journal_mode"), _pragma(study, "synchronous")) == ("wal", 1)


WRITE_AND_DIE = """
import os, signal, sys
from karui.studies.storage.store import open_study
study = open_study(sys.argv[1], "mine", create=True)
for number in range(20):
    trial = study.ask()
    trial.set_user_attr("mark", number)
    study.tell(trial, [1.0, 2.0, float(number)])
study.ask().set_user_attr("mark", "in flight")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_told_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, url(tmp_path)], capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr
    for create in (False, True):
        trials = open_study(url(tmp_path), "mine", create=create).get_trials()
        assert [trial.user_attrs["mark"] for trial in trials] == [*range(20), "in flight"]
        assert [trial.values[2] for trial in trials[:-1]] == [float(number) for number in range(20)]


def test_who_only_reads_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with pytest.raises(OutputError, match="holds no study"):
        open_study(f"sqlite:///{path}", "s", create=False)
    assert not path.exists()
