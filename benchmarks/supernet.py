"""Whether the accuracy that a network inherits from a supernet ranks it as training it from scratch does.

On the digits task, one supernet of inverted-residual stages, or of cells, is trained, and networks spread over its
space by their number of weights are judged, on the test split, which no training has seen,

- ``shared``: with the supernet's weights and its own statistics of batch normalization;
- ``inherited``: the same, the statistics re-estimated;
- ``tuned``: inherited, then trained a few epochs;
- ``scratch``: trained from scratch, every one for the same number of epochs, with two seeds. How well the two seeds
  agree bounds what any proxy can reach.

All trainings learn from the same trained baseline. Writes ``results/supernet.csv``, a row per network, and
``results/supernet.md``, or ``supernet_cells``. Run as ``python benchmarks/supernet.py --space stages`` or
``--space cells``; takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import scipy  # type: ignore[import-untyped]
import torch
from measuring import processor  # type: ignore[import-not-found]
from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]
from torch import nn

from karui.spaces.axes.axis import Draw
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.shared_cells import CellNetworks
from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.stages.shared_stages import StageNetworks
from karui.spaces.axes.supernet.networks import SharedNetworks
from karui.spaces.axes.supernet.supernet_training import train_supernet
from karui.spaces.axes.supernet.weights import Supernet
from karui.spaces.prediction import predict
from karui.spaces.task import Task
from karui.spaces.training.batch_statistics import STATISTICS_SAMPLES, reestimate_normalization, statistics_inputs
from karui.spaces.training.recovery import TrainingSettings, train
from karui.studies.tasks.digits import make_task

RESULTS = Path(__file__).parent / "results"
STAGES = StagesAxis(stages=3, channels=(8,), kernels=(3, 5), expansions=(1, 3))
CELLS = CellsAxis(nodes=4, channels=(8,), cells_per_stage=(1,))
INPUT_SHAPE, OUTPUTS = (1, 8, 8), 10
NETWORKS = 12
DRAWN = 200
SEED = 0
SCRATCH_SEEDS = (1, 2)
SUPERNET_LEARNING_RATE = 1e-2
SCRATCH_EPOCHS = 12
TUNED_EPOCHS = 2
COLUMNS = ("weights", "shared", "inherited", "tuned", "scratch", "scratch_again")


@dataclass(frozen=True)
class Space:
    """A space to judge.

    Args:
        file: What its results are called.
        kind: What its networks are.
        networks: For the supernet.
        draw: Returns random networks; the smallest and the largest may be among them.
        supernet_epochs: Epochs of the supernet's training.
    """

    file: str
    kind: str
    networks: SharedNetworks[Any]
    draw: Callable[[], set[Any]]
    supernet_epochs: int


def main() -> None:
    """Train the supernet, judge the networks, train them, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", choices=SPACES, default="stages")
    space = SPACES[parser.parse_args().space]
    torch.set_num_threads(1)
    begin = time.perf_counter()
    task = make_task(SEED)
    train(task.model, task, TrainingSettings(task.baseline_epochs, device="cpu", seed=SEED))
    supernet_begin = time.perf_counter()
    settings = TrainingSettings(space.supernet_epochs, learning_rate=SUPERNET_LEARNING_RATE, device="cpu", seed=SEED)
    supernet = train_supernet(space.networks, task, settings, teacher=task.model)
    supernet_seconds = time.perf_counter() - supernet_begin
    print(f"supernet: {supernet_seconds:.0f} s", flush=True)
    table = pd.DataFrame([_judge(choice, supernet, task) for choice in _spread(space, supernet)])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{space.file}.csv", index=False, float_format="%.6g")
    seconds = time.perf_counter() - begin
    report = _report(space, table, supernet_seconds, seconds, _quality(task.model, task)[0])
    (RESULTS / f"{space.file}.md").write_text(report, encoding="utf-8")


def _spread(space: Space, supernet: Supernet[Any]) -> list[Any]:
    """Return networks from the smallest to the largest, in equal steps of rank by their number of weights."""
    ends = space.networks.smallest(), space.networks.largest()
    drawn = space.draw() - set(ends)
    ranked = sorted(drawn, key=lambda choice: (_weights(supernet.extract(choice)), choice.describe()))
    steps = np.linspace(0, len(ranked) - 1, NETWORKS - 2).round().astype(int)
    return [ends[0], *(ranked[step] for step in steps), ends[1]]


def _draw_stages() -> set[StageNetwork]:
    chance = np.random.default_rng(SEED)
    stages = [
        Stage(kernel, expansion, gate == "yes", depth)
        for kernel, expansion, gate, depth in product(
            STAGES.kernels, STAGES.expansions, STAGES.squeeze_excite, STAGES.depths
        )
    ]
    return {
        StageNetwork(STAGES.channels[0], tuple(stages[position] for position in chance.integers(len(stages), size=3)))
        for _ in range(DRAWN)
    }


def _draw_cells() -> set[CellNetwork]:
    """Return cells in their normal form, so that none is drawn twice."""
    draw = Draw(Random(SEED))
    networks = CellNetworks(CELLS, INPUT_SHAPE, OUTPUTS)
    drawn = (networks.draw(draw) for _ in range(DRAWN))
    return {replace(choice, genotype=choice.genotype.canonical()) for choice in drawn}


