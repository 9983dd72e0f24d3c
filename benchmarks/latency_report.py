"""What comes of the measurements of ``latency.py``: how far they vary, and what that does to a front."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pandas as pd
from measuring import conditions  # type: ignore[import-not-found]
from scipy.stats import kendalltau  # type: ignore[import-untyped]

LOOPS = ("karui", "mean of 1 run", "10 warm-ups, mean of 20")
CONDITIONS = ("quiet", "disturbed")
BURNS_FOR_SECONDS = (0.05, 0.6)
APART = 0.05
"""By what share two files differ that have to be put in the right order."""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return, per loop and condition, the mean variation of the ratio, rank correlation and seconds."""
    rows = []
    for loop, condition in itertools.product(LOOPS, CONDITIONS):
        group = table[(table["loop"] == loop) & (table["condition"] == condition)]
        if group.empty:
            continue
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
        "float32; the other two loops timed it once, before the files, and what was off then is off in all "
        "their ratios.",
        "",
        conditions(
            kernel=os.uname().release, load_average=f"{os.getloadavg()[2]:.1f}", minutes=f"{seconds / 60:.0f}"
        ).replace("The machine was shared.", "Nothing else was meant to run."),
        "",
    ]
    return "\n".join(lines)
