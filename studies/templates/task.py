"""The task of the study {name}: the model to make light, its data, and how it is judged.

Replace the model and the data by your own. This file runs as it is, on handwritten digits.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import karui


class Network(nn.Module):
    """Your model: one batch of inputs in, one tensor of outputs out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, 10), for images of shape (n, 1, 8, 8)."""
        return self.classifier(torch.flatten(self.pool(self.features(images)), 1))


def make_task() -> karui.Task:
    """Return the task. Options can be added as arguments and given in [task_options] of the study file."""
    torch.manual_seed(0)
    model = Network()
    # A model that is trained already:
    #   model.load_state_dict(torch.load("my_weights.pt", weights_only=True))   and  baseline_epochs=0  below.

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return karui.Task(
        model=model,
        # Any torch Dataset of (input, target) pairs will do, with inputs of one fixed shape.
        train=TensorDataset(images[:1000], labels[:1000]),
        validation=TensorDataset(images[1000:1400], labels[1000:1400]),  # what the search compares by
        test=TensorDataset(images[1400:], labels[1400:]),  # touched only for the final front
        # calibration=...           ranges of activations; the first samples of `train` if left out
        # loss=..., metric=...      cross entropy and top-1 accuracy if left out; a higher metric is better
        # labels=..., preprocessing=...    handed on with the file: names of the outputs, how data become inputs
        baseline_epochs=10,  # karui trains the model first, once; 0 for a model that is trained already
    )
