"""Damaged results: told with their place by every command that reads them; exit code 2, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from karui.spaces.building.stage_cache import StageCache

from .conftest import Command, write_study
from .damage import JUNK, damage, make_whole, take_away


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole(tmp_path_factory.mktemp("whole") / "mine")


@contextmanager
def copied(whole: Path, folder: Path) -> Iterator[Path]:
    """A copy that may be damaged."""
    copy = folder / whole.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)


def commands(results: Path, whole: Path) -> list[tuple[object, ...]]:
    return [
        ("front", results),
        ("front", results, "--format", "json"),
        ("pick", results),
        ("pick", results, "--explain", "--prefer", "size", "--requests", "10/s", "--price", "1/core-hour"),
        ("pick", results, "--point", "p02", "--export", results.parent / "bundle"),
        ("watch", results, "--once"),
        ("compare", results, whole, "--plot", results.parent / "compare.png"),
        ("report", results, "--to", results.parent / "report.html"),
    ]


def is_told(command: Command, *arguments: object) -> int:
    """Run a command, which ends by itself, and tells what is wrong where something is."""
    finished = command(*arguments)
    assert finished.code in (0, 1, 2)
    if finished.code == 2:
        assert "error: " in finished.err
        assert "where:" in finished.err
    assert "Traceback" not in finished.err
    assert "\x1b" not in finished.out + finished.err
    return finished.code


# --- each kind by itself ----------------------------------------------------------------------------------------------

Damage = Callable[[Path], object]


def _file(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def _folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        take_away(folder, name)
        (folder / name).mkdir()

    return damage


def _both(*damages: Damage) -> Damage:
    def damage(folder: Path) -> None:
        for each in damages:
            each(folder)

    return damage


def _gone(name: str) -> Damage:
    def damage(folder: Path) -> None:
        take_away(folder, name)

    return damage


def _all(pattern: str, content: bytes | None) -> Damage:
    """Every file of a pattern is removed, or holds something else."""

    def damage(folder: Path) -> None:
        for path in sorted(folder.glob(pattern)):
            path.unlink()
            if content is not None:
                path.write_bytes(content)

    return damage


def _cut(name: str, size: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _loop(name: str) -> Damage:
    def damage(folder: Path) -> None:
        take_away(folder, name)
        (folder / name).symlink_to(folder / name)

    return damage


def _pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        take_away(folder, name)
        os.mkfifo(folder / name)

    return damage


def _cell(name: str, column: str, value: object) -> Damage:
    def damage(folder: Path) -> None:
        table = pd.read_csv(folder / name, dtype=str)
        table.loc[1, column] = str(value)
        table.to_csv(folder / name, index=False)

    return damage


def _without_column(name: str, column: str) -> Damage:
    return lambda folder: pd.read_csv(folder / name).drop(columns=[column]).to_csv(folder / name, index=False)


def _database(*statements: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in ("front.csv", "trials.csv", "front"):  # so that the database is what is read
            take_away(folder, name)
        with closing(sqlite3.connect(folder / "study.db")) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    return damage


def _described(change: Callable[[dict[str, object]], object]) -> Damage:
    def damage(folder: Path) -> None:
        for path in (folder / "front").glob("*.json"):
            described = json.loads(path.read_text())
            change(described)
            path.write_text(json.dumps(described))

    return damage


FRONT = [
    *(_file("front.csv", junk) for junk in JUNK if junk != b"point\n"),
    *(_folder("front.csv"), _pipe("front.csv")),
    *(_cell("front.csv", "size_bytes", value) for value in ("nan", "inf", -5, 0, "x", "")),
    *(_cell("front.csv", "accuracy", value) for value in ("inf", "x", "")),
    *(_cell("front.csv", "trial", value) for value in ("1.5", -1, "x", "1e300")),
    *(_cell("front.csv", "latency_ms_spread", value) for value in (-1, "inf", "x")),
    _cell("front.csv", "holds", "perhaps"),
    *(_without_column("front.csv", name) for name in ("point", "trial", "size_bytes", "size_x", "file")),
]


@pytest.mark.parametrize("damaged", FRONT)
def test_a_damaged_front_is_told_by_all_that_read_it(
    whole: Path, tmp_path: Path, karui_command: Command, damaged: Damage
) -> None:
    with copied(whole, tmp_path) as results:
        damaged(results)
        for arguments in commands(results, whole)[: 5 if damaged in FRONT[:3] else 1]:
            assert is_told(karui_command, *arguments) == 2


DATABASE = [
    _database("UPDATE trial_user_attributes SET value_json = '['"),
    _database(f"UPDATE trial_user_attributes SET value_json = '{'[' * 5000}'"),
    _database("UPDATE trial_user_attributes SET value_json = '3' WHERE key = 'candidate'"),
    _database("UPDATE trial_user_attributes SET value_json = '{}' WHERE key = 'measurements'"),
    _database("UPDATE trial_user_attributes SET value_json = '[[1]]' WHERE key = 'stages'"),
    _database("UPDATE trial_user_attributes SET value_json = x'ff' WHERE key = 'digest'"),
    _database("UPDATE trial_params SET distribution_json = '{}'"),
    _database("UPDATE trials SET state = 'NOSUCH'"),
    _database("UPDATE study_directions SET direction = 'SIDEWAYS'"),
    _database("UPDATE alembic_version SET version_num = 'v99.0.0'"),
    _database("UPDATE trial_values SET value_type = 'NOSUCH'"),
    _both(_gone("front.csv"), _file("study.db", b"this is no database" * 100)),
    _both(_gone("front.csv"), _cut("study.db", 5000)),
    _both(_gone("front.csv"), _folder("study.db")),
]


@pytest.mark.parametrize("damaged", DATABASE)
def test_a_damaged_database_is_told_by_all_that_read_it(
    whole: Path, tmp_path: Path, karui_command: Command, damaged: Damage
) -> None:
    with copied(whole, tmp_path) as results:
        damaged(results)
        for arguments in (
            *commands(results, whole)[:1],
            *commands(results, whole)[5 if damaged in DATABASE[:2] else 7 :],
        ):
            assert is_told(karui_command, *arguments) == 2


REST = [
    *(_file("log.jsonl", junk) for junk in JUNK),
    *(_file("log.jsonl", f'{{"event": {text}}}\n'.encode()) for text in ("3", '"trial ended"', "null", '["x"]')),
    _file("log.jsonl", b'{"event": "search begun", "time": "yesterday", "pid": 1}\n'),
    _file("log.jsonl", b'{"event": "search begun", "time": "2026-01-01T00:00:00+00:00", "pid": "x", "host": ""}\n'),
    *(_folder(name) for name in ("log.jsonl", "certification.json", "trials.csv", "deploy/task.json")),
    *(_pipe(name) for name in ("log.jsonl", "certification.json", "trials.csv", "deploy/task.json")),
    *(_loop(name) for name in ("log.jsonl", "front", "study.db", "front.csv")),
    *(_file("certification.json", junk) for junk in JUNK),
    *(_file("trials.csv", junk) for junk in JUNK),
    _both(_gone("front"), _file("front", b"x")),
    *(_all("front/*.onnx", None), _all("front/*.json", None), _all("front/*.json", b"[" * 100_000)),
    _described(dict.clear),
    _described(lambda plain: plain.update(baseline=3)),
    _described(lambda plain: plain.update(measurements={})),
    _described(lambda plain: plain.update(candidate={"architecture": 3})),
    _described(lambda plain: plain.update(study="\ud800", summary="[/x] \x1b[31m <b>")),
    _described(lambda plain: plain.update(objectives=["nonsense"])),
    _database("DELETE FROM version_info"),
    _database("DROP TABLE trials"),
    _database("DROP TABLE trial_values"),
    _database("UPDATE study_user_attributes SET value_json = '3' WHERE key = 'baseline'"),
    _database("UPDATE study_user_attributes SET value_json = '[1]' WHERE key = 'meaning'"),
]


@pytest.mark.parametrize("damaged", REST)
def test_whatever_else_is_damaged_ends_no_command_in_a_traceback(
    whole: Path, tmp_path: Path, karui_command: Command, damaged: Damage
) -> None:
    with copied(whole, tmp_path) as results:
        damaged(results)
        front, *others, _ = commands(results, whole)
        for arguments in (front, others[REST.index(damaged) % len(others)]):
            is_told(karui_command, *arguments)


# --- bundles and caches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "model.onnx", "samples/samples.npz", "MODEL_CARD.md"])
def test_a_damaged_bundle_is_missed_or_told(whole: Path, tmp_path: Path, karui_command: Command, name: str) -> None:
    with copied(whole, tmp_path) as results:
        assert karui_command("pick", results, "--export", tmp_path / "sound").code == 0
        for spoil in (*(_file(name, junk) for junk in JUNK[:6]), _folder(name), _pipe(name), _loop(name)):
            with copied(tmp_path / "sound", tmp_path / "copies") as bundle:
                spoil(bundle)
                assert is_told(karui_command, "verify", bundle, "--target", "none") in (1, 2)


@pytest.mark.parametrize("option", ["--tolerance", "--latency-tolerance"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x"])
def test_a_tolerance_that_means_nothing_is_told(
    whole: Path, tmp_path: Path, karui_command: Command, option: str, value: str
) -> None:
    assert karui_command("verify", tmp_path, option, value).code == 2


def test_a_folder_of_somebody_elses_is_never_cleared(tmp_path: Path, karui_command: Command) -> None:
    mine = tmp_path / "project" / "entries" / "diary"
    mine.mkdir(parents=True)
    (mine / "page.txt").touch()
    for options in ((), ("--clear",)):
        finished = karui_command("cache", tmp_path / "project", *options)
        assert finished.code == 2
        assert "no cache of karui's" in finished.err
    assert sorted(path.name for path in (tmp_path / "project").rglob("*")) == ["diary", "entries", "page.txt"]


@pytest.mark.parametrize(
    "damaged",
    [
        *(_file("entries/net-a/manifest.json", junk) for junk in JUNK),
        *(spoil("entries/net-a/manifest.json") for spoil in (_folder, _pipe, _loop)),
        _file("entries/net-a/manifest.json", b'{"files": {"../../../../outside": [0, "x"]}}'),
        *(
            _file("entries/stray", b"x"),
            _loop("entries/stray"),
            _loop("entries/net-a"),
            _folder("entries/net-a/weights"),
        ),
        *(_both(_gone(name), _file(name, b"x")) for name in ("entries", "locks", "scratch")),
    ],
)
def test_a_damaged_cache_is_shown_cleared_or_told(tmp_path: Path, karui_command: Command, damaged: Damage) -> None:
    cache = StageCache(tmp_path / "cache")
    with cache.entry("net-a", lambda folder: (folder / "weights").touch()):
        pass
    (tmp_path / "outside").touch()
    damaged(tmp_path / "cache")
    for options in ((), ("--clear",)):
        is_told(karui_command, "cache", tmp_path / "cache", *options)
    assert (tmp_path / "outside").exists()


# --- anything at all --------------------------------------------------------------------------------------------------


def _survives(whole: Path, folder: Path, command: Command, chance: Random) -> None:
    with copied(whole, folder) as results:
        for _ in range(chance.choice((1, 1, 2))):
            damage(results, chance)
        if chance.random() < 0.4:
            take_away(results, chance.choice(("front.csv", "trials.csv", "front", "study.db")))
        *quick, report = commands(results, whole)
        chosen = [report] if chance.random() < 0.2 else chance.sample(quick, 2)
        for arguments in chosen:
            is_told(command, *arguments)


# A seed says all of a case, and a smaller one is no simpler case: what fails is not shrunk.
@pytest.mark.parametrize("seed", range(15))
def test_any_damage_is_told(whole: Path, tmp_path: Path, karui_command: Command, seed: int) -> None:
    _survives(whole, tmp_path, karui_command, Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 175))
def test_any_damage_is_told_at_length(whole: Path, tmp_path: Path, karui_command: Command, seed: int) -> None:
    _survives(whole, tmp_path, karui_command, Random(seed))


def test_attributes_that_cannot_be_read_are_told(whole: Path, tmp_path: Path, karui_command: Command) -> None:
    with copied(whole, tmp_path) as results:
        with closing(sqlite3.connect(results / "study.db")) as database, database:
            database.execute("UPDATE study_user_attributes SET value_json = ?", ("[" * 100_000,))
        for arguments in commands(results, whole):
            is_told(karui_command, *arguments)


@pytest.mark.slow
def test_a_search_goes_on_over_damaged_results_or_tells(tmp_path: Path, karui_command: Command) -> None:
    study = write_study(tmp_path)
    assert karui_command("search", study, "--trials", 2, "--out", "sound").code == 0
    names = ["front.csv", "trials.csv", "log.jsonl", "certification.json", ".certified", "front", "deploy", "study.db"]
    names += [str(path.relative_to("sound")) for path in Path("sound").glob("build/outcomes/*/*.json")][:1]
    spoils = (_folder, _loop, lambda name: _file(name, b"[" * 100_000))
    for index, name in enumerate(names):
        with copied(Path("sound"), tmp_path / "copies") as results:
            take_away(results, name)
            spoils[index % len(spoils)](name)(results)
            is_told(karui_command, "search", study, "--trials", 2, "--out", results)
