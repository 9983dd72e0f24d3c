"""``front.csv`` and ``trials.csv`` read back: with the columns that they must have, and numbers where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.folder import RunFolder
from ..storage.reading import check_is_file, explain_damage

if TYPE_CHECKING:
    import pandas as pd

_POSITIVE = ("size_bytes", "latency_ms", "latency_ratio", "size_x", "speed_x", "search_latency_ms")
_NUMBERS = ("accuracy", "test_accuracy", "drop_points", "front_probability")
_MAY_LACK = ("load_ms", "load_ratio", "load_peak_bytes", "session_peak_bytes", "energy_mj", "energy_ratio")
_TEXTS = ("stage", "reason", "kind", "candidate", "key", "sha256", "state", "point", "mark", "covered_by", "file")
_OF_FRONT = ("point", "trial", "candidate", "size_bytes", "latency_ms", "latency_ratio", "accuracy")
_MEASURED_AGAIN = ("size_x", "drop_points", "sha256", "file", "holds")
_OF_TRIALS = ("trial", "state", "candidate", "key", "feasible", "on_front")


def read_front_csv(folder: RunFolder) -> pd.DataFrame:
    """Return ``front.csv``, one row per point.

    Raises:
        OutputError: Where it cannot be read, lacks a column, or holds something else than a number where one belongs.
    """
    remedy = "delete that file and run the search again; it only writes the front anew"
    with explain_damage(folder.front_csv, "the front", remedy):
        table = _read(folder.front_csv)
        if len(table):
            more = _MEASURED_AGAIN if "test_accuracy" in table.columns else ()
            _check(table, (*_OF_FRONT, *more), whole=True)
        elif "point" not in table.columns:
            raise ValueError("it has no column 'point'")
        if "holds" in table.columns:
            table["holds"] = _flags(table, "holds")
    return table


def read_trials_csv(path: Path) -> pd.DataFrame:
    """Return ``trials.csv``, one row per trial that has begun.

    Raises:
        OutputError: As :func:`read_front_csv`.
    """
    remedy = "delete that file and run the search again; it only writes the trials anew"
    with explain_damage(path, "the trials", remedy):
        table = _read(path)
        _check(table, _OF_TRIALS, whole=False)
        for name in ("stage", "reason", "kind"):  # words, which may be missing
            if name not in table.columns:
                table[name] = ""
        for name in ("feasible", "on_front"):
            _flags(table, name)
    return table


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    check_is_file(path)
    # A digest of decimal digits only is no number, a cell's operation "none" is a value, and so is a reason of "NA".
    text = dict.fromkeys(_TEXTS, str)
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""], low_memory=False)
    if len(table.columns) > len(set(table.columns)) or any(not isinstance(name, str) for name in table.columns):
        raise ValueError("its columns have no names, or twice the same")
    return table


def _check(table: pd.DataFrame, needed: Sequence[str], *, whole: bool) -> None:
    """Check columns and numbers.

    Args:
        table: Its columns of numbers become numbers.
        needed: Columns that it must have.
        whole: Whether every row must have every number, or only those that were measured.
    """
    import numpy as np
    import pandas as pd

    if missing := [name for name in needed if name not in table.columns]:
        raise ValueError(f"it has no column {missing[0]!r}")
    for name in table.columns:
        kind = name.partition("@")[0].removesuffix("_spread").removesuffix("_count")
        if kind not in (*_POSITIVE, *_NUMBERS, *_MAY_LACK, "trial"):
            continue
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        is_spread = name.endswith(("_spread", "_count"))
        wrong = np.isinf(numbers) | (numbers.isna() & table[name].notna())
        if name in _POSITIVE or (kind in _POSITIVE and not is_spread):
            wrong |= numbers <= 0
        if name == "trial" or is_spread:
            wrong |= numbers < 0
        if (name == "trial") or (whole and name in needed):
            wrong |= numbers.isna()
        if name == "trial":
            wrong |= (numbers % 1 != 0) | (numbers > 2**53)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"line {row + 2}, column {name}: {_plain(table[name].iloc[row])}, a number was expected")
        if name == "trial":
            table[name] = numbers.astype(int)
        elif not pd.api.types.is_numeric_dtype(table[name]):  # whole numbers stay whole
            table[name] = numbers
    if whole:
        for name in ("point", "file"):
            if name in table.columns and table[name].isna().any():
                raise ValueError(f"a row has no {name}")
        table["candidate"] = table["candidate"].fillna("")


def _flags(table: pd.DataFrame, name: str) -> Any:
    """Return a column of flags; what is missing is none."""
    texts = table[name].astype(object).fillna("").astype(str).str.lower()
    wrong = ~texts.isin(["true", "false", ""])
    if wrong.any():
        raise ValueError(f"column {name}: {_plain(table[name][wrong].iloc[0])}, True or False was expected")
    return texts == "true"


def _plain(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
