"""The digits task, the network of the bundled tasks, and their augmentation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from karui.spaces.task import Pairs, Task, iterate
from karui.studies.tasks import digits
from karui.studies.tasks.augmentation import random_flip, random_shift
from karui.studies.tasks.resnet import ResNet


def contents(split: Pairs | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert split is not None
    (batch,) = iterate(split, 10**6)
    return batch


def different_images(images: torch.Tensor) -> int:
    return len(np.unique(images.flatten(1).numpy(), axis=0))


@pytest.fixture(scope="module")
def digits_task() -> Task:
    return digits.make_task()


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_split_in_disjoint_parts(digits_task: Task) -> None:
    parts = [contents(split)[0] for split in (digits_task.train, digits_task.validation, digits_task.test)]
    assert [len(part) for part in parts] == [1037, 360, 400]
    # No two of the 1,797 images are equal, so that equal rows would be one image in two parts.
    assert different_images(torch.cat(parts)) == 1797


def test_digits_are_standardised_images(digits_task: Task) -> None:
    images, classes = contents(digits_task.train)
    assert images.shape[1:] == digits_task.input_shape == (1, 16, 16)
    assert images.dtype == torch.float32
    assert classes.dtype == torch.int64
    assert float(images.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(images.std()) == pytest.approx(1.0, abs=1e-4)


def test_digits_are_prepared_as_their_paper_says(digits_task: Task) -> None:
    """Follow the steps with numpy alone, as whoever deploys the file has to."""
    paper = digits_task.preprocessing
    assert isinstance(paper, dict)
    data = load_digits()
    # Half-pixel centres: output i lies at (i + 0.5) / 2 - 0.5 of the 8 inputs, and beyond the edges on them.
    places = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(8)))
    prepared = (weights @ (data.images / 16) @ weights.T - paper["mean"]) / paper["deviation"]
    images, classes = contents(digits_task.test)
    for image, label in zip(images[:20, 0].numpy(), classes[:20].tolist(), strict=True):
        distances = np.abs(prepared - image).max(axis=(1, 2))
        nearest = int(distances.argmin())
        assert distances[nearest] < 1e-5
        assert digits_task.labels[label] == str(data.target[nearest])


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_digits_hold_every_class_alike(digits_task: Task, part: str) -> None:
    classes = contents(getattr(digits_task, part))[1]
    # Of the 1,797 images the rarest class has 174 and the most frequent 183.
    counts = torch.bincount(classes, minlength=10)
    assert int(counts.min()) >= math.floor(174 / 1797 * len(classes))
    assert int(counts.max()) <= math.ceil(183 / 1797 * len(classes))


def test_digits_calibrate_on_training_images(digits_task: Task) -> None:
    calibration, _ = contents(digits_task.calibration)
    train, _ = contents(digits_task.train)
    assert 0 < len(calibration) < len(train)
    assert different_images(torch.cat([train, calibration])) == len(train)


def test_digits_depend_on_the_seed_alone(digits_task: Task) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, other = digits.make_task(seed=0), digits.make_task(seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the global random numbers are left alone"
    assert torch.equal(contents(again.test)[0], contents(digits_task.test)[0])
    assert not torch.equal(contents(other.test)[1], contents(digits_task.test)[1])
    weights = [nn.utils.parameters_to_vector(task.model.parameters()) for task in (digits_task, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_digits_come_with_an_untrained_network_and_a_shift(digits_task: Task) -> None:
    images, _ = contents(digits_task.validation)
    assert digits_task.model(images[:2]).shape == (2, 10)
    assert digits_task.baseline_epochs > 0
    assert digits_task.augment is not None
    border = float(images.amin())
    shifted = digits_task.augment(images[:50])
    assert shifted.shape == images[:50].shape
    assert float(shifted.amin()) == pytest.approx(border, abs=1e-5), "what comes in at the border is background"


# --- network ----------------------------------------------------------------------------------------------------------


def test_resnet_20_has_as_many_weights_as_counted_by_hand() -> None:
    # Convolutions of 3x3, batch normalization of two numbers per channel, shortcuts of 1x1, one linear layer.
    def block(inner: int, outer: int) -> int:
        shortcut = 0 if inner == outer else inner * outer + 2 * outer
        return 9 * inner * outer + 9 * outer * outer + 4 * outer + shortcut

    expected = 9 * 16 + 2 * 16 + 3 * block(16, 16) + block(16, 32) + 2 * block(32, 32) + block(32, 64)
    expected += 2 * block(64, 64) + 64 * 10 + 10
    network = ResNet(1, 10, widths=(16, 32, 64), blocks_per_stage=(3, 3, 3))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    kinds = {type(module) for module in network.modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ReLU, nn.Identity, nn.AdaptiveAvgPool2d, nn.Flatten}


def test_resnet_takes_images_of_odd_size() -> None:
    assert ResNet(3, 7, widths=(4, 8), blocks_per_stage=(1, 2)).eval()(torch.zeros(2, 3, 9, 5)).shape == (2, 7)


@pytest.mark.parametrize(("widths", "blocks"), [((4, 8), (1,)), ((), ()), ((4, 8), (1, 0))])
def test_resnet_without_meaning_is_refused(widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one width and one number of blocks per stage expected"):
        ResNet(1, 10, widths, blocks)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_a_shift_moves_each_image_as_a_whole() -> None:
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 5, 5)
    images[:, 0, 2, 2] = torch.arange(1.0, 501.0)
    shifted = random_shift(images, pixels=1, fill=0.0)
    assert torch.equal(shifted.flatten(1).sum(dim=1), torch.arange(1.0, 501.0)), "each pixel stays in its image"
    seen = set(map(tuple, (shifted[:, 0] > 0).nonzero()[:, 1:].tolist()))
    assert seen == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_a_shift_fills_the_border_and_keeps_channels_apart() -> None:
    images = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 2.0)])[None].repeat(64, 1, 1, 1)
    shifted = random_shift(images, pixels=2, fill=-9.0)
    assert shifted.shape == images.shape
    assert set(shifted[:, 0].flatten().tolist()) == {-9.0, 1.0}
    assert set(shifted[:, 1].flatten().tolist()) == {-9.0, 2.0}


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    torch.manual_seed(0)
    images = torch.arange(3.0).repeat(400, 1, 2, 1)
    flipped = random_flip(images)
    mirrored = flipped[:, 0, 0, 0] == 2.0
    assert torch.equal(flipped[mirrored][0, 0], torch.tensor([[2.0, 1.0, 0.0]] * 2))
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 150 < int(mirrored.sum()) < 250
