"""The tasks of ``search.py``: those of the bundled studies, with a baseline that is trained already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import Subset, TensorDataset

from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.networks.weights_file import save_weights
from karui.spaces.task import Pairs, Task
from karui.studies.tasks import digits, fashion
from karui.studies.tasks.augmentation import random_flip, random_shift
from karui.studies.tasks.resnet import ResNet

TASKS = {"digits": "digits", "fashion": "fashion", "fashion-small": "fashion"}
"""Which bundled study each task is searched by. ``fashion-small`` is Fashion-MNIST at half its resolution, for a
residual network of two blocks a stage: what takes a night in full takes minutes, in the same proportions."""


def untrained_task(name: str, train_samples: int | None = None) -> Task:
    """Return the task of a bundled study.

    Args:
        name: One of :data:`TASKS`.
        train_samples: How many training images to keep; all of them where None.
    """
    if name == "fashion":
        return fashion.make_task(train_samples=train_samples)
    if name == "fashion-small":
        return _small(fashion.make_task(train_samples=train_samples))
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


def _small(task: Task) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet(input_channels=1, outputs=fashion.CLASSES, widths=(16, 32, 64), blocks_per_stage=(2, 2, 2))
    return replace(
        task,
        model=model,
        train=_halved(task.train),
        validation=_halved(task.validation),
        test=_halved(task.test),
        calibration=_halved(task.calibration),
        augment=_augment_halved,
    )


def _halved(split: Pairs | None) -> Pairs:
    assert isinstance(split, TensorDataset)
    images, classes = split.tensors
    return TensorDataset(avg_pool2d(images, 2), classes)


def _augment_halved(images: Tensor) -> Tensor:
    return random_shift(random_flip(images), pixels=1, fill=-fashion.MEAN / fashion.DEVIATION)
