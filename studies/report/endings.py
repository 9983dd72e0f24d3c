"""What became of the trials: how many were stopped or failed, where, and for what reasons."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

REASONS = 5
"""How many kinds of reasons are told of one stage."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")

STATES = {
    "evaluated": "measured",
    "stopped": "stopped by a gate",
    "failed": "failed",
    "duplicate": "already known",
    "impossible": "impossible",
    "interrupted": "interrupted",
    "running": "running",
}
"""States of trials in words, in the order in which they are told."""


@dataclass(frozen=True)
class Reason:
    """A kind of reason: reasons that differ in their numbers only are of one kind.

    Args:
        text: One of them, as it was told.
        count: How many there are.
    """

    text: str
    count: int


@dataclass(frozen=True)
class Ending:
    """Trials that ended in the same state at the same stage.

    Args:
        state: ``stopped`` or ``failed``.
        stage: The gate or the stage.
        count: How many.
        reasons: Why, most frequent first.
        tested: For a gate, how many it would have stopped but let through as a test.
        missed: How many of these are on the front.
    """

    state: str
    stage: str
    count: int
    reasons: tuple[Reason, ...]
    tested: int = 0
    missed: int = 0


def count_states(trials: pd.DataFrame) -> dict[str, int]:
    """Return how many trials are in each state, in words; states that none is in are left out."""
    counts = Counter(trials["state"])
    return {words: counts[state] for state, words in STATES.items() if counts[state]}


def endings_of(trials: pd.DataFrame) -> tuple[Ending, ...]:
    """Return what was stopped or failed, by gate or stage, most frequent first; gates that were only tested last."""
    let_through = trials[(trials["state"] == "evaluated") & (trials["stage"] != "")]
    tested = Counter(let_through["stage"])
    missed = Counter(let_through.loc[let_through["on_front"], "stage"])
    found = []
    for state in ("stopped", "failed"):
        ended = trials[trials["state"] == state]
        for stage, rows in ended.groupby("stage", sort=True):
            gate = str(stage) if state == "stopped" else ""
            reasons = _kinds(rows["reason"].tolist())
            found.append(Ending(state, str(stage), len(rows), reasons, tested[gate], missed[gate]))
    stopped_at = {ending.stage for ending in found if ending.state == "stopped"}
    only_tested = [stage for stage in sorted(tested) if stage not in stopped_at]
    found += [Ending("stopped", stage, 0, (), tested[stage], missed[stage]) for stage in only_tested]
    return tuple(sorted(found, key=lambda ending: -ending.count))


def _kinds(reasons: list[str]) -> tuple[Reason, ...]:
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons:
        kind = _NUMBER.sub("#", reason)
        first.setdefault(kind, reason)
        counts[kind] += 1
    return tuple(Reason(first[kind], count) for kind, count in counts.most_common(REASONS))
