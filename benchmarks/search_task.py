"""The tasks of ``search.py``: those of the bundled studies, with a baseline that is trained already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_model
from torch.utils.data import Subset

from karui.spaces.baseline import prepare_baseline
from karui.spaces.build_settings import BuildSettings
from karui.spaces.task import Task
from karui.spaces.weights_file import save_weights
from karui.studies.tasks import digits, fashion

TASKS = ("digits", "fashion")


def untrained_task(name: str, train_samples: int | None = None) -> Task:
    """Return the task of a bundled study.

    Args:
        name: One of :data:`TASKS`.
        train_samples: How many training images to keep; all of them where None.
    """
    if name == "fashion":
        return fashion.make_task(train_samples=train_samples)
    task = digits.make_task()
    return task if train_samples is None else replace(task, train=Subset(task.train, range(train_samples)))


def make_task(name: str, weights: str, train_samples: int | None = None) -> Task:
    """Return the task with the weights of a trained baseline."""
    task = untrained_task(name, train_samples)
    load_model(task.model, weights)
    return replace(task, baseline_epochs=0)


def train_baseline(name: str, train_samples: int | None, settings: BuildSettings, weights: Path) -> None:
    """Train the baseline and write its weights, unless they are there."""
    if not weights.exists():
        task = untrained_task(name, train_samples)
        prepare_baseline(
            task, settings, weights.parent, on_epoch=lambda epoch, metric: print(epoch, metric, flush=True)
        )
        save_weights(task.model, weights)
