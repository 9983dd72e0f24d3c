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
from measuring import RESULTS, conditions  # type: ignore[import-not-found]
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from karui.evaluators.local import LocalTarget
from karui.evaluators.pinning import allowed_cores, choose_cores
from karui.evaluators.runtime import Runner
from karui.evaluators.timing import TimingSettings
from karui.spaces.export import export_onnx
from karui.spaces.packing import pack
from karui.spaces.quantization.bit_choice import BitChoice
from karui.spaces.quantization.quantize import quantize
from karui.spaces.quantization.settings import QuantizationSettings
from karui.studies.tasks.resnet import ResNet

SIZES = [(4, 1), (8, 1), (8, 2), (12, 2), (16, 3), (24, 2), (32, 2), (40, 2), (48, 3), (64, 3)]
"""Channels of the first stage, and blocks of each of three stages."""

CONDITIONS = ("quiet", "disturbed")
BURNS_FOR_SECONDS = (0.05, 0.6)
APART = 0.05
"""By what share two files differ that have to be put in the right order."""

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
    return {
        "karui": lambda path: target.time_pair(reference, path, inputs, TimingSettings()).ratio,
        "mean of 1 run": lambda path: one_run(path) / first,
        "10 warm-ups, mean of 20": lambda path: twenty_runs(path) / mean,
    }


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


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return, per loop and condition, the mean variation of the ratio, rank correlation and seconds."""
    rows = []
    groups = dict(list(table.groupby(["loop", "condition"])))
    # karui first, the others as they become more careful
    for loop, condition in sorted(
        groups, key=lambda key: (key[0] != "karui", key[0].startswith("10"), key[1] != "quiet")
    ):
        group = groups[loop, condition]
        rows.append(
            {
                "loop": loop,
                "condition": condition,
                "cv_percent": float(variations(group).mean()),
                "kendall_tau": float(np.mean(correlations(group))),
                "median_seconds": float(group["seconds"].median()),
            }
        )
    return pd.DataFrame(rows)


def variations(group: pd.DataFrame) -> pd.Series:
    """Return the coefficient of variation of each file's ratio over its repetitions, in percent."""
    ratios = group.groupby("file")["ratio"]
    return 100 * ratios.std(ddof=1) / ratios.mean()


def correlations(group: pd.DataFrame) -> list[float]:
    """Return Kendall's rank correlation of the files between every two repetitions."""
    ratios = group.pivot(index="file", columns="repetition", values="ratio")
    return [float(kendalltau(ratios[one], ratios[other]).statistic) for one, other in itertools.combinations(ratios, 2)]


def front(latency: pd.Series, weights: dict[str, int]) -> set[str]:
    """Return the files that none of as many weights or more is as fast as."""
    return {
        name
        for name in latency.index
        if not any(
            latency[other] <= latency[name]
            and weights[other] >= weights[name]
            and (latency[other], -weights[other]) != (latency[name], -weights[name])
            for other in latency.index
        )
    }


def mistakes(group: pd.DataFrame, truth: pd.Series, weights: dict[str, int]) -> dict[str, float]:
    """Return, as means over repetitions, what a loop would have got wrong."""
    right = front(truth, weights)
    pairs = [
        (one, other) for one, other in itertools.permutations(truth.index, 2) if truth[one] < truth[other] / (1 + APART)
    ]
    missing, wrong, swapped = [], [], []
    for _, repetition in group.groupby("repetition"):
        latency = repetition.set_index("file")["ratio"]
        found = front(latency, weights)
        missing.append(len(right - found))
        wrong.append(len(found - right))
        swapped.append(100 * np.mean([latency[one] >= latency[other] for one, other in pairs]))
    return {
        "missing": float(np.mean(missing)),
        "wrong": float(np.mean(wrong)),
        "swapped": float(np.mean(swapped)),
        "off": float(100 * np.median(np.abs(group["ratio"] / group["file"].map(truth) - 1))),
    }


def describe(table: pd.DataFrame, summary: pd.DataFrame, weights: dict[str, int], seconds: float) -> str:
    """Return the report in Markdown."""
    quiet = "quiet" if "quiet" in set(table["condition"]) else "disturbed"
    ours = table[(table["loop"] == "karui") & (table["condition"] == quiet)]
    truth = ours.groupby("file")["ratio"].median().sort_values()
    files, repetitions = len(truth), int(table["repetition"].nunique())
    lines = [
        "# How far a latency can be trusted",
        "",
        f"{files} files over a {truth.max() / truth.min():.0f}-fold range of latency, each measured {repetitions} "
        "times in shuffled order: how far the ratio to the reference varies between repetitions, and how far the order "
        "of the files agrees (Kendall's tau between every two repetitions). karui's own timing, with its defaults, "
        "beside two loops that open a file and time it alone. Goal for karui: variation under 1 % quiet and under 3 % "
        "disturbed, rank correlation above 0.98 in both, under 2 s.",
        "",
        "| loop | machine | variation, mean (worst file) | rank correlation, mean (least) | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in summary.itertuples():
        group = table[(table["loop"] == row.loop) & (table["condition"] == row.condition)]
        lines.append(
            f"| {row.loop} | {row.condition} | {row.cv_percent:.2f} % ({variations(group).max():.2f} %) | "
            f"{row.kendall_tau:.3f} ({min(correlations(group)):.3f}) | {row.median_seconds:.2f} |"
        )
    right = front(truth, weights)
    lines += [
        "",
        "## What that does to a front",
        "",
        f"The networks are untrained: the number of their weights stands for their accuracy. Of the {files} files "
        f"{len(right)} are on the front of latency and weights, by the medians of karui's {repetitions} {quiet} "
        f"measurements. Means over {repetitions} searches that measure each file once:",
        "",
        f"| loop | machine | of the front left out | wrongly on it | pairs in the wrong order, of those {APART:.0%} "
        "apart | ratio off by, median |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary.itertuples():
        group = table[(table["loop"] == row.loop) & (table["condition"] == row.condition)]
        found = mistakes(group, truth, weights)
        lines.append(
            f"| {row.loop} | {row.condition} | {found['missing']:.1f} | {found['wrong']:.1f} | "
            f"{found['swapped']:.1f} % | {found['off']:.1f} % |"
        )
    burns = " to ".join(f"{value:g}" for value in BURNS_FOR_SECONDS)
    lines += [
        "",
        "## How it was made",
        "",
        "All loops ran in one process on one core, threads pinned. Disturbed: another process that was given the very "
        f"same core, and no other, computed for {burns} s and slept for {burns} s, drawn anew each time. On more cores "
        "a system would often move the one or the other away; here nothing could flee. karui's seconds are those of "
        "one measurement, opening the file included. What the loops call the reference is the largest network in "
        "float32; the other two loops timed it once, before the files, and what was off then is off in all their ratios.",
        "",
        conditions(
            kernel=os.uname().release, load_average=f"{os.getloadavg()[2]:.1f}", minutes=f"{seconds / 60:.0f}"
        ).replace("The machine was shared.", "Nothing else was meant to run."),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
