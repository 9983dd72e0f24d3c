"""Where the nodes of a file run: those that an execution provider of onnxruntime leaves to the processor are told."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .onnxruntime_runner import CPU_PROVIDER, Runner


def count_nodes(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many nodes ran on each execution provider, by a profile of onnxruntime.

    Args:
        events: The profile; a node counts once, however often it ran.
    """
    ran = {
        (event["name"], event["args"].get("node_index"), event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return dict(sorted(Counter(provider for *_, provider in ran).items()))


def describe_fallback(nodes: Mapping[str, int]) -> str | None:
    """Return in a sentence how many nodes the processor ran for another provider; None where it ran none."""
    left = nodes.get(CPU_PROVIDER, 0)
    return f"{left} of {sum(nodes.values())} nodes ran on the CPU" if left else None


def profile_nodes(path: Path, inputs: NDArray[Any], provider: str, threads: int) -> dict[str, int]:
    """Run a file once under onnxruntime's profiler, and return how many nodes ran on each execution provider.

    Args:
        path: The ONNX file.
        inputs: One batch.
        provider: Execution provider.
        threads: Threads within an operator.

    Raises:
        CandidateFailure: Stage ``latency``, where the file cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(path, stage="latency", provider=provider, threads=threads, profile=Path(folder) / "profile")
        runner.run(inputs)
        events = json.loads(runner.end_profile().read_text(encoding="utf-8"))
    return count_nodes(events)
