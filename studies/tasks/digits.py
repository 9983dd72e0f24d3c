"""The quick bundled task: handwritten digits that come with scikit-learn, no download."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset

from ...spaces.task import Pairs, Task
from .augmentation import random_shift
from .resnet import ResNet

VALIDATION_SAMPLES = 360
TEST_SAMPLES = 400
CALIBRATION_SAMPLES = 256
IMAGE_SIZE = 16
"""Height and width to which the 8x8 images are enlarged: at 8x8 a run is mostly the runtime's own overhead."""


def make_task(seed: int = 0) -> Task:
    """Return the task: 1,797 images of ten digits, 1 x 16 x 16, and an untrained network of 115,000 parameters.

    The data are the test part of Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998): 8x8
    images, here enlarged bilinearly and standardised by the mean and deviation of the training split. The splits are
    stratified and disjoint: 1,037 to train, 360 to validate, 400 to test.

    Args:
        seed: Seed of the splits and of the network's first weights.
    """
    data = load_digits()
    classes = np.asarray(data.target, dtype=np.int64)
    rest, test = train_test_split(np.arange(len(classes)), test_size=TEST_SAMPLES, stratify=classes, random_state=seed)
    train, validation = train_test_split(rest, test_size=VALIDATION_SAMPLES, stratify=classes[rest], random_state=seed)
    raw = torch.from_numpy(np.asarray(data.images, dtype=np.float32) / 16)[:, None]
    enlarged = nn.functional.interpolate(raw, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    mean, deviation = enlarged[train].mean(), enlarged[train].std()
    images = (enlarged - mean) / deviation
    targets = torch.from_numpy(classes)

    def choose(rows: NDArray[np.int64]) -> Pairs:
        return TensorDataset(images[rows], targets[rows])

    return Task(
        model=_baseline(seed),
        train=choose(train),
        validation=choose(validation),
        test=choose(test),
        calibration=choose(train[:CALIBRATION_SAMPLES]),
        baseline_epochs=12,
        augment=partial(random_shift, pixels=1, fill=float(-mean / deviation)),
        preprocessing={
            "steps": "8 x 8 pixels from 0 to 16, divided by 16; enlarged bilinearly (half-pixel centres) to 16 x 16; "
            "less the mean, divided by the deviation",
            "mean": float(mean),
            "deviation": float(deviation),
        },
        labels=[str(digit) for digit in range(10)],
    )


def _baseline(seed: int) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(input_channels=1, outputs=10, widths=(32, 32, 64), blocks_per_stage=(2, 1, 1))
