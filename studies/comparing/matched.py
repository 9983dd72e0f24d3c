"""Which points of one run another run has as well, but for what may be noise.

Accuracies of two files that saw the same rows are compared row by row, whichever run they are of
(:mod:`karui.evaluators.row_scores`); all else varies by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...evaluators.row_scores import RowScores, RowStore
from ...search.objectives import Objective, as_losses
from ..certifying.pairing import SPLITS
from ..storage.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Scores = Sequence[RowScores | None]


def matched_by(points: Floats, others: Floats, noise: Floats, objectives: Sequence[Objective]) -> tuple[bool, ...]:
    """Say beside which points some other point stands that is worse in no objective beyond noise.

    Args:
        points: Shape (n, n_objectives): size, latency, accuracy, and so on.
        others: Shape (m, n_objectives).
        noise: Half widths of the 95 % intervals of their differences, shape (n, m, n_objectives); 0 of what is exact.
        objectives: The columns' objectives.
    """
    own, theirs = as_losses(points, objectives), as_losses(others, objectives)
    worse_by = theirs - own[:, None]
    no_worse: NDArray[np.bool_] = np.all((worse_by <= 0) | (worse_by < noise), axis=2)
    return tuple(bool(row.any()) for row in no_worse)


def noise_between(own: Floats, theirs: Floats, paired: Floats, objectives: Sequence[Objective]) -> Floats:
    """Return the noise of differences between points of two runs, shape (n, m, n_objectives).

    Args:
        own: Spreads of the one's values, shape (n, n_objectives).
        theirs: Of the other's, shape (m, n_objectives).
        paired: Of the differences of accuracies, shape (n, m); NaN where two are not paired, and vary by themselves.
        objectives: The columns' objectives.
    """
    noise: Floats = np.hypot(own[:, None], theirs)
    for column, objective in enumerate(objectives):
        if objective.name == "accuracy":
            noise[:, :, column] = np.where(np.isnan(paired), noise[:, :, column], paired)
    return noise


def paired_spreads(own: Scores, theirs: Scores) -> Floats:
    """Return the spreads of differences of accuracies between two runs, shape (n, m); NaN where not paired."""
    found = np.full((len(own), len(theirs)), np.nan)
    for row, one in enumerate(own):
        for column, other in enumerate(theirs):
            if one is not None and other is not None and (spread := one.difference_spread(other)) is not None:
                found[row, column] = spread
    return found


def scores_of(front: pd.DataFrame, path: Path, accuracy: str) -> Scores:
    """Return which rows each point of a front got right; None where that is not known.

    Args:
        front: As :func:`karui.load_front` returns it.
        path: The results folder.
        accuracy: Name of the accuracy by which points are compared.
    """
    rows = RowStore(RunFolder(path).rows)
    digests = front["sha256"] if "sha256" in front.columns else [""] * len(front)
    return [rows.get(SPLITS[accuracy], str(digest)) for digest in digests]


def spreads_of(front: pd.DataFrame, accuracy: str, objectives: Sequence[Objective]) -> Floats:
    """Return the spread of each point's value of each objective, latency as a ratio; 0 where it is not known."""
    renamed = {"latency_ms": "latency_ratio", "accuracy": accuracy}
    columns = [f"{renamed.get(objective.name, objective.name)}_spread" for objective in objectives]
    found = np.zeros((len(front), len(objectives)))
    for place, column in enumerate(columns):
        if column in front.columns:
            found[:, place] = front[column].fillna(0.0).to_numpy(dtype=np.float64)
    return found
