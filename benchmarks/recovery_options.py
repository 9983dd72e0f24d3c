"""What two options of ``[recovery]`` bring on digits at equal epochs: attention transfer, and a moving average.

Networks cut out of the digits' baseline recover for the study's epochs, distilled, with and without the option. Run as
``python benchmarks/recovery_options.py hint_weight``, which writes ``results/hints.md``, or with ``ema_decay``, which
writes ``results/moving_average.md``: about six minutes of one core each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import RESULTS, processor, today  # type: ignore[import-not-found]

from karui.spaces.axes.students.choice import Student
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import make_network, training_settings
from karui.spaces.candidate import Candidate
from karui.spaces.step import NetworkMaterials
from karui.spaces.task import Task
from karui.spaces.training.recovery import metric_of, train
from karui.spaces.training.teacher import Teacher
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.tasks.digits import make_task

NETWORKS = {
    "-50 % channels": Candidate(removed_channels=0.5),
    "-70 % channels": Candidate(removed_channels=0.7),
    "shallower, depth 0.34": Candidate(Student("shallower", 1.0, 0.34)),
    "shallower x0.5, depth 0.5": Candidate(Student("shallower", 0.5, 0.5)),
    "shallower x0.75, resolution 0.5": Candidate(Student("shallower", 0.75, 1.0, 0.5)),
}
OPTIONS = {
    "hint_weight": ("hints.md", "Hints on digits", (0.0, 1.0, 4.0)),
    "ema_decay": ("moving_average.md", "A moving average of the weights on digits", (0.0, 0.9, 0.98)),
}
SEEDS = (0, 1, 2)


def main() -> None:
    """Train them all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("option", choices=OPTIONS)
    option = parser.parse_args().option
    file, title, tried = OPTIONS[option]
    torch.set_num_threads(1)
    spec = load_spec("digits")
    task = make_task(**spec.task_options)
    with tempfile.TemporaryDirectory() as folder:
        prepare_baseline(task, spec.recovery, Path(folder), seed=spec.seed)
    lines = [
        f"# {title}",
        "",
        f"Test accuracy in % of float32 networks after {spec.recovery.epochs} epochs, distilled from the baseline "
        f"({100 * metric_of(task.model, task, task.test):.2f} %): the mean of seeds {', '.join(map(str, SEEDS))}, and "
        f"the lowest and the highest. There are {_length(task)} test images. Then seconds of a training; "
        "those of the first network have the teacher's in them, whose answers are kept for the others.",
        "",
        "| network | " + " | ".join(f"`{option} = {value}`" for value in tried) + " |",
        "|---|" + "---|" * len(tried),
    ]
    teachers = {seed: Teacher(task.model) for seed in SEEDS}
    for name, candidate in NETWORKS.items():
        cells = []
        for value in tried:
            settings = spec.recovery.model_copy(update={option: value})
            begin = time.process_time()
            found = [100 * _recovered(task, candidate, settings, seed, teachers[seed]) for seed in SEEDS]
            seconds = (time.process_time() - begin) / len(SEEDS)
            cells.append(f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f}), {seconds:.1f} s")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    told = f"Conditions: torch {torch.__version__.partition('+')[0]}, {processor()}, one thread; {today()}."
    (RESULTS / file).write_text("\n".join([*lines, "", told, ""]), encoding="utf-8")


def _length(task: Task) -> int:
    return len(task.test)  # type: ignore[arg-type]


def _recovered(task: Task, candidate: Candidate, settings: BuildSettings, seed: int, teacher: Teacher) -> float:
    network = make_network(candidate, NetworkMaterials(task.model, task.calibration_batch(2), settings.multiple))
    train(network, task, training_settings(settings, epochs=settings.epochs, seed=seed), teacher=teacher)
    return metric_of(network, task, task.test)


if __name__ == "__main__":
    main()
