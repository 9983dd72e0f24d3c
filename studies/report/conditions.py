"""How the numbers of a report were made: device, versions, seeds, times."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .material import Material

_VERSIONS = ("karui", "python", "torch", "torchvision", "onnx", "onnxruntime", "optuna")


def how_measured(material: Material) -> list[tuple[str, str]]:
    """Return pairs of a topic and a sentence; what is not known is left out."""
    told = [
        ("Device", _device(material)),
        ("Latency", _latency(material)),
        ("Accuracy", _accuracy(material)),
        ("Size", "bytes of the ONNX file on disk, the very file that is deployed"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in _versions(material).items())),
        ("Seeds", _seeds(material)),
        ("Search", _search(material)),
        ("Bounds", ", ".join(filter(None, _bounds(material))) or "none"),
    ]
    return [(topic, sentence) for topic, sentence in told if sentence]


def _conditions(material: Material, name: str) -> dict[str, Any]:
    known = material.baseline.get(name)
    return dict(known.conditions) if known is not None else {}


def _device(material: Material) -> str:
    found = _conditions(material, "latency_ms")
    told = [found.get("processor"), found.get("platform")]
    if "host" in found:
        told.append(f"host {found['host']}")
    return ", ".join(str(each) for each in told if each)


def _latency(material: Material) -> str:
    found = _conditions(material, "latency_ms")
    if not found:
        return ""
    told = (
        f"{found.get('threads', '?')} thread(s), {found.get('provider', '')}, batch of {found.get('batch_size', 1)}; "
    )
    told += "each file timed in alternation with your model, so that a change of the machine's speed cancels"
    if "self_ratio" in found:
        spread = found.get("self_ratio_spread", 0.0)
        told += f"; your model against itself gave {found['self_ratio']:.3f} ± {spread:.3f} of 1"
    return told


def _accuracy(material: Material) -> str:
    names = ["accuracy", "test_accuracy"] if material.on_test else ["accuracy"]
    told = []
    for name in names:
        known = material.baseline.get(name)
        if known is not None:
            found = known.conditions
            told.append(
                f"{found.get('metric', 'accuracy')} of the file on {known.count:,} {found.get('split', '')} examples"
            )
    if not told:
        return ""
    seen = (
        "points are chosen by validation, which is a little too good therefore, and told by test, which chose nothing"
        if material.on_test
        else "test examples are touched only when it is over"
    )
    return f"{'; '.join(told)}; {seen}. ± is half the width of a 95 % interval"


def _versions(material: Material) -> dict[str, str]:
    described = next((document.versions for document in material.documents.values() if document.versions), {})
    known: dict[str, Any] = {}
    for event in material.events:
        known |= event.get("versions", {})
    known |= described
    return {name: str(known[name]) for name in _VERSIONS if name in known}


def _seeds(material: Material) -> str:
    told = []
    if (seed := material.attributes.get("training_seed")) is not None:
        told.append(f"training {seed}")
    searches = sorted(
        {event["seed"] for event in material.events if event.get("event") == "search begun" and "seed" in event}
    )
    if searches:
        told.append(f"search {', '.join(map(str, searches))}")
    return ", ".join(told)


def _search(material: Material) -> str:
    begun = [event for event in material.events if event.get("event") == "search begun"]
    if not begun:
        return ""
    first, last = (datetime.fromisoformat(material.events[at]["time"]) for at in (0, -1))
    hosts = sorted({str(event["host"]) for event in begun if "host" in event})
    runs = "once" if len(begun) == 1 else f"{len(begun)} times"
    told = f"begun {runs} on {', '.join(hosts)}; {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    ended = [event for event in material.events if event.get("event") == "search ended"]
    return f"{told}; the last ended: {ended[-1].get('reason', '')}" if ended else told


def _bounds(material: Material) -> list[str]:
    return [
        objective.bound_text(material.baseline[objective.name].value) if objective.bound is not None else ""
        for objective in material.objectives
        if objective.name in material.baseline
    ]
