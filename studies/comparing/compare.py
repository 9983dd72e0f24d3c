"""Two runs beside each other: two fronts, how much each dominates, and what both have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...evaluators.measurement import Measurement
from ...search.objectives import OBJECTIVES, Objective, as_losses
from ...search.statistics.front import hypervolume
from ..results.further import further_of, title_of
from ..results.read import find_results, read_baseline_measurements, read_front, read_objectives, read_trials
from .common_candidates import CommonCandidates, compare_common
from .matched import matched_by, noise_between, paired_spreads, scores_of, spreads_of

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

_KIND = ("processor", "runtime", "provider", "threads", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Run:
    """What is known of one run.

    Args:
        name: Of its study.
        path: Its results folder.
        front: As :func:`karui.load_front` returns it.
        trials: As ``trials.csv`` holds them.
        baseline: The baseline's measurements by name.
        objectives: What its study searched for.
    """

    name: str
    path: Path
    front: pd.DataFrame
    trials: pd.DataFrame
    baseline: Mapping[str, Measurement]
    objectives: tuple[Objective, ...] = OBJECTIVES


@dataclass(frozen=True)
class Side:
    """One run as the comparison shows it.

    Args:
        name: Of its study.
        path: Its results folder.
        points: Names of the points of its front.
        candidates: What they are, in words.
        size_shares: File sizes as shares of its own baseline's.
        latency_shares: Latencies as shares of its own baseline's.
        accuracies: Accuracies, on the split that both runs know.
        accuracy_spreads: Half widths of their 95 % intervals; 0 where they are not known.
        covered: Which of the points a point of the other run is at least as good as in all objectives.
        matched: Which of them a point of the other run is at least as good as but for what may be noise; see
            :func:`karui.studies.comparing.matched.matched_by`.
        hypervolume: Of the front, both runs by the same reference; see
            :func:`karui.search.statistics.front.hypervolume`.
        baseline_bytes: Size of its baseline.
        baseline_ms: Latency of its baseline.
        baseline_accuracy: Accuracy of its baseline.
    """

    name: str
    path: str
    points: tuple[str, ...]
    candidates: tuple[str, ...]
    size_shares: tuple[float, ...]
    latency_shares: tuple[float, ...]
    accuracies: tuple[float, ...]
    accuracy_spreads: tuple[float, ...]
    covered: tuple[bool, ...]
    matched: tuple[bool, ...]
    hypervolume: float
    baseline_bytes: float
    baseline_ms: float
    baseline_accuracy: float

    @property
    def covered_share(self) -> float | None:
        """Share of the points that the other run covers: C(other, this) of Zitzler and Thiele; None without points."""
        return sum(self.covered) / len(self.covered) if self.covered else None


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Args:
        first: The one.
        second: The other.
        absolute: Whether bytes and milliseconds of the two can be compared: one baseline, one kind of device.
        on_test: Whether accuracies are those of the test split.
        paired: Whether accuracies of the two runs are compared row by row, wherever both fronts have points.
        metric: What the metric is called.
        notes: What whoever reads it has to know, in sentences.
        common: What both runs have measured.
    """

    first: Side
    second: Side
    absolute: bool
    on_test: bool
    paired: bool
    metric: str
    notes: tuple[str, ...]
    common: CommonCandidates

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, the shares of covered points included."""
        shares = {"first": self.first.covered_share, "second": self.second.covered_share}
        return {**asdict(self), "covered_shares": shares}


def load_run(study: str | Path) -> Run:
    """Read one run.

    Args:
        study: Path of a study file, name of a bundled study, or a results folder.

    Raises:
        KaruiError: Where there is nothing to read.
    """
    results = find_results(study)
    front, baseline = read_front(results), read_baseline_measurements(results)
    return Run(results.name, results.folder.path, front, read_trials(results), baseline, read_objectives(results))


def compare_runs(first: Run, second: Run) -> Comparison:
    """Compare two runs.

    Sizes and latencies are compared as shares of each run's own baseline, since only ratios are measured; where both
    have the same baseline and kind of device, they can be read as bytes and milliseconds as well. Further objectives
    count, as shares likewise, where both studies have the same ones. Which points the
    other run covers is told by C(A, B), the share of B that a point of A weakly dominates (Zitzler and Thiele, IEEE
    Transactions on Evolutionary Computation 1999).
    """
    # what is known of a baseline may be without it, where the front's descriptions are gone
    on_test = all("test_accuracy" in run.front.columns and "test_accuracy" in run.baseline for run in (first, second))
    column = "test_accuracy" if on_test else "accuracy"
    objectives = first.objectives if first.objectives == second.objectives else OBJECTIVES
    values = [_values(run, column, objectives) for run in (first, second)]
    least = min(run.baseline[column].value for run in (first, second))
    reference = [least if objective.name == "accuracy" else 1.0 for objective in objectives]
    spreads = [spreads_of(run.front, column, objectives) for run in (first, second)]
    paired = paired_spreads(scores_of(first.front, first.path, column), scores_of(second.front, second.path, column))
    sides = [
        _side(
            run,
            column,
            own,
            covered_by(own, other, objectives),
            matched_by(own, other, noise, objectives),
            hypervolume(own, reference, objectives),
        )
        for run, own, other, noise in (
            (first, values[0], values[1], noise_between(spreads[0], spreads[1], paired, objectives)),
            (second, values[1], values[0], noise_between(spreads[1], spreads[0], paired.T, objectives)),
        )
    ]
    same_baseline = _digest(first) == _digest(second)
    differing = _differing(first, second)
    return Comparison(
        first=sides[0],
        second=sides[1],
        absolute=same_baseline and not differing,
        on_test=on_test,
        paired=bool(paired.size) and not np.isnan(paired).any(),
        metric=str(first.baseline[column].conditions.get("metric", "accuracy")),
        notes=tuple(_notes(first, second, column, same_baseline, differing)),
        common=compare_common(first.trials, second.trials),
    )


def covered_by(points: Floats, others: Floats, objectives: Sequence[Objective] = OBJECTIVES) -> tuple[bool, ...]:
    """Say which points some other point is at least as good as in every objective.

    Args:
        points: Shape (n, n_objectives): size, latency, accuracy, and so on.
        others: Shape (m, n_objectives).
        objectives: The columns' objectives.
    """
    own, theirs = as_losses(points, objectives), as_losses(others, objectives)
    return tuple(bool((theirs <= point).all(axis=1).any()) for point in own)


def _values(run: Run, column: str, objectives: Sequence[Objective]) -> Floats:
    if not len(run.front):
        return np.empty((0, len(objectives)))
    sizes = run.front["size_bytes"] / run.baseline["size_bytes"].value
    further = [run.front[item.name] / run.baseline[item.name].value for item in further_of(objectives)]
    return np.column_stack([sizes, run.front["latency_ratio"], run.front[column], *further]).astype(np.float64)


def _side(
    run: Run, column: str, values: Floats, covered: tuple[bool, ...], matched: tuple[bool, ...], volume: float
) -> Side:
    front, spread = run.front, f"{column}_spread"
    spreads = front[spread].fillna(0.0).tolist() if spread in front.columns else [0.0] * len(front)
    sizes, latencies, accuracies = (tuple(float(value) for value in row) for row in values.T[: len(OBJECTIVES)])
    return Side(
        name=run.name,
        path=str(run.path),
        points=tuple(front["point"].tolist()),
        candidates=tuple(front["candidate"].tolist()) if len(front) else (),
        size_shares=sizes,
        latency_shares=latencies,
        accuracies=accuracies,
        accuracy_spreads=tuple(spreads),
        covered=covered,
        matched=matched,
        hypervolume=volume,
        baseline_bytes=run.baseline["size_bytes"].value,
        baseline_ms=run.baseline["latency_ms"].value,
        baseline_accuracy=run.baseline[column].value,
    )


def _digest(run: Run) -> str:
    return str(run.baseline["latency_ms"].conditions.get("reference_digest", run.path))


def _differing(first: Run, second: Run) -> str:
    """Return in what the devices of two runs differ; empty where they are of one kind."""
    # Runs of earlier versions name no runtime: there was one.
    one, other = ({"runtime": "onnxruntime", **run.baseline["latency_ms"].conditions} for run in (first, second))
    keys = [key for key in _KIND if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)!r} and {other.get(key)!r}" for key in keys)


def _notes_on_objectives(first: Run, second: Run) -> list[str]:
    """Return in a sentence what is compared beside size, latency and accuracy, or why nothing is."""
    one, other = (", ".join(title_of(objective) for objective in further_of(run.objectives)) for run in (first, second))
    if first.objectives != second.objectives:
        told = f"the one for {one or 'nothing more'}, the other for {other or 'nothing more'}"
        return [f"The studies searched for other things ({told}): only size, latency and accuracy are compared."]
    return [f"Covered points and hypervolumes count {one} as well."] if one else []


def _notes(first: Run, second: Run, column: str, same_baseline: bool, differing: str) -> list[str]:
    notes: list[str] = []
    if differing:
        notes.append(f"The devices differ ({differing}): only ratios to each run's own baseline are compared.")
    if not same_baseline:
        notes.append(
            "The baselines are two files: how many times smaller and faster says what each search made of its own."
        )
    if not notes:
        one, other = (run.baseline["latency_ms"].value for run in (first, second))
        notes.append(
            f"One baseline, one kind of device. Latencies are ratios to the baseline, shown as milliseconds by A's "
            f"{one:.4g} ms; B's baseline took {other:.4g} ms."
        )
    notes += _notes_on_objectives(first, second)
    if column == "accuracy":
        notes.append("Accuracies are those of the validation split: not both fronts were measured on the test split.")
    metrics, counts = (
        [run.baseline[column].conditions.get("metric") for run in (first, second)],
        [run.baseline[column].count for run in (first, second)],
    )
    if metrics[0] != metrics[1]:
        notes.append(f"The metrics differ ({metrics[0]} and {metrics[1]}): accuracies cannot be compared.")
    if counts[0] != counts[1]:
        notes.append(f"The splits differ ({counts[0]:,} and {counts[1]:,} rows): accuracies are of two sets of data.")
    return notes
