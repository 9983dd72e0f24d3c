"""A results folder as a search leaves it, made in milliseconds: files of one matrix each, numbers as they are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from karui.spaces.artifact import file_digest

CLASSES = 4
DEVICE = {"target": "local", "processor": "P", "provider": "CPUExecutionProvider", "threads": 2, "onnxruntime": "1.0"}
Point = tuple[float, float, float]
"""Size as a share of the baseline's 100,000 bytes, latency as a share of its 2 ms, test accuracy."""


def write_linear(path: Path, scale: float = 1.0, opset: int = 18, ir_version: int = 8) -> None:
    """Write a file that answers with its inputs, shape (n, 4), times a number."""
    matrix = numpy_helper.from_array(scale * np.eye(CLASSES, dtype=np.float32), "matrix")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["inputs", "matrix"], ["outputs"])],
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["n", CLASSES])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", CLASSES])],
        [matrix],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def measured(name: str, value: float, unit: str, spread: float = 0.0, count: int = 1, **conditions: Any) -> Any:
    told = {"spread": spread, "count": count, "conditions": conditions}
    return {name: {"name": name, "value": value, "unit": unit, **told}}


def baseline_of(device: dict[str, Any], digest: str = "ba" * 32) -> dict[str, Any]:
    return {
        **measured("size_bytes", 100_000.0, "bytes"),
        **measured("latency_ms", 2.0, "ms", 0.02, 40, **device, batch_size=1, reference_digest=digest),
        **measured("accuracy", 0.98, "1", 0.02, 300, metric="accuracy", split="validation"),
        **measured("test_accuracy", 0.96, "1", 0.02, 400, metric="accuracy", split="test"),
    }


def make_results(
    folder: Path,
    points: Sequence[Point],
    *,
    device: dict[str, Any] | None = None,
    baseline_digest: str = "ba" * 32,
    keys: Sequence[str] | None = None,
    deploy: bool = True,
    spread: float = 0.01,
) -> Path:
    """Write ``front.csv``, ``trials.csv``, ``front/`` and ``deploy/``, and return the folder."""
    device = DEVICE if device is None else device
    rows = []
    for number, (size, latency, accuracy) in enumerate(points):
        key = keys[number] if keys is not None else f"{number:016x}"
        point = f"p{number + 1:02d}"
        path = folder / "front" / f"{point}-{key}.onnx"
        write_linear(path, 1.0 + number)
        found = measurements(size, latency, accuracy, device, baseline_digest, spread)
        described = {
            **{"format": 1, "study": folder.name, "point": point, "trial": number, "summary": f"candidate {point}"},
            **{
                "candidate": {"architecture": {"kind": "baseline"}, "weight_bits": 4},
                "parameters": {"bits.weights": 4},
            },
            **{"measurements": found, "baseline": baseline_of(device, baseline_digest), "holds": True, "key": key},
            **{"sha256": file_digest(path), "versions": {"karui": "0.1.0", "onnxruntime": "1.0"}},
        }
        path.with_suffix(".json").write_text(json.dumps(described), encoding="utf-8")
        rows.append(row_of(described, path))
        if deploy:
            write_deploy(folder, path)
    front = pd.DataFrame(rows)
    front.to_csv(folder / "front.csv", index=False)
    trials = front.drop(columns=["point", "file", "size_x", "speed_x", "drop_points", "holds"])
    trials.assign(state="evaluated", feasible=True, on_front=True).to_csv(folder / "trials.csv", index=False)
    return folder


def measurements(
    size: float, latency: float, accuracy: float, device: dict[str, Any], digest: str, spread: float
) -> dict[str, Any]:
    told = {**device, "batch_size": 1, "reference_ms": 2.0, "reference_digest": digest}
    return {
        **measured("size_bytes", 100_000 * size, "bytes"),
        **measured("latency_ratio", latency, "1", spread * latency, 30, **told),
        **measured("latency_ms", 2 * latency, "ms", 2 * spread * latency, 30, **told),
        **measured("accuracy", accuracy, "1", 0.02, 300, metric="accuracy", split="validation"),
        **measured("test_accuracy", accuracy, "1", 0.01, 400, metric="accuracy", split="test"),
    }


def row_of(described: dict[str, Any], path: Path) -> dict[str, Any]:
    found = described["measurements"]
    row = {name: item["value"] for name, item in found.items()}
    row |= {f"{name}_spread": item["spread"] for name, item in found.items() if item["count"] > 1}
    return {
        **{"point": described["point"], "trial": described["trial"], "kind": "baseline"},
        **{"candidate": described["summary"], "size_x": 1e5 / row["size_bytes"], "speed_x": 1 / row["latency_ratio"]},
        **{"drop_points": 100 * (0.96 - row["test_accuracy"]), "holds": True, **row, "key": described["key"]},
        **{"sha256": described["sha256"], "file": f"front/{path.name}"},
    }


def write_deploy(folder: Path, path: Path) -> None:
    """Write what certification leaves: four inputs, one of each class, and what the file answers to them."""
    scale = int(path.name[1:3])
    inputs = np.eye(CLASSES, dtype=np.float32)
    (folder / "deploy").mkdir(exist_ok=True)
    paper = {"metric": "accuracy", "top1": True, "input_shape": [CLASSES]}
    paper |= {"preprocessing": {"mean": 0.5, "steps": "less the mean"}, "labels": ["ant", "bee", "cat", "dog"]}
    (folder / "deploy" / "task.json").write_text(json.dumps(paper), encoding="utf-8")
    np.savez(
        folder / "deploy" / f"{path.stem}.npz",
        inputs=inputs,
        outputs=scale * inputs,
        targets=np.arange(CLASSES),
        sha256=np.array(file_digest(path)),
    )
