"""Why this point of a front and not its neighbours, in sentences with numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...evaluators.measurement import Measurement
from ...search.objectives import as_losses
from ...search.statistics.front import knee_shares
from ..bundle.model_card import standing
from ..certifying.pairing import SPLITS, Pairing, pairing_of
from ..results.further import title_of
from ..results.metric_text import has_points, loss_text, metric_text, one_point_text
from .choose import Choice
from .judge import JudgedFront, judge_front
from .recommendation import describe_recommended, metric_of

if TYPE_CHECKING:
    import pandas as pd

_NEXT = ("smaller", "faster", "more accurate")
_LISTED = 8
_ALIKE = 0.0005
"""Share below which two latencies are the same in the digits that are shown."""


@dataclass(frozen=True)
class Difference:
    """How another point differs from the chosen one in one objective.

    Args:
        here: The chosen point's value.
        there: The other point's.
        spread: Half the width of the 95 % interval of the difference; accuracies are compared row by row where it is
            known which rows both got right, and everything else is taken to vary by itself.
    """

    here: float
    there: float
    spread: float

    @property
    def within_noise(self) -> bool:
        """Whether the two cannot be told apart."""
        return self.there != self.here and abs(self.there - self.here) <= self.spread


@dataclass(frozen=True)
class Neighbour:
    """The point of the front that is next better than the chosen one in one objective.

    Args:
        column: Which objective: 0 size, 1 latency, 2 accuracy.
        row: The point.
        differences: In size, latency and accuracy.
        broken: The bounds that keep it out, as text.
    """

    column: int
    row: pd.Series[Any]
    differences: tuple[Difference, Difference, Difference]
    broken: tuple[str, ...]


def find_neighbours(
    judged: JudgedFront, chosen: int, pairing: Pairing | None = None
) -> tuple[Neighbour | None, Neighbour | None, Neighbour | None]:
    """Return the next smaller, the next faster and the next more accurate point; None where there is none.

    Of several that are alike in that objective the one that loses least in the others counts, latency and size by
    their share, accuracy by points.

    Args:
        judged: The front.
        chosen: Row of the chosen point.
        pairing: Which rows files got right; accuracies count as independent without it.
    """
    losses = as_losses(judged.values, judged.objectives)
    found: list[Neighbour | None] = []
    for column in range(3):
        better = np.flatnonzero(losses[:, column] < losses[chosen, column])
        if not len(better):
            found.append(None)
            continue
        nearest = better[losses[better, column] == losses[better, column].max()]
        others = [other for other in range(3) if other != column]
        rest = sorted(nearest, key=lambda index: (*losses[index, others], index))[0]
        found.append(_neighbour(judged, chosen, int(rest), column, pairing or Pairing()))
    return found[0], found[1], found[2]


def explain_choice(choice: Choice) -> list[str]:
    """Return sentences: why this point, what bounds leave out, and what its neighbours would give and cost."""
    baseline = {name: item.value for name, item in choice.baseline.items()}
    judged = judge_front(choice.front, choice.budget, baseline, choice.further)
    chosen = judged.table["point"].tolist().index(choice.row["point"])
    neighbours = find_neighbours(judged, chosen, pairing_of(choice.results.folder.rows, choice.baseline))
    metric = metric_of(choice.baseline)
    return [
        *_why(judged, chosen, choice),
        *_excluded(judged),
        *(_describe(found, column, metric, baseline["accuracy"]) for column, found in enumerate(neighbours)),
    ]


def _neighbour(judged: JudgedFront, chosen: int, other: int, column: int, pairing: Pairing) -> Neighbour:
    here, there = judged.table.iloc[chosen], judged.table.iloc[other]

    def difference(name: str) -> Difference:
        values = float(here[name]), float(there[name])
        spreads = _spread(here, name), _spread(there, name)
        if name not in SPLITS:
            return Difference(*values, math.hypot(*spreads))
        both = [Measurement(name, value, "1", spread) for value, spread in zip(values, spreads, strict=True)]
        digests = [str(row.get("sha256", "")) for row in (here, there)]
        return Difference(*values, pairing.spread(digests[0], digests[1], *both))

    size, latency, accuracy = (difference(name) for name in judged.columns)
    broken = [
        objective.bound_text(judged.baseline[objective.name])
        for objective, share in zip(judged.objectives, judged.violations[other], strict=True)
        if share > 0
    ]
    return Neighbour(column, there, (size, latency, accuracy), tuple(broken))


def _spread(row: pd.Series[Any], name: str) -> float:
    spread = float(row.get(f"{name}_spread", 0.0))
    return 0.0 if math.isnan(spread) else spread


def _why(judged: JudgedFront, chosen: int, choice: Choice) -> list[str]:
    name, fitting = choice.row["point"], judged.fitting
    among = f"the {len(fitting)} points that keep the budget" if len(fitting) > 1 else "the one point that does"
    if choice.prefer is None:
        return [f"{name} was named; it is one of {len(fitting)} of {len(judged.table)} points that keep the budget."]
    if len(fitting) == 1:
        return [f"{name} is the only one of {len(judged.table)} points that keeps the budget."]
    recommended = judged.recommended() if choice.prefer == "recommended" and not judged.bounds_accuracy else None
    if recommended is not None:
        fitting = np.array(recommended.among)
        loss = one_point_text(judged.baseline["accuracy"], metric_of(choice.baseline))
        among = f"the {len(fitting)} points that keep the budget and lose at most {loss} on validation"
        if len(fitting) == 1:
            return describe_recommended(judged, recommended, metric_of(choice.baseline))
    if choice.prefer not in ("knee", "recommended"):
        word = {"size": "smallest", "latency": "fastest", "accuracy": "most accurate"}[choice.prefer]
        return [f"{name} is the {word} of {among}, of {len(judged.table)} on the front."]
    return _why_compromise(judged, chosen, fitting, among)


def _why_compromise(judged: JudgedFront, chosen: int, fitting: NDArray[np.intp], among: str) -> list[str]:
    """Return how near the chosen point lies to the ideal one of those that it was chosen from."""
    name = judged.table.iloc[chosen]["point"]
    shares = knee_shares(judged.searched_values[fitting], judged.searched)
    distances = np.linalg.norm(shares, axis=1)
    place = fitting.tolist().index(chosen)
    size, latency, accuracy, *others = shares[place]
    further = "".join(f", {share:.2f} in {title_of(item)}" for item, share in zip(judged.further, others, strict=True))
    all_of_them = "All three" if not others else f"All {len(judged.searched)} objectives"
    second = int(np.argsort(np.where(np.arange(len(fitting)) == place, np.inf, distances), kind="stable")[0])
    return [
        f"{name} is the best compromise among {among}, of {len(judged.table)} on the front. From 0, the best of them, "
        f"to 1, the worst, it lies at {size:.2f} in size, {latency:.2f} in latency (both by their logarithm) and "
        f"{accuracy:.2f} in accuracy{further}: {distances[place]:.2f} away from a point that were best in all. Next "
        f"comes {judged.table.iloc[int(fitting[second])]['point']}, {distances[second]:.2f} away.",
        f"That is compromise programming (Yu 1973, Zeleny 1973), Euclidean distance. {all_of_them} count alike, from "
        "best to worst of these: where a few points of accuracy decide, say so with --min-accuracy.",
    ]


def _excluded(judged: JudgedFront) -> list[str]:
    sentences = []
    for column, objective in enumerate(judged.objectives):
        if objective.bound is None:
            continue
        names = judged.table["point"][judged.violations[:, column] > 0].tolist()
        bound = objective.bound_text(judged.baseline[objective.name])
        if not names:
            sentences.append(f"{bound} leaves no point out.")
            continue
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        sentences.append(f"{bound} leaves out {len(names)} of {len(judged.table)}: {', '.join(names[:_LISTED])}{more}.")
    return sentences


def _describe(found: Neighbour | None, column: int, metric: str, baseline: float) -> str:
    if found is None:
        return f"No point of the front is {_NEXT[column]}."
    texts = (_size_text, _latency_text, lambda difference: _accuracy_text(difference, metric, baseline))
    order = [column, *(other for other in range(3) if other != column)]
    said = [texts[index](found.differences[index]) for index in order]
    text = f"Next {_NEXT[column]}: {found.row['point']} ({found.row['candidate']}), {'; '.join(said)}."
    if found.broken:
        text += f" It breaks {' and '.join(found.broken)}."
    told = standing({str(name): value for name, value in found.row.items()})
    return f"{text} {told}" if told else text


def _size_text(difference: Difference) -> str:
    here, there = difference.here, difference.there
    if here == there:
        return "as large"
    word = "smaller" if there < here else "larger"
    return f"{abs(there / here - 1):.1%} {word} ({there / 1e3:,.1f} KB instead of {here / 1e3:,.1f} KB)"


def _latency_text(difference: Difference) -> str:
    here, there = difference.here, difference.there
    if here == there:
        return "as fast"
    word = "faster" if there < here else "slower"
    if abs(there / here - 1) < _ALIKE:
        return f"less than 0.1% {word} ({there:.4g} ± {difference.spread:.2g} ms{_noise(difference)})"
    return (
        f"{abs(there / here - 1):.1%} {word} ({there:.4g} ms instead of {here:.4g} ms, "
        f"{there - here:+.3g} ± {difference.spread:.2g} ms{_noise(difference)})"
    )


def _accuracy_text(difference: Difference, metric: str, baseline: float) -> str:
    if difference.here == difference.there:
        return "as accurate"
    gained = difference.there - difference.here
    word = "more" if gained > 0 else "fewer" if has_points(baseline) else "less"
    return (
        f"{loss_text(gained, difference.spread, baseline, metric)} {word} on validation{_noise(difference)} "
        f"({metric_text(difference.there)} instead of {metric_text(difference.here)})"
    )


def _noise(difference: Difference) -> str:
    return ", within noise" if difference.within_noise else ""
