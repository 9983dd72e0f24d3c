"""Candidates that two runs have both measured: what the other device, night or version makes of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

MOST_RANKED = 2_000
"""Candidates of which every pair is looked at; of more, the fastest."""


@dataclass(frozen=True)
class CommonCandidate:
    """One candidate in both runs.

    Args:
        key: Its canonical key.
        candidate: What it is, in words.
        first_ratio: Its latency as a share of the baseline's in the first run.
        second_ratio: The same in the second.
        change: The second over the first: 2 where it is twice as slow beside its baseline.
        change_spread: Half the width of the 95 % interval of that.
        first_accuracy: On validation, in the first run.
        second_accuracy: In the second.
    """

    key: str
    candidate: str
    first_ratio: float
    second_ratio: float
    change: float
    change_spread: float
    first_accuracy: float
    second_accuracy: float


@dataclass(frozen=True)
class Flip:
    """Two candidates of which one run measured the one to be faster, and the other run the other, both beyond noise.

    Args:
        faster_in_first: What it is, in words.
        faster_in_second: The other.
        first_share: How much faster the one was in the first run, as its latency over the other's.
        second_share: How much slower in the second, likewise.
    """

    faster_in_first: str
    faster_in_second: str
    first_share: float
    second_share: float


@dataclass(frozen=True)
class CommonCandidates:
    """What two runs have both measured.

    Args:
        candidates: By how much they changed, most first.
        median_change: Median of their changes; None where there are none.
        told_apart: Pairs of which both runs can say which one is faster.
        flips: Those in which they disagree, the most certain first.
    """

    candidates: tuple[CommonCandidate, ...]
    median_change: float | None
    told_apart: int
    flips: tuple[Flip, ...]


def compare_common(first: pd.DataFrame, second: pd.DataFrame) -> CommonCandidates:
    """Compare the latencies of the candidates that two runs have both measured.

    Args:
        first: As ``trials.csv`` holds them.
        second: Likewise.
    """
    one, other = _measured(first), _measured(second)
    keys = sorted(set(one) & set(other), key=lambda key: (one[key]["latency_ratio"], key))
    found = [_common(key, one[key], other[key]) for key in keys]
    told_apart, flips = _flips(found[:MOST_RANKED], one, other)
    return CommonCandidates(
        candidates=tuple(sorted(found, key=lambda item: (-abs(math.log(item.change)), item.key))),
        median_change=float(np.median([item.change for item in found])) if found else None,
        told_apart=told_apart,
        flips=flips,
    )


def _measured(trials: pd.DataFrame) -> dict[str, Any]:
    if not len(trials) or "latency_ratio" not in trials.columns:
        return {}
    evaluated = trials[(trials["state"] == "evaluated") & trials["latency_ratio"].notna()]
    return {row["key"]: row for row in evaluated.to_dict("records")}


def _share_spread(row: dict[str, Any]) -> float:
    """Return the spread of a ratio as a share of it; 0 where it is not known."""
    spread = row.get("latency_ratio_spread", math.nan) / row["latency_ratio"]
    return 0.0 if math.isnan(spread) else float(spread)


def _common(key: str, one: dict[str, Any], other: dict[str, Any]) -> CommonCandidate:
    change = other["latency_ratio"] / one["latency_ratio"]
    return CommonCandidate(
        key=key,
        candidate=str(one["candidate"]),
        first_ratio=float(one["latency_ratio"]),
        second_ratio=float(other["latency_ratio"]),
        change=float(change),
        change_spread=float(change * math.hypot(_share_spread(one), _share_spread(other))),
        first_accuracy=float(one["accuracy"]),
        second_accuracy=float(other["accuracy"]),
    )


def _flips(found: list[CommonCandidate], one: dict[str, Any], other: dict[str, Any]) -> tuple[int, tuple[Flip, ...]]:
    """Return how many pairs both runs can tell apart, and those that they rank differently."""
    logs = np.log([[item.first_ratio, item.second_ratio] for item in found]).reshape(-1, 2)
    spreads = np.array([[_share_spread(one[item.key]), _share_spread(other[item.key])] for item in found]).reshape(
        -1, 2
    )
    told_apart = 0
    flips: list[tuple[float, Flip]] = []
    for row in range(len(found)):
        apart = logs[row + 1 :] - logs[row]
        certain = (np.abs(apart) > np.hypot(spreads[row + 1 :], spreads[row])).all(axis=1)
        told_apart += int(certain.sum())
        turned = np.flatnonzero(certain & (np.sign(apart[:, 0]) != np.sign(apart[:, 1])))
        flips += [(float(np.abs(apart[at]).min()), _flip(found[row], found[row + 1 + int(at)])) for at in turned]
    flips.sort(key=lambda pair: -pair[0])
    return told_apart, tuple(flip for _, flip in flips)


def _flip(one: CommonCandidate, other: CommonCandidate) -> Flip:
    faster, slower = (one, other) if one.first_ratio < other.first_ratio else (other, one)
    return Flip(
        faster.candidate,
        slower.candidate,
        faster.first_ratio / slower.first_ratio,
        faster.second_ratio / slower.second_ratio,
    )
