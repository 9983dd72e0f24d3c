"""The report in plain words: what a point is made of, and how it compares with the user's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...spaces.axes.axis import all_axes
from ...spaces.candidate import Candidate
from ..choosing.recommend import recommend
from ..results.metric_text import has_points, loss_of, loss_text, metric_text, one_point_text
from ..results.tables import names_of

if TYPE_CHECKING:
    from .material import Material


@dataclass(frozen=True)
class Highlight:
    """One point that the summary names.

    Args:
        role: What it is the best in.
        point: Its name.
        sentence: What it is, in plain words.
    """

    role: str
    point: str
    sentence: str


def describe_bytes(size_bytes: float) -> str:
    """Return a size with its unit, in thousands of bytes."""
    if size_bytes < 1e3:
        return f"{size_bytes:.0f} bytes"
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:.3g} KB" if size_bytes < 1e5 else f"{size_bytes / 1e3:.0f} KB"
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.3g} GB"


def describe_ms(latency_ms: float) -> str:
    """Return a time with its unit, to three digits."""
    return f"{latency_ms:.3g} ms" if latency_ms < 1000 else f"{latency_ms / 1000:.3g} s"


def times(factor: float, more: str, less: str) -> str:
    """Return how many times more or less something is, such as ``7.2x smaller``."""
    if 0.995 <= factor < 1.005:
        return f"as {more.removesuffix('er')} as"
    larger = max(factor, 1 / factor)
    digits = 0 if larger >= 19.95 else 1 if larger >= 1.95 else 2
    return f"{larger:.{digits}f}x {more if factor > 1 else less} than"


def highlights(material: Material) -> list[Highlight]:
    """Return the points to name first: the best compromise, the smallest, the fastest and the most accurate one.

    All of them lose at most one point of validation accuracy; where none does, the nearest is named alone, and that it
    is no better (:func:`~karui.studies.choosing.recommend.recommend`). What each loses is told on the test split.
    """
    points = material.points
    values = points[list(names_of(material.objectives))].to_numpy(dtype=np.float64)
    found = recommend(values, material.objectives, material.baseline_values[2])
    if found is None:
        return []
    metric, baseline = material_metric(material), material.baseline_values[2]
    if not found.is_near:
        role = f"No point loses at most {one_point_text(baseline, metric)} on validation; this is the nearest"
        return [Highlight(role, str(points.iloc[found.best]["point"]), _sentence(material, found.best))]
    among = "within 1 point" if has_points(baseline) else "within a hundredth"
    chosen = {
        f"Best compromise {among}": found.best,
        f"Smallest {among}": found.smallest,
        f"Fastest {among}": found.fastest,
        "Most accurate": found.most_accurate,
    }
    roles: dict[int, list[str]] = {}
    for role, at in chosen.items():
        roles.setdefault(at, []).append(role)
    return [
        Highlight(_joined(words), str(points.iloc[at]["point"]), _sentence(material, at)) for at, words in roles.items()
    ]


def _joined(roles: list[str]) -> str:
    """Return several roles of one point in one phrase, such as ``Smallest within 1 point, fastest within 1 point``."""
    first, *others = roles
    return ", ".join([first, *(other[0].lower() + other[1:] for other in others)])


def _sentence(material: Material, at: int) -> str:
    row = material.points.iloc[at]
    size, latency, _ = material.baseline_values
    smaller = times(size / row["size_bytes"], "smaller", "larger")
    faster = times(_speed(row, latency), "faster", "slower")
    one = f"{smaller.removesuffix(' than')} and {faster}" if smaller.endswith("than") else f"{smaller} and {faster}"
    return f"This {describe_bytes(row['size_bytes'])} file is {one} your model and {_loss(material, row)}."


def _speed(row: Any, baseline_ms: float) -> float:
    ratio = row.get("latency_ratio", float("nan"))
    return 1.0 / ratio if ratio == ratio else baseline_ms / float(row["latency_ms"])


def _loss(material: Material, row: Any) -> str:
    name = material.accuracy
    baseline = material.baseline.get(name)
    if baseline is None:
        return f"reaches {metric_text(float(row[name]))}"
    lost, spread = loss_of(row, baseline)
    if not lost and not spread:
        return "loses no accuracy"
    told = loss_text(lost, spread, baseline.value, material_metric(material), digits=1)
    return f"{'loses' if lost >= 0 else 'gains'} {told}{' on test' if material.on_test else ' on validation'}"


def material_metric(material: Material) -> str:
    """Return what the metric is called."""
    known = material.baseline.get("accuracy")
    return str(known.conditions.get("metric", "accuracy")) if known is not None else "accuracy"


def configuration(asked: Candidate, notes: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return in words what a candidate keeps, removes and rounds, as it was made: pairs of a topic and a sentence.

    Args:
        asked: What was asked for.
        notes: What was made otherwise.
    """
    candidate = asked.as_made(notes)
    told = [("Network", candidate.architecture.sentence())]
    for axis in all_axes().values():
        told += axis.configuration(candidate)
    if candidate.epochs_factor != 1:
        told.append(("Training", f"{candidate.epochs_factor} times the study's epochs"))
    return told
