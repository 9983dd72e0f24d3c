"""How far a measured latency can be trusted: karui's timing beside the loops that other tools use.

Twenty files, residual networks of ten sizes in float32 and with 4-bit weights beside 8-bit activations, packed; ten
measurements of each by every loop, in shuffled order, on a quiet machine and beside a process that burns one core on
and off. All loops run on one core, and so does that process: none of them can flee from it to another one.

Writes ``results/latency.csv`` (every measurement), ``results/latency_summary.csv`` and ``results/latency.md``. Run as
``python benchmarks/latency.py`` on a machine that does nothing else; takes about twenty minutes. ``--files``,
``--repetitions`` and ``--only`` make it shorter, ``--results`` writes elsewhere.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from latency_report import (  # type: ignore[import-not-found]
    BURNS_FOR_SECONDS,
    CONDITIONS,
    LOOPS,
    describe,
    summarize,
)
from measuring import RESULTS  # type: ignore[import-not-found]

from karui.evaluators.runtimes.onnxruntime_runner import Runner
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing.alternating import TimingSettings
from karui.evaluators.timing.pinning import allowed_cores, choose_cores
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.settings import QuantizationSettings
from karui.studies.tasks.resnet import ResNet

SIZES = [(4, 1), (8, 1), (8, 2), (12, 2), (16, 3), (24, 2), (32, 2), (40, 2), (48, 3), (64, 3)]
"""Channels of the first stage, and blocks of each of three stages."""

_BURNER = """
import os, random, sys, time
seed, shortest, longest, parent = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
draw = random.Random(seed)
while os.getppid() == parent:
    end = time.perf_counter() + draw.uniform(shortest, longest)
    while time.perf_counter() < end:
        pass
    time.sleep(draw.uniform(shortest, longest))
"""

Loop = Callable[[Path], float]


def main() -> None:
    """Make the files, measure, write."""
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--files", type=int, default=2 * len(SIZES), help="so many of them")
    told.add_argument("--repetitions", type=int, default=10)
    told.add_argument("--only", choices=CONDITIONS)
    told.add_argument("--results", type=Path, default=RESULTS)
    options = told.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    (core,) = choose_cores(allowed_cores(), 1)
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder))
        reference = files[-2]  # the largest in float32, which a search would make light
        measured = [files[index] for index in np.linspace(0, len(files) - 1, options.files).round().astype(int)]
        weights = {path.stem: weights_of(path) for path in measured}
        names = (options.only,) if options.only else CONDITIONS
        rows = [row for name in names for row in measure_all(name, reference, measured, options.repetitions)]
    table = pd.DataFrame(rows)
    options.results.mkdir(parents=True, exist_ok=True)
    columns = ["loop", "condition", "file", "repetition", "ratio", "seconds"]
    table[columns].to_csv(options.results / "latency.csv", index=False, float_format="%.6g")
    summary = summarize(table)
    summary.to_csv(options.results / "latency_summary.csv", index=False, float_format="%.6g")
    report = describe(table, summary, weights, time.perf_counter() - begin)
    (options.results / "latency.md").write_text(report, encoding="utf-8")


def make_files(folder: Path) -> list[Path]:
    """Return the files, from the smallest network to the largest, each in float32 and packed."""
    inputs = torch.randn(4, 3, 32, 32)
    # Random weights leave error feedback nothing to gain.
    settings = QuantizationSettings(rounding="nearest")
    files = []
    for width, blocks in SIZES:
        network = ResNet(3, 10, (width, 2 * width, 4 * width), (blocks,) * 3)
        plain, packed = (folder / f"{width}x{blocks} {name}.onnx" for name in ("float32", "w4 a8"))
        export_onnx(network, inputs, plain)
        quantize(plain, packed, BitChoice(4, 8), calibration=inputs.numpy(), settings=settings)
        pack(packed, packed)
        files += [plain, packed]
    return files


def weights_of(path: Path) -> int:
    """Return how many weights the network has that a file was made of: the same for both of its files."""
    width, blocks = (int(part) for part in path.stem.split()[0].split("x"))
    network = ResNet(3, 10, (width, 2 * width, 4 * width), (blocks,) * 3)
    return sum(tensor.numel() for tensor in network.parameters())


def measure_all(condition: str, reference: Path, files: Sequence[Path], repetitions: int) -> Iterator[dict[str, Any]]:
    """Measure every file so often by every loop, in shuffled order."""
    inputs = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    jobs = list(itertools.product(files, range(repetitions)))
    draw = random.Random(0)
    draw.shuffle(jobs)
    with disturbance(condition == "disturbed"):
        loops = make_loops(reference, inputs)
        for done, (path, repetition) in enumerate(jobs, start=1):
            for name in draw.sample(sorted(loops), len(loops)):
                begin = time.perf_counter()
                ratio = loops[name](path)
                seconds = time.perf_counter() - begin
                yield {
                    "loop": name, "condition": condition, "file": path.stem, "repetition": repetition,
                    "ratio": ratio, "seconds": seconds,
                }  # fmt: skip
            if done % 20 == 0:
                print(f"{condition}: {done} of {len(jobs)}", flush=True)


def make_loops(reference: Path, inputs: np.ndarray) -> dict[str, Loop]:
    """Return the loops, each of which opens a file and returns its latency as a multiple of the reference's.

    karui times the reference beside each file. The others time it once, before all files, as tools do that know
    nothing but milliseconds.
    """
    target = LocalTarget()

    def one_run(path: Path) -> float:
        return mean_seconds(path, inputs, warm_ups=0, runs=1)

    def twenty_runs(path: Path) -> float:
        return mean_seconds(path, inputs, warm_ups=10, runs=20)

    first, mean = one_run(reference), twenty_runs(reference)
    measured: tuple[Loop, ...] = (
        lambda path: target.time_pair(reference, path, inputs, TimingSettings()).ratio,
        lambda path: one_run(path) / first,
        lambda path: twenty_runs(path) / mean,
    )
    return dict(zip(LOOPS, measured, strict=True))


def mean_seconds(path: Path, inputs: np.ndarray, *, warm_ups: int, runs: int) -> float:
    """Return the mean time of so many runs after so many that are not timed."""
    runner = Runner(path, stage="benchmark")
    for _ in range(warm_ups):
        runner.run(inputs)
    begin = time.perf_counter()
    for _ in range(runs):
        runner.run(inputs)
    return (time.perf_counter() - begin) / runs


@contextmanager
def disturbance(wanted: bool) -> Iterator[None]:
    """Have a process burn this very core on and off, where that is wanted; it inherits where it may run."""
    if not wanted:
        yield
        return
    shortest, longest = BURNS_FOR_SECONDS
    arguments = ["0", str(shortest), str(longest), str(os.getpid())]
    process = subprocess.Popen([sys.executable, "-c", _BURNER, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
