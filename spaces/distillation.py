"""Learning from a teacher: its outputs beside every training batch, and the loss that compares with them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .memory_layout import channels_first
from .task import Pairs, Task, iterate
from .teacher import Taught, Teacher


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

    A trailing batch of a single sample is left out, because batch normalization cannot train on it. Equal seeds give
    equal orders and equal random changes, whatever the network that trains on them draws meanwhile, so that a teacher
    that remembers need not run again for the next network.

    Args:
        task: Its ``train`` data and its ``augment``.
        batch_size: Samples per batch.
        teacher: Whose outputs go with the batches.
        seed: Seed of the order and of the random changes.
        device: Where the batches are put.
        with_maps: Whether the teacher's attention maps are wanted as well as its outputs.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        teacher: Teacher | None,
        *,
        seed: int,
        device: torch.device,
        with_maps: bool = False,
    ) -> None:
        self._task = task
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        drawn = int(torch.randint(1 << 62, (), generator=self._order))
        self._changes = torch.Generator().manual_seed(drawn).get_state()
        self._device = device
        self._teacher = teacher
        self._with_maps = with_maps
        self._taught: Tensor | None = None
        if teacher is not None and task.augment is None and not with_maps:
            self._taught = teacher.outputs_of_all(task.train, device)

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        full, rest = divmod(len(self._task.train), self._batch_size)  # type: ignore[arg-type]
        return full + (rest > 1 or (rest == 1 and full == 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Taught | None]]:
        """Yield inputs, targets, and what the teacher says where there is a teacher."""
        split = self._task.train
        if self._taught is not None and isinstance(split, TensorDataset):
            # the samples' numbers take the place of their targets
            numbered = TensorDataset(split.tensors[0], torch.arange(len(split)))
            for inputs, numbers in self._batches(numbered):
                targets = split.tensors[1][numbers]
                yield (
                    channels_first(inputs).to(self._device),
                    targets.to(self._device),
                    Taught(self._taught[numbers].to(self._device)),
                )
            return
        for inputs, targets in self._batches(split):
            changed = channels_first(self._augmented(inputs))
            yield changed.to(self._device), targets.to(self._device), self._teach(changed)

    def _batches(self, split: Pairs) -> Iterator[tuple[Tensor, Tensor]]:
        batches = iterate(split, self._batch_size, generator=self._order)
        return (batch for batch, _ in zip(batches, range(len(self)), strict=False))

    def _augmented(self, inputs: Tensor) -> Tensor:
        if self._task.augment is None:
            return inputs
        # fork_rng guards only the CPU's generator, from which changes of a batch on the CPU are drawn
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._changes)
            changed = self._task.augment(inputs)
            self._changes = torch.get_rng_state()
        return changed

    def _teach(self, inputs: Tensor) -> Taught | None:
        if self._teacher is None:
            return None
        return self._teacher.taught(inputs, self._device, with_maps=self._with_maps)
