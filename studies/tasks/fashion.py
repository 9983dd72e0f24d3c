"""The full-size bundled task: Fashion-MNIST and a ResNet-20."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import TensorDataset

from ...errors import TaskError
from ...spaces.task import Pairs, Task
from .augmentation import random_flip, random_shift
from .data_location import find_files
from .idx import read_idx
from .resnet import ResNet

LABELS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""Names of the classes, in the order of Xiao, Rasul and Vollgraf, table 2."""

CLASSES = len(LABELS)
IMAGE_SIZE = 28
VALIDATION_SAMPLES = 5_000
CALIBRATION_SAMPLES = 512
MEAN, DEVIATION = 0.2860, 0.3530
"""Mean and standard deviation of the 60,000 training images, pixels in [0, 1]."""

Bytes = NDArray[np.uint8]


def make_task(data_dir: str | None = None, seed: int = 0, train_samples: int | None = None) -> Task:
    """Return the task: 70,000 images of ten kinds of clothes, 1 x 28 x 28, and an untrained ResNet-20.

    The data are those of Xiao, Rasul and Vollgraf, Fashion-MNIST (arXiv 1708.07747): of the 60,000 training images
    5,000, stratified, validate; the 10,000 test images test. Where the files are searched for is described at
    :func:`~karui.studies.tasks.data_location.find_files`.

    Args:
        data_dir: A folder that holds the four IDX files.
        seed: Seed of the splits and of the network's first weights.
        train_samples: How many training images to keep, stratified; all of them where None.

    Raises:
        TaskError: Where the files are missing, cannot be downloaded or do not hold what they should, or where
            ``train_samples`` has no meaning.
    """
    paths = find_files(data_dir)
    images, classes = _read_pair(paths["train_images"], paths["train_classes"])
    test_images, test_classes = _read_pair(paths["test_images"], paths["test_classes"])
    _check_enough(paths["train_classes"], classes)
    train, validation = train_test_split(
        np.arange(len(classes)), test_size=VALIDATION_SAMPLES, stratify=classes, random_state=seed
    )
    train = _subset(train, classes, train_samples, seed)
    calibration = train[:CALIBRATION_SAMPLES]
    return Task(
        model=_baseline(seed),
        train=_data(images[train], classes[train]),
        validation=_data(images[validation], classes[validation]),
        test=_data(test_images, test_classes),
        calibration=_data(images[calibration], classes[calibration]),
        baseline_epochs=15,
        augment=augment,
        preprocessing={
            "steps": "28 x 28 pixels from 0 to 255, divided by 255; less the mean, divided by the deviation",
            "mean": MEAN,
            "deviation": DEVIATION,
        },
        labels=LABELS,
    )


def augment(images: Tensor) -> Tensor:
    """Mirror each image at random and shift it by up to two pixels.

    Args:
        images: Standardised images, shape (batch, 1, height, width).
    """
    return random_shift(random_flip(images), pixels=2, fill=-MEAN / DEVIATION)


def _baseline(seed: int) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(input_channels=1, outputs=CLASSES, widths=(16, 32, 64), blocks_per_stage=(3, 3, 3))


def _data(images: Bytes, classes: Bytes) -> Pairs:
    inputs = torch.from_numpy(images.astype(np.float32))[:, None].div_(255).sub_(MEAN).div_(DEVIATION)
    return TensorDataset(inputs, torch.from_numpy(classes.astype(np.int64)))


def _read_pair(images_path: Path, classes_path: Path) -> tuple[Bytes, Bytes]:
    images, classes = read_idx(images_path, axes=3), read_idx(classes_path, axes=1)
    if images.shape != (len(classes), IMAGE_SIZE, IMAGE_SIZE) or len(classes) == 0 or classes.max() >= CLASSES:
        raise TaskError(
            "the two files are not images and classes of Fashion-MNIST",
            where=f"{images_path} and {classes_path}",
            expected=f"as many {IMAGE_SIZE}x{IMAGE_SIZE} images as classes below {CLASSES}",
            got=f"images of shape {images.shape}, {len(classes)} classes, the largest {classes.max(initial=0)}",
            remedy="fetch the four files again; they may come from another data set",
        )
    return images, classes


def _check_enough(path: Path, classes: Bytes) -> None:
    counts = np.bincount(classes, minlength=CLASSES)
    if len(classes) < VALIDATION_SAMPLES + CLASSES or counts.min() < 2:
        raise TaskError(
            "too few training images",
            where=str(path),
            expected=f"every class, and more than the {VALIDATION_SAMPLES} images kept for validation",
            got=f"{len(classes)} images, {int(counts.min())} of the rarest class",
            remedy="fetch the files again; the original holds 60,000",
        )


def _subset(train: NDArray[np.int64], classes: Bytes, samples: int | None, seed: int) -> NDArray[np.int64]:
    if samples is None or samples == len(train):
        return train
    if not CLASSES <= samples <= len(train) - CLASSES:
        raise TaskError(
            "the number of training samples has no meaning",
            where="train_samples",
            expected=f"{CLASSES} to {len(train) - CLASSES}, or {len(train)} for all",
            got=str(samples),
        )
    kept, _ = train_test_split(train, train_size=samples, stratify=classes[train], random_state=seed)
    return np.asarray(kept, dtype=np.int64)
