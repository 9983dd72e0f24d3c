"""Files of one front compared row by row: how well the differences of their accuracies are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...evaluators.measurement import Measurement
from ...evaluators.row_scores import RowStore, difference_spreads
from ...search.objectives import Objective
from ...search.statistics.noise import Differences
from ..results.tables import TEST_ACCURACY

SPLITS = {"accuracy": "validation", TEST_ACCURACY: "test"}
"""The splits that accuracies are measured on, by the names of the measurements."""


@dataclass(frozen=True)
class Pairing:
    """Knows which rows files got right, as far as that was kept.

    Args:
        store: The scores of rows; None where there are none, so that nothing is paired.
        baseline_digest: SHA-256 of the baseline's file; empty where it is not known.
    """

    store: RowStore | None = None
    baseline_digest: str = ""

    def differences(
        self, digests: Sequence[str], objectives: Sequence[Objective], measured: str = "accuracy"
    ) -> NDArray[np.float64] | None:
        """Return the spreads of differences of every two files, for :mod:`karui.search.statistics.noise`; None without
        a store.

        Args:
            digests: Of the files, n of them.
            objectives: Those by which they are compared.
            measured: Which accuracy stands for the metric, by the name of the measurement.

        Returns:
            Shape (n, n, n_objectives); NaN in all objectives but accuracy, and for files that are not paired.
        """
        if self.store is None:
            return None
        spreads = difference_spreads([self.store.get(SPLITS[measured], digest) for digest in digests])
        found = np.full((*spreads.shape, len(objectives)), np.nan)
        for column, objective in enumerate(objectives):
            if objective.name == "accuracy":
                found[:, :, column] = spreads
        return found

    def among(self, objectives: Sequence[Objective]) -> Differences:
        """Return what tells the differences of files in a search by these objectives, which compares on validation."""
        return lambda digests: self.differences(digests, objectives)

    def spread(self, digest: str, other: str, found: Measurement, against: Measurement) -> float:
        """Return half the width of the 95 % interval of the difference of two files' accuracies on one split.

        Args:
            digest: Of the one file.
            other: Of the other.
            found: The accuracy of the one, named as in :data:`SPLITS`.
            against: That of the other; where rows are not known the two count as independent.
        """
        split = SPLITS.get(found.name, "")
        known = [None if self.store is None else self.store.get(split, each) for each in (digest, other)]
        if known[0] is not None and known[1] is not None:
            paired = known[0].difference_spread(known[1])
            if paired is not None:
                return paired
        return math.hypot(found.spread, against.spread)

    def spread_of_loss(self, digest: str, found: Measurement, baseline: Mapping[str, Measurement]) -> float:
        """Return the same of what a file loses against the baseline on one split."""
        return self.spread(digest, self.baseline_digest, found, baseline[found.name])


def pairing_of(rows: Path, baseline: Mapping[str, Measurement]) -> Pairing:
    """Return what is known of the files of a study.

    Args:
        rows: The folder of the scores of rows.
        baseline: The baseline's measurements; its latency names its file.
    """
    latency = baseline.get("latency_ms")
    digest = "" if latency is None else str(latency.conditions.get("reference_digest", ""))
    return Pairing(RowStore(rows), digest)