SPACES = {
    "stages": Space(
        "supernet", "inverted-residual stages", StageNetworks(STAGES, INPUT_SHAPE, OUTPUTS), _draw_stages, 24
    ),
    "cells": Space("supernet_cells", "cells", CellNetworks(CELLS, INPUT_SHAPE, OUTPUTS), _draw_cells, 24),
}


def _judge(choice: Any, supernet: Supernet[Any], task: Task) -> dict[str, Any]:
    network = supernet.extract(choice)
    row: dict[str, Any] = {"network": choice.describe(), "weights": _weights(network)}
    row["shared"], row["shared_loss"] = _quality(network, task)
    begin = time.perf_counter()
    network = supernet.extract(choice)
    reestimate_normalization(network, statistics_inputs(task, seed=SEED))
    row["inherited_seconds"] = time.perf_counter() - begin
    row["inherited"], row["inherited_loss"] = _quality(network, task)
    row["tuned_seconds"] = _train(network, task, TUNED_EPOCHS, SCRATCH_SEEDS[0])
    row["tuned"], row["tuned_loss"] = _quality(network, task)
    for name, seed in zip(("scratch", "scratch_again"), SCRATCH_SEEDS, strict=True):
        torch.manual_seed(seed)
        network = supernet.networks.build(choice)
        row[f"{name}_seconds"] = _train(network, task, SCRATCH_EPOCHS, seed)
        row[name], row[f"{name}_loss"] = _quality(network, task)
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return row


def _train(network: nn.Module, task: Task, epochs: int, seed: int) -> float:
    return train(network, task, TrainingSettings(epochs, device="cpu", seed=seed), teacher=task.model).seconds


def _quality(network: nn.Module, task: Task) -> tuple[float, float]:
    outputs, targets = predict(network, task.test)
    return task.metric(outputs, targets), float(task.loss(outputs, targets))


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _report(space: Space, table: pd.DataFrame, supernet_seconds: float, seconds: float, baseline: float) -> str:
    lines = [
        "# A supernet's accuracy against training from scratch",
        "",
        f"Test accuracy in % of {len(table)} networks of {space.kind} on digits; the baseline has "
        f"{baseline:.1%}. `shared` and `inherited` (statistics re-estimated) come from one supernet, `tuned` is "
        f"trained {TUNED_EPOCHS} epochs from there, `scratch` {SCRATCH_EPOCHS} epochs from new weights, with two "
        "seeds.",
        "",
        "| network | " + " | ".join(COLUMNS).replace("_", " ") + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for _, row in table.iterrows():
        shares = [f"{100 * row[name]:.1f}" for name in COLUMNS[1:]]
        lines.append(f"| {row['network'].replace('|', '/')} | {row['weights']:,} | " + " | ".join(shares) + " |")
    table["mean"] = (table["scratch"] + table["scratch_again"]) / 2
    table["mean_loss"] = (table["scratch_loss"] + table["scratch_again_loss"]) / 2
    lines += ["", "Rank correlation with training from scratch (mean of both seeds; p-values in brackets):", ""]
    lines += ["| ranked by | Kendall tau, accuracy | Spearman rho, accuracy | Kendall tau, loss | Spearman rho, loss |"]
    lines += [
        "|---|---|---|---|---|",
        *_correlations(table),
        "",
        *_conditions(space, table, supernet_seconds, seconds),
        "",
    ]
    return "\n".join(lines)


def _correlations(table: pd.DataFrame) -> Iterator[str]:
    """Yield a row per proxy; the number of weights is the proxy that costs nothing."""
    pairs = [(name, "mean") for name in ("shared", "inherited", "tuned")] + [("scratch_again", "scratch")]
    for name, wanted in pairs:
        cells = [
            _correlation(table[f"{name}{suffix}"], table[f"{wanted}{suffix}"], measure)
            for suffix in ("", "_loss")
            for measure in (kendalltau, spearmanr)
        ]
        label = name if wanted == "mean" else "scratch, one seed against the other"
        yield f"| {label} | " + " | ".join(cells) + " |"
    cells = [
        _correlation(sign * table["weights"], table[wanted], measure)
        for sign, wanted in ((1, "mean"), (-1, "mean_loss"))
        for measure in (kendalltau, spearmanr)
    ]
    yield "| number of weights | " + " | ".join(cells) + " |"


def _correlation(proxy: pd.Series[Any], wanted: pd.Series[Any], measure: Any) -> str:
    found = measure(proxy, wanted)
    return f"{found.statistic:.2f} ({found.pvalue:.1g})"


def _conditions(space: Space, table: pd.DataFrame, supernet_seconds: float, seconds: float) -> Iterator[str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"scipy": scipy.__version__}
    yield f"- Seconds: the supernet {supernet_seconds:.0f} once ({space.supernet_epochs} epochs, learning rate"
    yield f"  {SUPERNET_LEARNING_RATE:g}, all others {TrainingSettings(0).learning_rate:g}); then, mean of a network,"
    means = {name: table[f"{name}_seconds"].mean() for name in ("inherited", "tuned", "scratch")}
    yield "  " + ", ".join(f"{name} {value:.3g}" for name, value in means.items()) + " (the machine was shared)."
    yield "- Conditions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ";"
    yield f"  {torch.get_num_threads()} thread on {processor()}; seed {SEED} (splits, baseline, supernet, drawn"
    yield f"  networks), {SCRATCH_SEEDS} (scratch); batches of 64; statistics from {STATISTICS_SAMPLES} samples;"
    yield f"  {datetime.date.today().isoformat()}; {seconds / 60:.0f} minutes in all."


if __name__ == "__main__":
    main()
