"""The model card of a bundle: what the file is, how it was measured, and what that does not say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..results.metric_text import speed_text
from .config import SAMPLES, steps_in


def model_card(config: dict[str, Any]) -> str:
    """Return the model card (after Mitchell et al., Model Cards for Model Reporting, FAT* 2019), in Markdown.

    What the file is for is left to whoever deploys it. Texts of the user show as they are, never as Markdown or HTML.

    Args:
        config: As :func:`~karui.studies.bundle.config.bundle_config` returns it.
    """
    parts = (_title, _intended_use, _how_to_run, _measured, _limits, _origin)
    return "\n\n".join(part(config) for part in parts) + "\n"


def _title(config: dict[str, Any]) -> str:
    return f"# {plain(config['study'])}: {plain(config['point'])}\n\n{plain(config['summary'])}"


def _intended_use(config: dict[str, Any]) -> str:  # noqa: ARG001
    return (
        "## Intended use\n\n"
        "*For you to fill in: what this file is for, for whom, and what it must not be used for. What follows was "
        "measured; none of it says that the file is fit for a purpose.*"
    )


def _how_to_run(config: dict[str, Any]) -> str:
    samples, task = config["samples"], config["task"]
    named = task is not None and isinstance(task["input_shape"], dict)
    file = "inputs.npz" if named else "inputs.npy"
    lines = ["## How to run it", "", "`run.py` needs numpy and onnxruntime, nothing else."]
    if samples is not None:
        lines += ["", f"    python run.py              # the {samples['count']} samples, told from what is expected"]
        lines += [f"    python run.py {file}   # inputs of your own, prepared as said below"]
    else:
        lines += ["", f"    python run.py {file}   # inputs prepared as said below"]
    return "\n".join([*lines, "", *_inputs(config), "", *_outputs(config)])


def _inputs(config: dict[str, Any]) -> list[str]:
    task = config["task"]
    if task is None:
        return [f"**Inputs** are prepared just as for the float32 model{_one_by_one(config)}."]
    if isinstance(task["input_shape"], dict):
        shapes = {name: " x ".join(map(str, shape)) or "one number" for name, shape in task["input_shape"].items()}
        each = "; ".join(f"{plain(name)}: {task['input_type'][name]}, {shape}" for name, shape in shapes.items())
        lines = [f"**Inputs**, each an array of the `.npz`, of this shape a row{_one_by_one(config)}: {each}."]
    else:
        shape = " x ".join(map(str, task["input_shape"])) or "one number"
        lines = [f"**Inputs**: {task['input_type']}, one of shape {shape} a row{_one_by_one(config)}."]
    given = task["preprocessing"]
    if given is None:
        return [*lines, "The task does not say how raw data become inputs: just as for the float32 model."]
    if isinstance(given, str):
        return [*lines, f"Prepared so: {plain(given)}"]
    return [*lines, "Prepared so:", "", *(f"- {plain(key)}: {plain(_text(value))}" for key, value in given.items())]


def _outputs(config: dict[str, Any]) -> list[str]:
    task = config["task"]
    if task is not None and task.get("outputs"):
        return [f"**Outputs**, with what those of the float32 model mean: {', '.join(map(plain, task['outputs']))}."]
    if task is None or not task["labels"]:
        return ["**Outputs** mean what those of the float32 model mean."]
    names = ", ".join(f"{number} {plain(label)}" for number, label in enumerate(task["labels"]))
    if task["labels"] == [str(number) for number in range(len(task["labels"]))]:
        names = ", ".join(task["labels"])
    return [f"**Outputs**: one number for each of: {names}."]


def _measured(config: dict[str, Any]) -> str:
    found, baseline = config["measurements"], config["baseline"]
    size, size_before = found["size_bytes"]["value"], baseline["size_bytes"]["value"]
    ratio, test, test_before = found["latency_ratio"], found["test_accuracy"], baseline["test_accuracy"]
    milliseconds = found["latency_ms"]
    rows = [
        "| | this file | the float32 model it was made from |",
        "|---|---|---|",
        f"| size | {size:,.0f} bytes ({size_before / size:.1f}x smaller) | {size_before:,.0f} bytes |",
        f"| latency | {_interval(milliseconds, 4)} ms | {milliseconds['conditions']['reference_ms']:.4f} ms |",
        f"| latency, share of the float32 model's | {_interval(ratio, 4)} ({speed_text(ratio['value'])}) | 1 |",
        *_rows_of_some(found),
        f"| {plain(test['conditions']['metric'])}, test split of {test['count']:,} | {_interval(test, 4)} "
        f"| {_interval(test_before, 4)} |",
    ]
    return "\n".join(["## Measurements", "", *rows, "", _conditions(found)])


def _rows_of_some(found: dict[str, Any]) -> list[str]:
    """Return the rows of what was not measured everywhere."""
    rows = []
    if (tail := found.get("latency_p95_ratio")) is not None:
        rows.append(f"| latency, 95th percentile over inputs, share of the float32 model's | {tail['value']:.2f} | 1 |")
    if (load := found.get("load_ms")) is not None:
        rows.append(f"| load time | {load['value']:.1f} ms ({found['load_ratio']['value']:.2f}x) | 1x |")
    if (peak := found.get("load_peak_bytes")) is not None:
        here, there = peak["value"] / 1e6, peak["conditions"]["reference_bytes"] / 1e6
        rows.append(f"| load memory, at its highest | {here:,.0f} MB | {there:,.0f} MB |")
    return rows


def _conditions(found: dict[str, Any]) -> str:
    conditions = found["latency_ratio"]["conditions"]
    batch, runtime = conditions.get("batch_size", 1), conditions.get("runtime", "onnxruntime")
    known = {"processor": "a device that does not tell", "threads": 1, "provider": "its own provider", **conditions}
    return (
        f"± is half the width of the 95 % interval. Latency is the ratio of {_statistic(found)}, timed in alternation "
        f"with the float32 model on {plain(known['processor'])}, {known['threads']} thread(s), "
        f"{plain(known['provider'])}, {plain(runtime)} {plain(known.get(runtime, ''))}, {batch} input(s) at a time; "
        "milliseconds are that ratio times the latency that the float32 model had when the search began."
    )


def _statistic(found: dict[str, Any]) -> str:
    if (tail := found.get("latency_p95_ratio")) is None:
        return "medians"
    conditions = tail["conditions"]
    return f"means over {conditions['inputs']} inputs of the {conditions['split']} split"


def _limits(config: dict[str, Any]) -> str:
    lines = [
        "- Latency holds for the device it was measured on. On another one measure again: "
        "`karui verify . --reference baseline.onnx`.",
        "- Accuracy is that of the test split, and its interval is about chance in drawing that split alone. Data of "
        "another kind (another camera, season, country) were not looked at, nor were single groups within the data.",
        "- It was made to agree with the float32 model on average. It can be wrong where that is right, and the other "
        "way round.",
        "- Points of a front are chosen by validation accuracy; that of the test split is reported, and nothing is "
        "chosen by it. If this one was taken for its test accuracy, the luck of that choice is in the number.",
    ]
    if any(step.in_integers for step in steps_in(config)):
        lines.append(
            "- Activations are rounded to 8 bits: another processor may give outputs that differ by a step, see "
            f"`tolerance` in `config.json`{' and the samples' if config['samples'] else ''}."
        )
    lines += [f"- Made otherwise than asked for: {plain(sentence)}" for sentence in config.get("notes", ())]
    if told := standing(config):
        lines.append(f"- **{told}**")
    return "\n".join(["## Limits", "", *lines])


def _origin(config: dict[str, Any]) -> str:
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in config["versions"].items())
    samples = f"`{SAMPLES}` holds inputs of the test split with the file's outputs. " if config["samples"] else ""
    return (
        "## What it was made from\n\n"
        f"Trial {config['trial']} of the study {plain(config['study'])}, made with {versions}. The float32 "
        f"model's file had sha256 `{config['measurements']['latency_ratio']['conditions']['reference_digest']}`.\n\n"
        "`config.json` (`config.schema.json` is its JSON schema) holds the candidate, every measurement with its "
        f"conditions, versions and digests. {samples}`sha256sum -c SHA256SUMS` or `karui verify .` tell whether "
        "everything is still as it was exported.\n\n"
        f"    sha256 {config['sha256']}  model.onnx"
    )


def standing(point: Mapping[str, Any]) -> str:
    """Return in a sentence what the point is worth, measured again; empty where it holds.

    Args:
        point: A row of the front or a configuration: its ``mark``, or else whether it ``holds``.
    """
    mark = point.get("mark", "holds" if point.get("holds", True) else "fell off")
    if mark == "within noise":
        return "Measured again, it cannot be told whether another point of the front is as good."
    if mark == "fell off":
        return "It fell off when the front was measured again: another point was at least as good."
    return ""


def plain(text: object) -> str:
    """Return a text in one line that Markdown shows as it is, with no HTML in it."""
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_by_one(config: dict[str, Any]) -> str:
    return ", given one at a time" if any(step.one_by_one for step in steps_in(config)) else ""


def _interval(measurement: dict[str, Any], digits: int) -> str:
    return f"{measurement['value']:.{digits}f} ± {measurement['spread']:.{digits}f}"
