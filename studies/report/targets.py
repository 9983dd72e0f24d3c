"""Latencies on several targets: a table of them, and where they disagree about which point is faster."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_FLIPS = 8
_LATENCY = "latency_ms"


@dataclass(frozen=True)
class Flip:
    """Two points of which one is faster on one target and slower on another, beyond the intervals of all four.

    Args:
        faster: The point that is faster on the first target.
        slower: The other one.
        first: The first target.
        second: The target where it is the other way round.
    """

    faster: str
    slower: str
    first: str
    second: str


def target_columns(points: pd.DataFrame) -> dict[str, str]:
    """Return the columns of latencies by the name of their target; nothing where there is one target only."""
    found = {name.partition("@")[2]: name for name in points.columns if name.startswith(f"{_LATENCY}@")}
    if found and _LATENCY in points.columns:
        found = {"this machine": _LATENCY, **found}
    return {target: column for target, column in found.items() if not column.endswith(("_spread", "_count"))}


def ranking_flips(points: pd.DataFrame, columns: dict[str, str]) -> tuple[Flip, ...]:
    """Return where two targets disagree about which of two points is faster, for sure."""
    flips = []
    rows = points.to_dict("records")
    for one, other in combinations(rows, 2):
        signs = {target: _faster(one, other, column) for target, column in columns.items()}
        first = next((target for target, sign in signs.items() if sign), None)
        second = next((target for target, sign in signs.items() if first and sign == -signs[first]), None)
        if first is not None and second is not None:
            names = [str(one["point"]), str(other["point"])][:: signs[first]]
            flips.append(Flip(names[0], names[1], first, second))
    return tuple(flips)


def _faster(one: dict[object, object], other: dict[object, object], column: str) -> int:
    """Return 1 where the first is faster for sure, -1 where the second is, and 0 where their intervals meet."""
    here, there = (float(str(row.get(column, "nan"))) for row in (one, other))
    apart = sum(_spread(row, column) for row in (one, other))
    if not abs(here - there) > apart:  # a missing latency compares with nothing
        return 0
    return 1 if here < there else -1


def _spread(row: dict[object, object], column: str) -> float:
    name, _, target = column.partition("@")
    spellings = (f"{column}_spread", f"{name}_spread@{target}")
    spread = next((float(str(row[spelling])) for spelling in spellings if spelling in row), 0.0)
    return spread if spread == spread else 0.0
