"""The points of the page: each with its values, configuration, layers, measurements and command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluators.measurement import Measurement, metric_range
from ...evaluators.metric import METRICS
from ...search.objectives import Objective
from ...spaces.architectures import Baseline
from ..choosing.ranking import target_columns
from ..results.further import value_text
from ..results.metric_text import loss_of, loss_text, with_interval
from .cloud import plain_value
from .documents import PointDocument
from .layer_table import Layer, read_layers
from .material import violations_of
from .trial_axes import axes_used, combination_labels
from .words import configuration, describe_bytes, describe_ms, material_metric

if TYPE_CHECKING:
    import pandas as pd

    from .material import Material

MOST_FILES = 200
"""Of how many points the files are read layer by layer."""

_TITLES = {
    "size_bytes": "File size",
    "latency_ms": "Latency",
    "latency_p95_ratio": "Latency, 95th percentile over inputs",
    "test_accuracy": "Accuracy, test split",
    "accuracy": "Accuracy, validation",
    "load_peak_bytes": "Load memory, highest",
    **{metric.measurement: metric.title for metric in METRICS.all.values()},
}
"""Titles of measurements, in the order in which they are shown."""

_RATIOS = {
    "latency_ms": "latency_ratio",
    **{metric.measurement: metric.ratio for metric in METRICS.all.values() if metric.ratio},
}
_RATIO_NAMES = frozenset(_RATIOS.values())
_TOLD = ("processor", "host", "threads", "provider", "onnxruntime", "batch_size", "metric", "inputs")
"""Conditions that are told of each measurement."""


def page_points(material: Material, parameters: list[str], command: list[str]) -> list[dict[str, Any]]:
    """Return the points as JSON types.

    Args:
        material: What the report is made of.
        parameters: The columns that are parameters.
        command: How ``karui pick`` is called for this study, up to the point.
    """
    labels = combination_labels(axes_used(material.points), len(material.points)) if len(material.points) else []
    original = _original_layers(material)
    found = []
    for index, (_, row) in enumerate(material.points.iterrows()):
        document = material.documents.get(int(row["trial"]), PointDocument())
        found.append(
            {
                **_values(material, row),
                "axes": labels[index],
                "parameters": {name: value for name in parameters if (value := plain_value(row.get(name))) is not None},
                "words": _words(document),
                "measurements": page_measurements(document.measurements),
                "layers": _layers(document, original) if index < MOST_FILES else [],
                "command": _command(material, row, command),
            }
        )
    return found


def _words(document: PointDocument) -> list[tuple[str, str]]:
    made = configuration(document.candidate, document.notes) if document.candidate else []
    return [*made, *(("Otherwise than asked for", sentence) for sentence in document.notes)]


def _values(material: Material, row: pd.Series[Any]) -> dict[str, Any]:
    size, latency, _ = material.baseline_values
    ratio = _number(row, "latency_ratio")
    broken = {} if material.is_front else violations_of(row, material.objectives, material.baseline)
    return {
        "name": str(row["point"]),
        "trial": int(row["trial"]),
        "kind": str(row["kind"]),
        "candidate": str(row["candidate"]),
        "size": float(row["size_bytes"]),
        "latency": float(row["latency_ms"]),
        "latencySpread": _number(row, "latency_ms_spread") or 0.0,
        "accuracy": float(row["accuracy"]),
        "accuracySpread": _number(row, "accuracy_spread") or 0.0,
        "test": _number(row, "test_accuracy") if material.on_test else None,
        "testSpread": _number(row, "test_accuracy_spread") or 0.0,
        "smaller": size / float(row["size_bytes"]),
        "faster": 1 / ratio if ratio else latency / float(row["latency_ms"]),
        **_losses(material, row),
        "holds": bool(row["holds"]) if "holds" in row.index else None,
        "mark": str(row["mark"]) if isinstance(row.get("mark"), str) else None,
        "probability": _number(row, "front_probability"),
        "coveredBy": str(row["covered_by"]) if isinstance(row.get("covered_by"), str) else None,
        "further": {item.name: _further(row, item) for item in material.further},
        "broken": [f"{_TITLES[bound].lower()} by {share:.1%}" for bound, share in broken.items()],
        "targets": {target: _number(row, column) for target, column in target_columns(row.index).items()},
    }


def _losses(material: Material, row: pd.Series[Any]) -> dict[str, Any]:
    """Return what a point loses on the split that is reported: in points, or in hundredths of the metric's scale."""
    baseline = material.baseline.get(material.accuracy)
    if baseline is None:
        return {"drop": None, "dropText": ""}
    lost, spread = loss_of(row, baseline)
    told = loss_text(lost, spread, baseline.value, material_metric(material), digits=1)
    split = "test" if material.on_test else "validation"
    return {
        "drop": 100.0 * lost / (metric_range(baseline.value) or 1.0),
        "dropText": f"{told} {'lost' if lost >= 0 else 'gained'} on {split}",
    }


def _further(row: pd.Series[Any], objective: Objective) -> dict[str, Any] | None:
    """Return the value of a further objective, as a number and in words; None where a point has none."""
    value = _number(row, objective.name)
    return None if value is None else {"value": value, "text": value_text(objective, value)}


