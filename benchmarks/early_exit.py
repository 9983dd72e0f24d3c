"""What an early exit brings on digits: mean and 95th percentile of the latency over inputs, and accuracy.

The baseline of the bundled study ``digits``, in float32 and with 4-bit weights and 8-bit activations, gets an exit at
several depths and thresholds. Each file runs the same inputs of the validation split, one at a time, in alternation
with the file without exit. Writes ``results/early_exit.csv`` and ``results/early_exit.md``. Run as
``python benchmarks/early_exit.py``; takes about five minutes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from measuring import RESULTS, conditions  # type: ignore[import-not-found]

from karui.spaces.axes.exits.exit_file_check import ExitChoice, pack_with_exit
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.task import Pairs, Task, iterate
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.tasks.digits import make_task

DEPTHS = (0.4, 0.8)
THRESHOLDS = (0.7, 0.9, 0.99)
TIMED_INPUTS, PASSES = 300, 15
HEAD_SAMPLES = 1_000


def main() -> None:
    """Train, make, measure, write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = pd.DataFrame(_measure(make_task(), Path(folder)))
    rows.to_csv(RESULTS / "early_exit.csv", index=False, float_format="%.6g")
    (RESULTS / "early_exit.md").write_text(_report(rows), encoding="utf-8")


def _measure(task: Task, folder: Path) -> Iterator[dict[str, Any]]:
    plain = prepare_baseline(task, load_spec("digits").recovery, folder).path
    rounded = folder / "rounded.onnx"
    quantize(plain, rounded, BitChoice(4, 8), calibration=task.calibration_batch(256).numpy())
    inputs, targets = _arrays(task.train)
    for name, source in (("float32", plain), ("w4 a8", rounded)):
        without = folder / "without.onnx"
        pack(source, without)
        yield {"file": name, **_judge(without, without, task)}
        for depth in DEPTHS:
            for threshold in THRESHOLDS:
                path = folder / "with.onnx"
                choice = ExitChoice(depth, threshold)
                cut = pack_with_exit(
                    source, path, choice, inputs=inputs[:HEAD_SAMPLES], targets=targets[:HEAD_SAMPLES]
                )  # fmt: skip
                yield {"file": name, "depth": cut.share, "threshold": threshold, **_judge(path, without, task)}


def _arrays(split: Pairs) -> tuple[np.ndarray, np.ndarray]:
    batches = list(iterate(split, 256))
    inputs, targets = (torch.cat([batch[part] for batch in batches]).numpy() for part in (0, 1))
    return inputs, targets


def _judge(path: Path, reference: Path, task: Task) -> dict[str, float]:
    """Return size, accuracy on both splits, and latency as a ratio to the reference's mean and 95th percentile."""
    session, other = _session(path), _session(reference)
    found: dict[str, float] = {"size_bytes": path.stat().st_size}
    for name, split in (("validation", task.validation), ("test", task.test)):
        inputs, targets = _arrays(split)
        answers = [int(_run(session, one).argmax()) for one in inputs]
        found[f"{name}_accuracy"] = float((np.array(answers) == targets).mean())
    inputs, _ = _arrays(task.validation)
    times = np.array([[_times(each, inputs[:TIMED_INPUTS]) for each in (session, other)] for _ in range(PASSES)])
    # Per input the median over the passes, so that the slow way counts as often as it is taken.
    ours, theirs = np.median(times, axis=0)
    found["mean_ratio"] = float(ours.mean() / theirs.mean())
    found["p95_ratio"] = float(np.percentile(ours, 95) / np.percentile(theirs, 95))
    return found


def _times(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> list[float]:
    seconds = []
    for one in inputs:
        begin = time.perf_counter()
        _run(session, one)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _run(session: onnxruntime.InferenceSession, one: np.ndarray) -> np.ndarray:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: one[None]})[0])


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _report(rows: pd.DataFrame) -> str:
    lines = [
        "# Early exit on digits",
        "",
        "A head behind the given share of the multiply-adds answers where it is surer than the threshold. Latency over "
        f"{TIMED_INPUTS} validation inputs, one at a time, as a ratio to the same file without exit: of the means, and "
        "of the 95th percentiles.",
        "",
        "| file | depth | threshold | bytes | validation | test | mean latency | 95th percentile |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        where = "no exit | " if pd.isna(row["depth"]) else f"{row['depth']:.2f} | {row['threshold']:g}"
        accuracies = f"{100 * row['validation_accuracy']:.2f} % | {100 * row['test_accuracy']:.2f} %"
        ratios = f"{row['mean_ratio']:.2f} | {row['p95_ratio']:.2f}"
        lines.append(f"| {row['file']} | {where} | {row['size_bytes']:,.0f} | {accuracies} | {ratios} |")
    lines += ["", "An input that does not leave early pays for the head on top: the worst case is never faster.", ""]
    return "\n".join([*lines, conditions(seed=0, passes=PASSES), ""])


if __name__ == "__main__":
    main()
