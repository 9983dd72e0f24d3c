"""Whether the accuracy that a network inherits from a supernet ranks it as training it from scratch does.

On the digits task, one supernet of inverted-residual stages is trained, and networks spread over its space by their
number of weights are judged, on the test split, which no training has seen,

- ``shared``: with the supernet's weights and its own statistics of batch normalization;
- ``inherited``: the same, the statistics re-estimated;
- ``tuned``: inherited, then trained a few epochs;
- ``scratch``: trained from scratch, every one for the same number of epochs, with two seeds. How well the two seeds
  agree bounds what any proxy can reach.

All trainings learn from the same trained baseline. Writes ``results/supernet.csv``, a row per network, and
``results/supernet.md``. Run as ``python benchmarks/supernet.py``; takes about ten minutes on one core.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # type: ignore[import-untyped]
import torch
from measuring import processor  # type: ignore[import-not-found]
from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]
from torch import nn

from karui.spaces.normalization import STATISTICS_SAMPLES, reestimate_normalization, statistics_inputs
from karui.spaces.prediction import predict
from karui.spaces.recovery import TrainingSettings, train
from karui.spaces.stages.axis import StagesAxis
from karui.spaces.stages.choice import Stage, StageNetwork
from karui.spaces.stages.network import build_stage_network
from karui.spaces.stages.supernet import Supernet
from karui.spaces.stages.training import train_supernet
from karui.spaces.task import Task
from karui.studies.tasks.digits import make_task

RESULTS = Path(__file__).parent / "results"
AXIS = StagesAxis(stages=3, channels=(8,), kernels=(3, 5), expansions=(1, 3))
OUTPUTS = 10
NETWORKS = 12
SEED = 0
SCRATCH_SEEDS = (1, 2)
SUPERNET_EPOCHS = 24
SUPERNET_LEARNING_RATE = 1e-2
SCRATCH_EPOCHS = 6
TUNED_EPOCHS = 2
COLUMNS = ("weights", "shared", "inherited", "tuned", "scratch", "scratch_again")


def main() -> None:
    """Train the supernet, judge the networks, train them, write."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    task = make_task(SEED)
    train(task.model, task, TrainingSettings(task.baseline_epochs, device="cpu", seed=SEED))
    supernet_begin = time.perf_counter()
    settings = TrainingSettings(SUPERNET_EPOCHS, learning_rate=SUPERNET_LEARNING_RATE, device="cpu", seed=SEED)
    supernet = train_supernet(AXIS, task, settings, outputs=OUTPUTS, teacher=task.model)
    supernet_seconds = time.perf_counter() - supernet_begin
    print(f"supernet: {supernet_seconds:.0f} s", flush=True)
    table = pd.DataFrame([_judge(choice, supernet, task) for choice in _spread(supernet)])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "supernet.csv", index=False, float_format="%.6g")
    report = _report(table, supernet_seconds, time.perf_counter() - begin, _quality(task.model, task)[0])
    (RESULTS / "supernet.md").write_text(report, encoding="utf-8")


def _spread(supernet: Supernet) -> list[StageNetwork]:
    """Return networks from the smallest to the largest, in equal steps of rank by their number of weights."""
    chance = np.random.default_rng(SEED)
    stages = [
        Stage(kernel, expansion, gate == "yes", depth)
        for kernel, expansion, gate, depth in product(AXIS.kernels, AXIS.expansions, AXIS.squeeze_excite, AXIS.depths)
    ]
    drawn = {
        StageNetwork(AXIS.channels[0], tuple(stages[position] for position in chance.integers(len(stages), size=3)))
        for _ in range(200)
    } - {AXIS.smallest(), AXIS.largest()}
    ranked = sorted(drawn, key=lambda choice: (_weights(supernet.extract(choice)), choice.describe()))
    steps = np.linspace(0, len(ranked) - 1, NETWORKS - 2).round().astype(int)
    return [AXIS.smallest(), *(ranked[step] for step in steps), AXIS.largest()]


def _judge(choice: StageNetwork, supernet: Supernet, task: Task) -> dict[str, Any]:
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
        network = build_stage_network(choice, task.input_shape, OUTPUTS)
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


def _report(table: pd.DataFrame, supernet_seconds: float, seconds: float, baseline: float) -> str:
    lines = [
        "# A supernet's accuracy against training from scratch",
        "",
        f"Test accuracy in % of {len(table)} networks of inverted-residual stages on digits; the baseline has "
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
    lines += ["|---|---|---|---|---|", *_correlations(table), "", *_conditions(table, supernet_seconds, seconds), ""]
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


def _conditions(table: pd.DataFrame, supernet_seconds: float, seconds: float) -> Iterator[str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"scipy": scipy.__version__}
    yield f"- Seconds: the supernet {supernet_seconds:.0f} once ({SUPERNET_EPOCHS} epochs, learning rate"
    yield f"  {SUPERNET_LEARNING_RATE:g}, all others {TrainingSettings(0).learning_rate:g}); then, mean of a network,"
    means = {name: table[f"{name}_seconds"].mean() for name in ("inherited", "tuned", "scratch")}
    yield "  " + ", ".join(f"{name} {value:.3g}" for name, value in means.items()) + " (the machine was shared)."
    yield "- Conditions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ";"
    yield f"  {torch.get_num_threads()} thread on {processor()}; seed {SEED} (splits, baseline, supernet, drawn"
    yield f"  networks), {SCRATCH_SEEDS} (scratch); batches of 64; statistics from {STATISTICS_SAMPLES} samples;"
    yield f"  {datetime.date.today().isoformat()}; {seconds / 60:.0f} minutes in all."


if __name__ == "__main__":
    main()