def _number(row: pd.Series[Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if value is not None and value == value else None


def page_measurements(measurements: Mapping[str, Measurement]) -> list[list[str]]:
    """Return title, value and conditions of each measurement, as texts; conditions that all share come last, once."""
    others = (name for name in measurements if name not in _TITLES and _on_target(name)[0] not in _RATIO_NAMES)
    order = [*_TITLES, *others]
    found = [measurements[name] for name in order if name in measurements]
    shared = {name: value for name in _TOLD if (value := _shared(name, found)) is not None}
    told = []
    for item in found:
        value = _value(item)
        plain, place = _on_target(item.name)
        if (ratio := measurements.get(f"{_RATIOS.get(plain, '')}{place}")) is not None:
            value += f", {_value(ratio)} of your model's"
        title = f"{_TITLES.get(plain, plain)}{place.replace('@', ' on ')}"
        told.append([title, value, ", ".join(_conditions(item, shared))])
    if shared:
        told.append(["Conditions", ", ".join(_condition(name, value) for name, value in shared.items()), ""])
    return told


def _on_target(name: str) -> tuple[str, str]:
    """Return a measurement's name without its target, and ``@`` with the target's name where it has one."""
    plain, at, target = name.partition("@")
    return plain, f"{at}{target}"


def _shared(name: str, measurements: Sequence[Measurement]) -> Any:
    """Return a condition's one value in all measurements that have it, or None where it differs."""
    values = [item.conditions[name] for item in measurements if name in item.conditions]
    return values[0] if values and all(value == values[0] for value in values) else None


def _value(item: Measurement) -> str:
    if item.unit == "bytes":
        return f"{item.value:,.0f} bytes" if item.name == "size_bytes" else describe_bytes(item.value)
    if item.unit == "mJ":
        return f"{item.value:.3g} mJ{f' ± {item.spread:.2g}' if item.spread else ''}"
    if item.unit == "ms":
        return f"{describe_ms(item.value)}{f' ± {item.spread:.2g}' if item.spread else ''}"
    return with_interval(item.value, item.spread)


def _conditions(item: Measurement, shared: Mapping[str, Any]) -> list[str]:
    told = [_condition(name, item.conditions[name]) for name in _TOLD if name in item.conditions and name not in shared]
    samples = "pairs of runs" if "pairs" in item.conditions else "examples"
    return [*told, f"{item.count:,} {samples}"] if item.count > 1 else told


def _condition(name: str, value: Any) -> str:
    if name in ("processor", "provider"):
        return str(value)
    if name == "threads":
        return "1 thread" if value == 1 else f"{value} threads"
    return f"{name.replace('_', ' ')} {value}"


def _original_layers(material: Material) -> tuple[Layer, ...]:
    """Return the layers of the user's own model, where its file lies in the results folder."""
    return _read(material.folder.path / "baseline.onnx")


def _read(file: Path | None) -> tuple[Layer, ...]:
    if file is None or not file.is_file():
        return ()
    try:
        return read_layers(file)
    except (ValueError, OSError):
        return ()  # a page that shows everything else is worth more than none


def _layers(document: PointDocument, original: tuple[Layer, ...]) -> list[dict[str, Any]]:
    layers = _read(document.file)
    is_original = document.candidate is not None and isinstance(document.candidate.architecture, Baseline)
    origins = match_layers(layers, original) if is_original else {}
    found = []
    for index, layer in enumerate(layers):
        origin = origins.get(index)
        found.append(
            {
                "name": origin.name if origin else layer.name,
                "shape": f"{layer.operation} {'x'.join(map(str, layer.shape))}",
                "channels": f"{layer.channels} of {origin.channels}" if origin else str(layer.channels),
                "kept": layer.channels / origin.channels if origin else None,
                "bits": layer.bits,
                "zeros": 1.0 - layer.nonzeros / layer.elements if layer.elements else 0.0,
                "bytes": round(layer.stored_bytes),
            }
        )
    return found


def match_layers(layers: tuple[Layer, ...], original: tuple[Layer, ...]) -> dict[int, Layer]:
    """Return which layer of the original each layer was, by place and kernel; nothing where that is not clear.

    Names are stripped from packed files, and a shortcut may come before or after the layers that it passes by.
    """
    free = list(original)
    found: dict[int, Layer] = {}
    for index, layer in enumerate(layers):
        fitting = (each for each in free if _fits(layer, each))
        origin = next(fitting, None)
        if origin is None or len(layers) != len(original):
            return {}
        free.remove(origin)
        found[index] = origin
    return found


def _fits(layer: Layer, original: Layer) -> bool:
    alike = layer.operation == original.operation and layer.shape[2:] == original.shape[2:]
    return alike and layer.channels <= original.channels


def _command(material: Material, row: pd.Series[Any], command: list[str]) -> str:
    """Return the shell command that exports a point; nothing where there is no file to export yet."""
    if "file" not in row.index or not isinstance(row["file"], str):
        return ""
    name = str(row["point"])
    return shlex.join([*command, "--point", name, "--export", f"{material.name}-{name}"])
