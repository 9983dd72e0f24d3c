"""What the benchmarks share: a file measured as the search measures it, and the conditions that go with a table."""

from __future__ import annotations

import datetime
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from karui.evaluators.accuracy import AccuracyEvaluator
from karui.evaluators.latency import LatencyEvaluator
from karui.evaluators.loading import LoadEvaluator
from karui.evaluators.targets.target import TARGETS
from karui.evaluators.timing.alternating import TimingSettings
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.task import Task

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnxruntime", "torch", "torchvision", "torch-pruning", "numpy", "onnx")


class Ruler:
    """Measures files beside a reference, one thread of onnxruntime.

    Args:
        reference: The float32 file.
        inputs: One batch, shape (batch, *input_shape), for latency.
        task: Its test split gives the accuracy; None where accuracy has no meaning.
    """

    def __init__(self, reference: Path, inputs: np.ndarray, task: Task | None = None) -> None:
        self._reference = Artifact(reference, file_digest(reference))
        target = TARGETS["local"](threads=1, provider="CPUExecutionProvider")
        timing = replace(TimingSettings(), max_seconds=3.0)
        self._latency = LatencyEvaluator(target, self._reference, inputs, timing, reference_ms=1.0)
        self._load = LoadEvaluator(target, self._reference, timing)
        self._accuracy = self._validation = None
        if task is not None:
            shared = (task.metric, task.metric_name)
            self._accuracy = AccuracyEvaluator(task.test, *shared, "test", resampling_seconds=0.0)
            self._validation = AccuracyEvaluator(task.validation, *shared, "validation", resampling_seconds=0.0)
        self.reference_accuracy = self.accuracy(reference)
        self._reference_validation = self._on_validation(reference)

    def accuracy(self, path: Path) -> float:
        """Return the accuracy of a file on the test split, not a number where there is none."""
        if self._accuracy is None:
            return float("nan")
        return self._accuracy.measure(Artifact(path, file_digest(path)))[0].value

    def validation_drop_points(self, path: Path) -> float:
        """Return how many points a file loses on validation: what is best is chosen by that, and reported on test."""
        return 100 * (self._reference_validation - self._on_validation(path))

    def _on_validation(self, path: Path) -> float:
        if self._validation is None:
            return float("nan")
        return self._validation.measure(Artifact(path, file_digest(path)))[0].value

    def values(self, path: Path) -> tuple[float, float, float]:
        """Return bytes, latency as a multiple of the reference's, and accuracy of a file."""
        latency = {item.name: item.value for item in self._latency.measure(Artifact(path, file_digest(path)))}
        return path.stat().st_size, latency["latency_ratio"], self.accuracy(path)

    def measure(self, path: Path) -> dict[str, float]:
        """Return bytes, how many times smaller and faster, accuracy and points lost, and load time of a file."""
        artifact = Artifact(path, file_digest(path))
        latency = {item.name: item.value for item in self._latency.measure(artifact)}
        load = {item.name: item.value for item in self._load.measure(artifact)}
        accuracy, size = self.accuracy(path), path.stat().st_size
        return {
            "size_bytes": size,
            "size_x": self._reference.path.stat().st_size / size,
            "speed_x": 1.0 / latency["latency_ratio"],
            "accuracy": accuracy,
            "drop_points": 100 * (self.reference_accuracy - accuracy),
            "load_ms": load["load_ms"],
            "load_peak_mb": load.get("load_peak_bytes", float("nan")) / 1e6,
        }


def conditions(**more: Any) -> str:
    """Return one line with versions, processor, date and whatever else is told."""
    versions = [f"python {platform.python_version()}", *(f"{package} {version(package)}" for package in PACKAGES)]
    told = [f"{name.replace('_', ' ')} {value}" for name, value in more.items()]
    return (
        f"Conditions: {', '.join(versions)}; {processor()} {instructions()}, one thread in measuring, batch 1, the "
        f"reference in alternation with each file; {'; '.join([*told, today()])}. "
        "The machine was shared."
    )


def today() -> str:
    return datetime.date.today().isoformat()


def instructions() -> str:
    """Say which instructions for few bits and for bfloat16 the processor has."""
    known = {word for line in _description() for word in line.split()}
    names = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "avx512_bf16", "amx_bf16", "bf16")
    found = [name for name in names if name in known]
    return f"({', '.join(found) or 'no instructions for few bits or bfloat16'})"


def processor() -> str:
    """Return what the processor calls itself."""
    names = (line.split(":", 1)[1].strip() for line in _description() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _description() -> list[str]:
    """Return the lines in which Linux describes the processor; none elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
