"""Networks on which the rounding of activations is compared, with inputs for calibration and others for the test."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_model
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, to_tensor

from karui.spaces.training.batch_statistics import reestimate_normalization
from karui.studies.tasks.fashion import make_task

WEIGHTS = Path(__file__).parent / "fashion_baseline.safetensors"
CALIBRATION = 60
"""Inputs for calibration, at most."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """One network, and inputs of it.

    Args:
        name: What it is called, and what its weights are.
        model: In evaluation mode.
        calibration: Inputs, shape (n, *input_shape).
        held_out: Others, of other pictures.
        labels: Classes of these, shape (n,); None where none are known.
    """

    name: str
    model: nn.Module
    calibration: Tensor
    held_out: Tensor
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Pictures:
    """Crops of labelled pictures; every other picture is for calibration.

    Args:
        calibration: Shape (n, 3, side, side).
        held_out: That shape.
        labels: Classes of the latter.
    """

    calibration: Tensor
    held_out: Tensor
    labels: np.ndarray


def crops(folder: Path, side: int, per_picture: int, seed: int = 0) -> Pictures:
    """Return crops of pictures called ``imagenet_<number>_<class>.jpg``: as much as 0.6 of their shorter side or more,
    mirrored or not."""
    chance = np.random.default_rng(seed)
    found: list[list[tuple[Tensor, int]]] = [[], []]
    for number, path in enumerate(sorted(folder.glob("imagenet_*.jpg"))):
        picture = Image.open(path).convert("RGB")
        for _ in range(per_picture):
            extent = round(chance.uniform(0.6, 1.0) * min(picture.size))
            left, upper = (int(chance.integers(0, length - extent + 1)) for length in picture.size)
            cut = picture.crop((left, upper, left + extent, upper + extent)).resize((side, side))
            values = normalize(to_tensor(cut), list(MEAN), list(DEVIATION))
            values = values.flip(2) if chance.random() < 0.5 else values
            found[number % 2].append((values, int(path.stem.rsplit("_", 1)[1])))
    calibration, held_out = (torch.stack([values for values, _ in each]) for each in found)
    return Pictures(calibration, held_out, np.array([label for _, label in found[1]]))


RESNET20, MOBILENET = "ResNet-20, Fashion-MNIST", "MobileNetV2, ImageNet"
"""Networks with trained weights; those of timm have random ones, and statistics of normalization of these inputs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where weights and pictures lie."""
    parser.add_argument("--mobilenet", type=Path, help="torchvision's mobilenet_v2-b0353104.pth")
    parser.add_argument("--pictures", type=Path, help="folder of imagenet_<number>_<class>.jpg")


def networks(arguments: argparse.Namespace, names: tuple[str, ...]) -> Iterator[Network]:
    """Yield the networks of these names, as far as their weights and inputs are there."""
    for name in names:
        if name == RESNET20:
            yield _of_fashion()
        elif arguments.pictures is not None and (name != MOBILENET or arguments.mobilenet is not None):
            yield _of_pictures(name, arguments)


def _of_fashion() -> Network:
    task = make_task()
    load_model(task.model, str(WEIGHTS))
    held_out = [task.test[index] for index in range(0, len(task.test), 10)]  # type: ignore[arg-type]
    images, labels = torch.stack([image for image, _ in held_out]), np.array([int(label) for _, label in held_out])
    return Network(RESNET20, task.model.eval(), task.calibration_batch(CALIBRATION), images, labels)


def _of_pictures(name: str, arguments: argparse.Namespace) -> Network:
    trained = name == MOBILENET
    shown = crops(arguments.pictures, side=128 if trained else 96, per_picture=CALIBRATION // 10)
    if trained:
        model = torchvision.models.mobilenet_v2()
        model.load_state_dict(torch.load(arguments.mobilenet, weights_only=True))
        return Network(name, model.eval(), shown.calibration, shown.held_out, shown.labels)
    torch.manual_seed(0)
    model = (timm.create_model(name, img_size=96) if name.startswith("vit") else timm.create_model(name)).eval()
    reestimate_normalization(model, shown.calibration)
    return Network(f"{name}, random weights", model, shown.calibration, shown.held_out)
