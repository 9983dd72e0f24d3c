"""Ways in which what a search has left is damaged: by half a write, another program, another version, or on purpose."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from .made_results import make_results
from .made_up import made_up_trials, store_trials

JUNK = (
    *(
        b"",
        b"\0",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"3",
        b'"x"',
        b"\n\n\n",
        b"NaN",
    ),
    *(b"a,b\n1,2,3,4\n5", "é".encode("latin-1") * 50, b"point\n", b"trial,state\n1,2\n", b"point,trial\np01,1\n"),
)
VALUES: tuple[Any, ...] = (
    *(None, "", -1, 0, 1e400, float("nan"), "x", [], {}, "9" * 30, 10**30, True, "../x", "[/bold]", [[[]]], {"a": {}}),
    *("\ud800", 1e-320, "$x$", "a" * 5000, "<script>", "\x1b[31m", 10**4000),
)
STORED = ("x", "", None, -1, 0, 1e308, float("inf"), b"\xff\xfe", "2020-01-01 00:00:00.000000", "[", "[" * 5000, "NaN")


def make_whole(folder: Path) -> Path:
    """A results folder with everything that a search leaves there, made in a moment."""
    make_results(folder, [(0.1, 0.4, 0.9), (0.3, 0.3, 0.95), (0.2, 0.35, 0.93)])
    store_trials(folder, made_up_trials(12), folder.name)
    common = {"time": "2026-01-01T00:00:00.000+00:00", "pid": 1, "host": "x"}
    events = (
        {"event": "search begun", "trials": 12, "study": folder.name},
        {"event": "trial begun", "trial": 1},
        {"event": "trial ended", "trial": 1, "state": "evaluated", "values": {"size_bytes": 1.0}},
        {"event": "search ended", "reason": "all trials are done"},
    )
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(common | event)}\n" for event in events))
    certified = {"time": "t", "same_process": "", "conditions": {}, "test_samples": 3, "points": 3, "lost": []}
    certified |= {"edge_measured": 0, "edge_admitted": 0, "marks": {"holds": 3}, "accuracy_tau": 0.5, "format": 1}
    certified |= {"latency_tau": None, "accuracy_fall_points": 0.1, "latency_rise_percent": 0.2}
    (folder / "certification.json").write_text(json.dumps(certified))
    return folder


def damage(folder: Path, chance: Random) -> str:
    """Damage one file of a folder, and say how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice(files)
    how = chance.choice(("junk", "cut", "folder", "gone", "lost link", "loop", "bytes", *["entry"] * 6))
    if how == "entry":
        path = chance.choice([file for file in files if file.suffix in _ENTRIES] or files)
        try:
            how = _ENTRIES.get(path.suffix, _bytes)(path, chance)
        except ValueError:  # damaged before, so that there is no entry to change
            how = _bytes(path, chance)
    elif how == "junk":
        path.write_bytes(chance.choice(JUNK))
    elif how == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif how == "bytes":
        _bytes(path, chance)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how != "gone":
            path.symlink_to(path if how == "loop" else "nowhere/at/all")
    return f"{path.relative_to(folder)}: {how}"


def _bytes(path: Path, chance: Random) -> str:
    content = bytearray(path.read_bytes() or b"0")
    for _ in range(chance.choice((1, 5, 50))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)
    return "bytes"


def change_somewhere(thing: Any, chance: Random) -> Any:
    """Take one value out of plain JSON types, or put another in its place."""
    places: list[tuple[Any, Any]] = []
    left = [thing]
    while left:
        part = left.pop()
        keys = list(part) if isinstance(part, dict) else list(range(len(part))) if isinstance(part, list) else []
        places += [(part, key) for key in keys]
        left += [part[key] for key in keys]
    if not places:
        return chance.choice(VALUES)
    part, key = chance.choice(places)
    if chance.random() < 0.4:
        del part[key]
    else:
        part[key] = chance.choice(VALUES[:-1])
    return thing


def _json(path: Path, chance: Random) -> str:
    text = json.dumps(change_somewhere(json.loads(path.read_text()), chance))
    path.write_text(text)
    return "another value"


def _log(path: Path, chance: Random) -> str:
    lines = path.read_text().split("\n")
    at = chance.randrange(len(lines) - 1)
    half = lines[at][: chance.randrange(len(lines[at]))]
    lines[at] = half if chance.random() < 0.3 else json.dumps(change_somewhere(json.loads(lines[at]), chance))
    path.write_text("\n".join(lines))
    return lines[at][:100]


def _csv(path: Path, chance: Random) -> str:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    name = chance.choice(list(table.columns))
    value = str(chance.choice(VALUES[:-1])).encode("utf-8", "replace").decode()
    kind = chance.random()
    if kind < 0.3:
        table = table.drop(columns=[name])
    elif kind < 0.5:
        table[name] = value
    else:
        table.loc[chance.randrange(len(table)), name] = value
    table.to_csv(path, index=False)
    return f"{name} = {value[:30]}"


def _database(path: Path, chance: Random) -> str:
    with closing(sqlite3.connect(path)) as database:
        tables = sorted(row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        table = chance.choice(tables)
        if chance.random() < 0.1:
            database.execute(f"DROP TABLE {table}")
            database.commit()
            return f"without {table}"
        column = chance.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
        rows = [row[0] for row in database.execute(f"SELECT rowid FROM {table}")]
        if not rows:
            return "as it was"
        row, value = chance.choice(rows), chance.choice(STORED)
        if column.endswith("json") and chance.random() < 0.8:
            (text,) = database.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
            value = json.dumps(change_somewhere(json.loads(text), chance))
        try:
            database.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?", (value, row))
            database.commit()
        except sqlite3.Error:
            return "as it was"
    return f"{table}.{column} = {str(value)[:60]!r}"


_ENTRIES = {".json": _json, ".jsonl": _log, ".csv": _csv, ".db": _database}


def take_away(folder: Path, name: str) -> None:
    """Remove a file or a folder, so that something else is read instead."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
