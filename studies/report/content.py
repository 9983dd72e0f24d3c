"""Everything that a page shows, as numbers and words: what the pictures are drawn from as well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...errors import DAMAGED
from ...evaluators.measurement import metric_range
from ...spaces.axes.axis import INT8, whole_variants
from ..choosing.ranking import Flip, front_flips, target_columns
from ..choosing.recommend import least_accuracy
from ..results.certification import CHOSEN_BY_TEST, read_certification
from ..results.further import title_of
from ..results.metric_text import has_points, one_point_text
from ..storage.reading import read_json
from .cloud import cloud_columns
from .conditions import how_measured
from .endings import Ending, count_states, endings_of
from .history import Contribution, History, axis_contributions, volume_history
from .parameter_importance import Importances, parameter_importances
from .points import page_points
from .trial_axes import axes_used, combination_labels, parameter_names
from .words import Highlight, highlights, material_metric

if TYPE_CHECKING:
    import pandas as pd

    from .material import Material


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Args:
        title: Name of the study.
        status: How far the search is, in one sentence.
        notes: What a reader must know before anything else.
        highlights: The points that the summary names.
        interactive: What the page's script works with; JSON types.
        history: How the hypervolume grew.
        contributions: What each axis brought.
        importances: How much each parameter decided.
        states: How many trials ended how, by state in words.
        endings: What was stopped or failed, and why.
        measured: How the numbers were made: pairs of a topic and a sentence.
        targets: Names of several targets whose latencies are known.
        flips: Where they disagree, the clearest first.
        certification: What the certification found of the front as a whole: pairs of a topic and a value.
    """

    title: str
    status: str
    notes: tuple[str, ...]
    highlights: tuple[Highlight, ...]
    interactive: dict[str, Any]
    history: History
    contributions: tuple[Contribution, ...]
    importances: Importances
    states: dict[str, int]
    endings: tuple[Ending, ...]
    measured: tuple[tuple[str, str], ...]
    targets: tuple[str, ...]
    flips: tuple[Flip, ...]
    certification: tuple[tuple[str, str], ...]


def page_content(material: Material, command: list[str]) -> Content:
    """Work out what a page shows.

    Args:
        material: What the report is made of; its baseline is known.
        command: How ``karui pick`` is called for this study, up to its choice.
    """
    evaluated, objectives, searched = material.evaluated, material.objectives, material.searched_baseline
    feasible = evaluated[evaluated["feasible"]]
    columns = target_columns(material.points.columns)
    return Content(
        title=material.name,
        status=_status(material),
        notes=tuple(_notes(material)),
        highlights=tuple(highlights(material)) if material.is_front else (),
        interactive=_interactive(material, command),
        history=volume_history(evaluated, searched, material.events, objectives),
        contributions=axis_contributions(feasible, axes_used(feasible), searched, objectives),
        importances=parameter_importances(evaluated),
        states=count_states(material.trials),
        endings=endings_of(material.trials),
        measured=tuple(how_measured(material)),
        targets=tuple(columns),
        flips=front_flips(material.points),
        certification=tuple(_certification(material)),
    )


def _status(material: Material) -> str:
    counts = count_states(material.trials)
    measured = counts.get("measured", 0)
    points = len(material.points) if material.is_front else 0
    told = [f"{len(material.trials):,} trials, {measured:,} measured", f"{points} on the front"]
    if material.events:
        last = datetime.fromisoformat(material.events[-1]["time"])
        told.append(f"as of {last:%Y-%m-%d %H:%M} UTC")
    return " · ".join(told)


