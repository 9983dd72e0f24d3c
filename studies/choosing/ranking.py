"""Where the ranking of files flips between targets: which of two is the faster one depends on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_MILLISECONDS, _RATIO = "latency_ms@", "latency_ratio@"


@dataclass(frozen=True)
class Flip:
    """Two files of which one is faster on one target, and the other on another.

    Args:
        one: The file that is faster on ``here``.
        other: The file that is faster on ``there``.
        here: A target.
        there: Another one.
        factor_here: How many times faster ``one`` is than ``other`` on ``here``; above 1.
        factor_there: How many times faster ``other`` is than ``one`` on ``there``; above 1.
    """

    one: str
    other: str
    here: str
    there: str
    factor_here: float
    factor_there: float


def ranking_flips(
    names: Sequence[str], ratios: Mapping[str, Sequence[float]], spreads: Mapping[str, Sequence[float]]
) -> tuple[Flip, ...]:
    """Return the pairs of files whose ranking flips between two targets by more than noise, the clearest first.

    Two files differ on a target where the difference of their ratios is larger than the half width of its 95 %
    interval, which is the root of the sum of the squares of theirs: they were measured independently.

    Args:
        names: Of the files, n of them.
        ratios: For each target n latencies, in shares of the reference's; not finite where one was not measured.
        spreads: Half the widths of their 95 % intervals, likewise.
    """
    flips = []
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        factors = {target: _factor(found, spreads[target], i, j) for target, found in ratios.items()}
        for here, there in combinations(ratios, 2):
            if factors[here] * factors[there] >= 0:
                continue
            first, second = math.exp(abs(factors[here])), math.exp(abs(factors[there]))
            pair = (one, other) if factors[here] > 0 else (other, one)
            flips.append(Flip(*pair, here, there, first, second))
    return tuple(sorted(flips, key=lambda flip: -min(flip.factor_here, flip.factor_there)))


def front_flips(front: pd.DataFrame) -> tuple[Flip, ...]:
    """Return where the ranking of a front's points flips between its targets; nothing where it has only one.

    Args:
        front: As ``front.csv`` holds it; or trials that are called points, as a report shows them.
    """
    targets = [str(name).removeprefix(_RATIO) for name in front.columns if _is_ratio(str(name))]
    ratios = {target: [float(value) for value in front[f"{_RATIO}{target}"]] for target in targets}
    # What is exact has no spread, and then its column may be missing.
    spreads = {
        target: [float(value) for value in front.get(f"{_RATIO}{target}_spread", [0.0] * len(front))]
        for target in targets
    }
    return ranking_flips([str(name) for name in front["point"]], ratios, spreads) if len(targets) > 1 else ()


def describe_flip(flip: Flip) -> str:
    """Return in one sentence what flips."""
    return (
        f"{flip.one} is {flip.factor_here:.2f}x faster than {flip.other} on {flip.here}, "
        f"and {flip.factor_there:.2f}x slower on {flip.there}"
    )


def _factor(ratios: Sequence[float], spreads: Sequence[float], i: int, j: int) -> float:
    """Return the logarithm of how many times faster the first of two is; 0 where noise may have made it so."""
    first, second = ratios[i], ratios[j]
    if not (math.isfinite(first) and math.isfinite(second) and min(first, second) > 0):
        return 0.0
    noise = math.hypot(*(spread if math.isfinite(spread) else 0.0 for spread in (spreads[i], spreads[j])))
    return math.log(second / first) if abs(second - first) > noise else 0.0


def _is_ratio(column: str) -> bool:
    return column.startswith(_RATIO) and not column.endswith(("_spread", "_count"))


def target_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return those of a table's columns that are latencies, by their target; nothing where there is one target only.

    The plain latency is not among them: it is that of one of them, or of the worst.
    """
    found = {name.removeprefix(_MILLISECONDS): name for name in columns if name.startswith(_MILLISECONDS)}
    return {target: column for target, column in found.items() if not column.endswith(("_spread", "_count"))}
