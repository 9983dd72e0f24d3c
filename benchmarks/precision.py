"""How much sooner networks train in bfloat16 (``precision`` of ``[recovery]``), and whether they come out as good.

Networks cut out of Fashion-MNIST's ResNet-20 (weights beside this file) make training steps of 128 images in float32
and in bfloat16 by turns, in one run; then they recover in both, distilled, on a fifth of the images. Writes
``results/precision.md``. Run as ``python benchmarks/precision.py``: about a quarter of an hour of one core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measuring import RESULTS, instructions, processor, today  # type: ignore[import-not-found]
from safetensors.torch import load_model
from torch import nn

from karui.spaces.axes.students.choice import Student
from karui.spaces.building.network_factory import make_network
from karui.spaces.candidate import Baseline, Candidate
from karui.spaces.step import NetworkMaterials
from karui.spaces.task import Task
from karui.spaces.training.precision import Precision
from karui.spaces.training.recovery import metric_of, train
from karui.spaces.training.teacher import Teacher
from karui.spaces.training.training_settings import TrainingSettings
from karui.spaces.training.training_steps import Steps
from karui.spaces.training.zeroing import WeightZeroing
from karui.studies.tasks.fashion import make_task

WEIGHTS = Path(__file__).parent / "fashion_baseline.safetensors"
NETWORKS = {
    "the baseline": Candidate(Baseline()),
    "-50 % channels": Candidate(removed_channels=0.5),
    "-70 % channels": Candidate(removed_channels=0.7),
    "shallower, depth 0.34": Candidate(Student("shallower", 1.0, 0.34)),
    "shallower x0.75, depth 0.67, resolution 0.5": Candidate(Student("shallower", 0.75, 0.67, 0.5)),
}
RECOVERED = ("-50 % channels", "shallower, depth 0.34")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
SEEDS = (0, 1, 2)
TURNS = 15
SETTINGS = TrainingSettings(epochs=4, batch_size=128, device="cpu")
SAMPLES = 11_000


class Trainer:
    """Makes single training steps of a network in one precision, without a teacher.

    Args:
        network: Changed in place.
        task: Its loss, and images.
        precision: What it computes in.
    """

    def __init__(self, network: nn.Module, task: Task, precision: Precision) -> None:
        settings = replace(SETTINGS, precision=precision)
        batch = task.train[: settings.batch_size]
        self._batches = [(batch[0], batch[1], None)]
        parameters = list(network.train().parameters())
        zeroing = WeightZeroing(network, 0.0)
        self._steps = Steps(network, parameters, task, settings, zeroing=zeroing, average=None, total=10**6)

    def seconds(self) -> float:
        """Make a step, and return how long it took."""
        begin = time.perf_counter()
        self._steps.run(self._batches, None)  # type: ignore[arg-type]
        return time.perf_counter() - begin


class Asker:
    """Asks a teacher about single batches that it has not seen.

    Args:
        task: Its model, which teaches, and images.
        precision: What the teacher computes in.
    """

    def __init__(self, task: Task, precision: Precision) -> None:
        self._teacher = Teacher(task.model, precision=precision, most_bytes=0)
        self._images = task.train[: SETTINGS.batch_size][0]

    def seconds(self) -> float:
        """Ask once, and return how long the answer took."""
        begin = time.perf_counter()
        self._teacher.outputs(self._images, torch.device("cpu"))
        return time.perf_counter() - begin


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    task = make_task(train_samples=SAMPLES)
    load_model(task.model, str(WEIGHTS))
    lines = ["# Training in bfloat16", "", *_steps_table(task), "", *_accuracy_table(task), "", _conditions(), ""]
    (RESULTS / "precision.md").write_text("\n".join(lines), encoding="utf-8")


def _start(task: Task, name: str) -> nn.Module:
    return make_network(NETWORKS[name], NetworkMaterials(task.model, task.calibration_batch(2), 8))


def _steps_table(task: Task) -> list[str]:
    lines = [
        f"One step of {SETTINGS.batch_size} images, by turns, {TURNS} times each: median milliseconds, and the median "
        "of the ratios of two steps that follow each other, with their quartiles. The teacher answers, and learns "
        "nothing.",
        "",
        "| network | float32 | bfloat16 | float32 / bfloat16 |",
        "|---|---|---|---|",
    ]
    lines += [
        _row(name, [Trainer(_start(task, name), task, precision) for precision in PRECISIONS]) for name in NETWORKS
    ]
    lines.append(_row("the baseline as teacher", [Asker(task, precision) for precision in PRECISIONS]))
    return lines


def _row(name: str, timed: Sequence[Trainer | Asker]) -> str:
    for each in timed:
        each.seconds()  # the first time makes what later ones reuse
    seconds = np.array([[each.seconds() for each in timed] for _ in range(TURNS)])
    low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.5, 0.75])
    plain, half = 1e3 * np.median(seconds, axis=0)
    row = f"| {name} | {plain:.0f} | {half:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
    print(row, flush=True)
    return row


def _accuracy_table(task: Task) -> list[str]:
    lines = [
        f"Test accuracy in % after {SETTINGS.epochs} epochs of {SAMPLES:,} images, distilled from the baseline "
        f"({100 * metric_of(task.model, task, task.test):.2f} %), in seeds {', '.join(map(str, SEEDS))}; as float32 "
        "networks, nothing rounded.",
        "",
        "| network | float32 | bfloat16 | mean difference in points |",
        "|---|---|---|---|",
    ]
    teachers = {
        (precision, seed): Teacher(task.model, precision=precision) for precision in PRECISIONS for seed in SEEDS
    }
    for name in RECOVERED:
        found = {
            precision: [_recovered(task, name, precision, seed, teachers[precision, seed]) for seed in SEEDS]
            for precision in PRECISIONS
        }
        plain, half = (found[precision] for precision in PRECISIONS)
        told = [", ".join(f"{100 * value:.2f}" for value in values) for values in (plain, half)]
        lines.append(f"| {name} | {told[0]} | {told[1]} | {100 * (np.mean(half) - np.mean(plain)):+.2f} |")
        print(lines[-1], flush=True)
    return lines


def _recovered(task: Task, name: str, precision: Precision, seed: int, teacher: Teacher) -> float:
    network = _start(task, name)
    train(network, task, replace(SETTINGS, precision=precision, seed=seed), teacher=teacher)
    return metric_of(network, task, task.test)


def _conditions() -> str:
    torch_version = torch.__version__.partition("+")[0]
    machine = f"{processor()} {instructions()}"
    return f"Conditions: torch {torch_version}, {machine}, one thread; {today()}. The machine was shared."


if __name__ == "__main__":
    main()
