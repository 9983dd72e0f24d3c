"""Latencies on several targets, by the columns that a table has of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LATENCY = "latency_ms"


def target_columns(points: pd.DataFrame) -> dict[str, str]:
    """Return the columns of latencies by the name of their target; nothing where there is one target only.

    The plain latency is not among them: it is that of one of them, or of the worst.
    """
    found = {name.partition("@")[2]: name for name in points.columns if name.startswith(f"{_LATENCY}@")}
    return {target: column for target, column in found.items() if not column.endswith(("_spread", "_count"))}
