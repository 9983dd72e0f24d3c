"""The trials behind the front, as compact columns: thousands of them must fit the page, and still be drawn quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..results.tables import OBJECTIVE_NAMES

if TYPE_CHECKING:
    import pandas as pd

MOST_TRIALS = 10_000
"""How many trials the page holds; of more, those that are spread evenly over the search."""

MOST_DRAWN = 1_500
"""How many of them each plot draws: a browser draws as many at once, and more would lie on top of each other."""


def cloud_columns(trials: pd.DataFrame, parameters: list[str], labels: list[str]) -> dict[str, Any]:
    """Return the measured trials that are no points, column by column; JSON types.

    Values have five digits; parameters are places in a list of values, -1 where a trial has none.

    Args:
        trials: The trials.
        parameters: The columns that are parameters.
        labels: Of each trial, the axes that it uses.
    """
    kept = np.arange(len(trials))
    if len(trials) > MOST_TRIALS:
        kept = np.linspace(0, len(trials) - 1, MOST_TRIALS).astype(int)
    trials = trials.iloc[kept]
    values = trials[list(OBJECTIVE_NAMES)].to_numpy(dtype=np.float64)
    columns = {name: trials[name].tolist() for name in parameters}
    columns |= {"kind": trials["kind"].tolist(), "axes": [labels[index] for index in kept]}
    return {
        "trial": trials["trial"].astype(int).tolist(),
        "size": [round(value) for value in values[:, 0].tolist()],
        "latency": [_digits(value) for value in values[:, 1].tolist()],
        "accuracy": [_digits(value) for value in values[:, 2].tolist()],
        "feasible": trials["feasible"].astype(int).tolist(),
        "drawn": _spread_out(values).tolist(),
        "parameters": {name: _coded(column) for name, column in columns.items()},
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def plain_value(value: Any) -> Any:
    """Return a parameter's value as JSON has it: whole numbers whole again, as a table may not have left them."""
    if isinstance(value, float):
        if value != value:
            return None
        return int(value) if value == int(value) else value
    return value


def _coded(column: list[Any]) -> dict[str, Any]:
    plain = [plain_value(value) for value in column]
    values = sorted({value for value in plain if value is not None}, key=lambda value: (isinstance(value, str), value))
    places = {value: place for place, value in enumerate(values)}
    return {"values": values, "index": [-1 if value is None else places[value] for value in plain]}


def _spread_out(values: NDArray[np.float64]) -> NDArray[np.int_]:
    """Return which trials to draw: all of a few, of many one for each small cell of the plots before any second."""
    if len(values) <= MOST_DRAWN:
        return np.arange(len(values))
    scaled = np.column_stack([np.log(values[:, 0]), np.log(values[:, 1]), values[:, 2]])
    width = np.ptp(scaled, axis=0)
    cells = np.floor((scaled - scaled.min(axis=0)) / np.where(width > 0, width, 1.0) * 40).astype(int)
    _, cell_of, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell_of = cell_of.ravel()
    order = np.argsort(cell_of, kind="stable")
    within = np.empty(len(values), dtype=int)
    within[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    within[[*scaled.argmin(axis=0), *scaled.argmax(axis=0)]] = -1  # the outermost before all others
    return np.sort(np.argsort(within, kind="stable")[:MOST_DRAWN])
