"""Which rows of a split a file gets right: two files that saw the same rows are compared row by row.

Both stumble over the same hard rows, so that the difference of their accuracies is known better than either of them. A
metric has scores of rows where it is their mean: that of one row is what the metric says of it alone.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8 (paired data); Agresti & Min, "Simple
improved confidence intervals for comparing matched proportions", Statistics in Medicine 2005.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..spaces.artifact import write_bytes

Floats = NDArray[np.float64]

_DEVIATIONS = 1.96
"""How many standard deviations of a normal distribution half of its 95 % interval is."""


@dataclass(frozen=True, eq=False)
class RowScores:
    """What each row of a split adds to the metric of a file.

    Args:
        scores: Shape (n_rows,); their mean is the metric.
        split_digest: Tells the split's targets and the metric from others, SHA-256.
    """

    scores: Floats
    split_digest: str

    @property
    def levels(self) -> tuple[float, float] | None:
        """The two scores that rows have, such as 0 and 1 where a row is right or wrong; None where there are more."""
        found = np.unique(self.scores)
        return (float(found[0]), float(found[-1])) if len(found) <= 2 else None

    def difference_spread(self, other: RowScores) -> float | None:
        """Return half the width of the 95 % interval of the difference of two files' metrics; None where not paired.

        Where rows are right or wrong, it is that of Agresti and Min: Wald's, half a row more in each of the four cells
        (right or wrong in one and the other), so that few rows on which two files differ never make a difference
        certain. With 5 rows, all in favour of one, it is certain; the exact test of McNemar gives p = .06 there.
        Otherwise it is the normal interval of the mean of the rows' differences.

        Args:
            other: Of another file on the same split.
        """
        if self.split_digest != other.split_digest or len(self.scores) != len(other.scores):
            return None
        rows = len(self.scores)
        height = _height(self, other)
        if height is None:
            if rows < 2:
                return None
            # in units of the largest, so that nothing overflows
            gaps = self.scores - other.scores
            unit = float(np.abs(gaps).max()) or 1.0
            return _DEVIATIONS * unit * float(np.std(gaps / unit, ddof=1)) / math.sqrt(rows)
        gained = np.count_nonzero(self.scores > other.scores)
        lost = np.count_nonzero(self.scores < other.scores)
        variance = (gained + lost + 1.0 - (gained - lost) ** 2 / (rows + 2.0)) / (rows + 2.0) ** 2
        return _DEVIATIONS * height * math.sqrt(variance)

    def to_bytes(self) -> bytes:
        """Return them as ``.npz``: one bit a row where there are two scores, float32 otherwise."""
        content = io.BytesIO()
        rows, split = np.array(len(self.scores)), np.array(self.split_digest)
        if (levels := self.levels) is not None:
            bits = np.packbits(self.scores != levels[0])
            np.savez(content, rows=rows, split=split, bits=bits, levels=np.array(levels))
        else:
            np.savez(content, rows=rows, split=split, scores=self.scores.astype(np.float32))
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> RowScores:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: Where it is nothing of that kind.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                rows, split = int(found["rows"]), str(found["split"])
                if "bits" in found:
                    low, high = found["levels"].tolist()
                    scores = np.where(np.unpackbits(found["bits"], count=rows), high, low)
                else:
                    scores = found["scores"].astype(np.float64)
        except Exception as error:  # numpy, zipfile and zlib raise what they like on a damaged file
            raise ValueError(f"no scores of rows: {error}") from error
        if scores.shape != (rows,) or not rows or not np.isfinite(scores).all():
            raise ValueError(f"scores of {rows} rows expected, got shape {scores.shape}")
        return cls(scores.astype(np.float64), split)


def _height(one: RowScores, other: RowScores) -> float | None:
    """Return how far the score of a right row lies above that of a wrong one; None where rows have other scores."""
    found = np.unique([*(one.levels or (0.0, 1.0, 2.0)), *(other.levels or (0.0, 1.0, 2.0))])
    if len(found) > 2:
        return None
    low, high = float(found[0]), float(found[-1])
    # Where all rows of both files are alike nothing tells the other score: of shares and percentages it is 0.
    return high - low if high > low else abs(high) or 1.0


class RowStore:
    """Scores of rows on disk, by split and by the digest of the file that was measured.

    Args:
        folder: Where they are kept; made when the first is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, split_name: str, digest: str) -> RowScores | None:
        """Return the scores of a file; None where there are none, or they cannot be read: nothing is paired then."""
        try:
            return RowScores.from_bytes(self._path(split_name, digest).read_bytes())
        except (OSError, ValueError):
            return None

    def keep(self, split_name: str, digest: str, scores: RowScores) -> None:
        """Keep the scores of a file, whole or not at all.

        Raises:
            OSError: Where they cannot be written.
        """
        path = self._path(split_name, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(scores.to_bytes(), path)

    def _path(self, split_name: str, digest: str) -> Path:
        # what a damaged table or a stranger's results name is no way out of the folder
        return self._folder / split_name / f"{re.sub('[^0-9A-Za-z]', '_', digest)}.npz"


def difference_spreads(found: list[RowScores | None]) -> Floats:
    """Return the spread of the difference of every two files, shape (n, n); NaN where two are not paired."""
    spreads = np.full((len(found), len(found)), np.nan)
    for row, one in enumerate(found):
        for column, other in enumerate(found[:row]):
            if one is not None and other is not None and (spread := one.difference_spread(other)) is not None:
                spreads[row, column] = spreads[column, row] = spread
    np.fill_diagonal(spreads, 0.0)
    return spreads
