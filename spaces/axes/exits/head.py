"""The head of an early exit: the mean of each channel, and one linear layer on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...formats.onnx.onnx_file import open_session

BATCH = 64
"""Inputs that are run at once."""

WEIGHT_DECAY = 1e-4
"""Half the square of each weight, on standardised features, is added to the mean loss times this."""

_MOST_STEPS = 500
_ROUNDING = 1e-7


@dataclass(frozen=True, eq=False)
class ExitHead:
    """A linear layer on the channel means of the tensor at the cut, as that tensor is, integers or not.

    A scale and a zero point of quantized activations are a linear map too, and are part of the weights and biases.

    Args:
        weights: float32, shape (classes, channels).
        biases: float32, shape (classes,).
    """

    weights: NDArray[np.float32]
    biases: NDArray[np.float32]

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits, shape (n, classes), for channel means of shape (n, channels)."""
        outputs: NDArray[np.float32] = features.astype(np.float32) @ self.weights.T + self.biases
        return outputs


def pooled_features(first: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the channel means of what onnxruntime computes up to the cut, shape (n, channels).

    Args:
        first: The model up to the cut, its output of shape (batch, channels, height, width).
        inputs: Shape (n, *input_shape).
    """
    session = open_session(first)
    name = session.get_inputs()[0].name
    pooled = []
    for start in range(0, len(inputs), BATCH):
        (images,) = session.run(None, {name: inputs[start : start + BATCH]})
        pooled.append(images.mean(axis=(2, 3), dtype=np.float64).astype(np.float32))
    return np.concatenate(pooled)


def soft_labels(
    outputs: NDArray[Any], targets: NDArray[np.int64] | None = None, *, target_weight: float = 0.5
) -> NDArray[np.float64]:
    """Return what a head learns: the whole network's probabilities, mixed with the targets where they are given.

    Cross-entropy is linear in the labels, so that learning the mixture is learning both at once (Hinton et al. 2015,
    arXiv:1503.02531, section 2, at temperature 1: confidences are compared with a threshold and are not softened).

    Args:
        outputs: The whole network's logits, shape (n, classes).
        targets: Classes, shape (n,).
        target_weight: Share of the targets, in [0, 1].

    Raises:
        ValueError: Where the outputs are no logits of two or more classes, the targets are no classes of theirs, or the
            share has no meaning.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(f"outputs: logits of shape (n, classes >= 2) expected, got {outputs.shape}")
    if not 0 <= target_weight <= 1:
        raise ValueError(f"target_weight: a share in [0, 1] expected, got {target_weight!r}")
    shifted = outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)
    taught: NDArray[np.float64] = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    if targets is None:
        return taught
    _check_classes(targets, outputs.shape)
    mixed: NDArray[np.float64] = target_weight * np.eye(outputs.shape[1])[targets] + (1 - target_weight) * taught
    return mixed


def _check_classes(targets: NDArray[Any], shape: tuple[int, ...]) -> None:
    if targets.shape != shape[:1] or not np.issubdtype(targets.dtype, np.integer):
        got = f"{targets.dtype} of shape {targets.shape}"
        raise ValueError(f"targets: whole numbers of shape {shape[:1]} expected, the classes of the inputs, got {got}")
    if targets.min() < 0 or targets.max() >= shape[1]:
        raise ValueError(f"targets: classes 0 to {shape[1] - 1} expected, got {targets.min()} to {targets.max()}")


def train_head(
    features: NDArray[np.float32], labels: NDArray[np.float64], *, weight_decay: float = WEIGHT_DECAY
) -> ExitHead:
    """Return the head of least cross-entropy, found by L-BFGS over all samples at once.

    The loss is convex and the start is zero: the same features and labels give the same head. Exits that learn beside
    a network that stays as it is: Teerapittayanon et al., BranchyNet (ICPR 2016, arXiv:1709.01686), without their
    joint training.

    Args:
        features: Channel means, shape (n, channels), n >= 1.
        labels: Probabilities, shape (n, classes), rows that sum to 1.
        weight_decay: Pulls the weights to zero, above 0: without it, separable classes have no best head.

    Raises:
        ValueError: Where the shapes do not match, a feature is not finite, or the decay has no meaning.
    """
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels) or not len(features):
        got = f"{features.shape} and {labels.shape}"
        raise ValueError(f"features of (n, channels) and labels of (n, classes) expected, got {got}")
    if not np.isfinite(features).all():
        raise ValueError("the features hold a non-finite value (NaN or inf)")
    if not weight_decay > 0:
        raise ValueError(f"weight_decay: a positive number expected, got {weight_decay!r}")
    means = features.mean(axis=0, dtype=np.float64)
    deviations = features.std(axis=0, dtype=np.float64)
    # A channel that never changes but for rounding says nothing; its weight stays zero.
    deviations[deviations <= _ROUNDING * np.abs(means)] = np.inf
    standard = torch.from_numpy((features - means) / deviations)
    weights, biases = _least_cross_entropy(standard, torch.from_numpy(labels), weight_decay)
    unscaled = weights.numpy() / deviations
    return ExitHead(unscaled.astype(np.float32), (biases.numpy() - unscaled @ means).astype(np.float32))


def _least_cross_entropy(features: Tensor, labels: Tensor, weight_decay: float) -> tuple[Tensor, Tensor]:
    weights = torch.zeros(labels.shape[1], features.shape[1], dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(labels.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, biases],
        max_iter=_MOST_STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(features, weights, biases)
        value: Tensor = torch.nn.functional.cross_entropy(logits, labels) + weight_decay / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), biases.detach()