def _notes(material: Material) -> list[str]:
    notes = []
    if not material.is_front:
        count = len(material.points)
        notes.append(
            f"No candidate keeps every bound. Shown are the {count} nearest, those that break the bounds least."
            if count
            else "No candidate has been measured yet."
        )
    elif not material.on_test:
        notes.append(
            "The search has not finished: this is the front so far, by validation accuracy. "
            "Finished, it is measured again on test examples that the search never saw."
        )
    elif material.is_stale:
        notes.append(
            "The search has gone on since this front was measured again. The same search command, run to its end, "
            "measures the front of all trials."
        )
    if material.is_front and material.on_test:
        known = read_certification(material.folder)
        notes += [CHOSEN_BY_TEST] if known is None or known.chosen_by == "test" else []
    return notes


def _interactive(material: Material, command: list[str]) -> dict[str, Any]:
    size, latency, accuracy = material.baseline_values
    evaluated = material.evaluated
    names = [name for name in parameter_names(evaluated) if evaluated[name].nunique() > 1]
    others = evaluated[~evaluated["trial"].isin(set(material.points["trial"]))] if len(material.points) else evaluated
    tested = material.baseline.get("test_accuracy") if material.on_test else None
    return {
        "study": material.name,
        "isFront": material.is_front,
        "onTest": material.on_test,
        "metric": material_metric(material),
        "baseline": {
            "size": size,
            "latency": latency,
            "accuracy": accuracy,
            "latencySpread": material.baseline["latency_ms"].spread,
            "accuracySpread": material.baseline["accuracy"].spread,
            "test": None if tested is None else tested.value,
        },
        "least": least_accuracy(accuracy),
        "scale": metric_range(accuracy) or 1.0,
        "onePoint": one_point_text(accuracy, material_metric(material)),
        "hasPoints": has_points(accuracy),
        "int8": _uniform_int8(material),
        "parameters": names,
        "further": [{"name": item.name, "title": title_of(item)} for item in material.further],
        "points": page_points(material, names, command),
        "cloud": cloud_columns(others, names, combination_labels(axes_used(others), len(others))),
        "pickCommand": command,
    }


def _uniform_int8(material: Material) -> dict[str, Any] | None:
    """Return the values of the model with all weights and activations rounded to 8 bits and nothing else, or None."""
    plain = whole_variants()[INT8]
    names = {plain.describe(), plain.canonical().describe()}

    def first(rows: pd.DataFrame) -> pd.Series[Any] | None:
        found = rows[rows["candidate"].isin(names)]
        return found.iloc[0] if len(found) else None

    row = first(material.points) if material.is_front else None
    if row is None:
        row = first(material.evaluated)
    if row is None:
        return None
    return {
        "trial": int(row["trial"]),
        "size": float(row["size_bytes"]),
        "latency": float(row["latency_ms"]),
        "accuracy": float(row["accuracy"]),
    }


_CERTIFIED = {
    "same_process": ("Measured again", "in the search's own process: {}"),
    "accuracy_tau": ("Rank correlation", "{:.2f} between accuracy in the search and on the test split (Kendall's tau)"),
    "latency_tau": ("Rank correlation", "{:.2f} between latency in the search and measured again (Kendall's tau)"),
    "accuracy_fall_points": (
        "Accuracy again",
        "the median point lost {:.2f} hundredths of the metric's scale more on the test split",
    ),
    "latency_rise_percent": ("Latency again", "the median point was {:.1f} % slower than in the search"),
}
"""What ``certification.json`` says, in words."""


def _certification(material: Material) -> list[tuple[str, str]]:
    """Return what the search wrote of how the front stood its test, where it did."""
    try:
        plain = read_json(material.folder.certification)
    except (OSError, *DAMAGED):
        return []
    marks = plain.get("marks") if isinstance(plain, dict) else None
    told = [("Marks", ", ".join(f"{count} {mark}" for mark, count in marks.items()))] if isinstance(marks, dict) else []
    for name, (topic, words) in _CERTIFIED.items():
        value = plain.get(name) if isinstance(plain, dict) else None
        if value and isinstance(value, str if name == "same_process" else (int, float)):
            told.append((topic, words.format(value)))
    return told
