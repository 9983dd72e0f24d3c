"""Learning from a teacher: its outputs beside every training batch, and the loss that compares with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .prediction import predict
from .task import Pairs, Task, iterate

LARGEST_CACHE = 1 << 26
"""Most values of a teacher's outputs that are kept in memory rather than computed in every epoch."""


def distillation_loss(outputs: Tensor, targets: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return how far the outputs are from the teacher's, a scalar.

    For classification, that is outputs (n, classes >= 2) and integer targets (n,), the Kullback-Leibler divergence of
    the softened distributions, times the squared temperature (Hinton et al. 2015, arXiv:1503.02531, section 2);
    otherwise the mean squared error.

    Args:
        outputs: The student's outputs.
        targets: The targets of the same samples; only their type and shape matter.
        taught: The teacher's outputs, shaped as ``outputs``.
        temperature: What both logits are divided by.
    """
    are_indices = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if outputs.ndim == 2 and outputs.shape[1] >= 2 and targets.ndim == 1 and are_indices:
        student = nn.functional.log_softmax(outputs / temperature, dim=1)
        teacher = nn.functional.log_softmax(taught / temperature, dim=1)
        divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return divergence * temperature**2
    return nn.functional.mse_loss(outputs, taught)


class Batches:
    """Shuffled training batches on the device; each iteration is one epoch in a new order.

    A trailing batch of a single sample is left out, because batch normalization cannot train on it.

    Args:
        task: Its ``train`` data and its ``augment``.
        batch_size: Samples per batch.
        teacher: The network whose outputs go with the batches; left as it is.
        seed: Seed of the order.
        device: Where the batches are put.
        keep_outputs: Whether the teacher runs once over all samples where that will do, rather than on every batch.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        teacher: nn.Module | None,
        *,
        seed: int,
        device: torch.device,
        keep_outputs: bool = True,
    ) -> None:
        self._task = task
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        self._device = device
        # a copy, because the teacher is the user's and stays where it is
        self.teacher = None if teacher is None else copy.deepcopy(teacher).to(device).eval()
        self._cache = self._teach_once() if keep_outputs else None

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        full, rest = divmod(len(self._task.train), self._batch_size)  # type: ignore[arg-type]
        return full + (rest > 1 or (rest == 1 and full == 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield inputs, targets, and the teacher's outputs where there is a teacher."""
        batches = iterate(self._split(), self._batch_size, generator=self._order)
        for (inputs, targets), _ in zip(batches, range(len(self)), strict=False):
            taught = None
            if self._cache is not None:
                all_taught, all_targets = self._cache
                taught, targets = all_taught[targets].to(self._device), all_targets[targets]
            if self._task.augment is not None:
                inputs = self._task.augment(inputs)
            inputs = inputs.to(self._device)
            if taught is None and self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(inputs)
            yield inputs, targets.to(self._device), taught

    def _split(self) -> Pairs:
        """Return the training data; with cached outputs, the samples' numbers take the place of their targets."""
        split = self._task.train
        if self._cache is not None and isinstance(split, TensorDataset):
            return TensorDataset(split.tensors[0], torch.arange(len(split)))
        return split

    def _teach_once(self) -> tuple[Tensor, Tensor] | None:
        """Return the teacher's outputs and the targets of all samples, where the inputs never change and they fit."""
        split = self._task.train
        if self.teacher is None or self._task.augment is not None:
            return None
        if not isinstance(split, TensorDataset) or len(split.tensors) != 2:
            return None
        with torch.no_grad():
            values_per_sample = self.teacher(split.tensors[0][:1].to(self._device)).numel()
        if values_per_sample * len(split) > LARGEST_CACHE:
            return None
        return predict(self.teacher, split)
