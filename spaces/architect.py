"""The network that a candidate starts from, before it recovers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .build_settings import BuildSettings
from .candidate import Architecture, Baseline, Candidate
from .cells.choice import CellNetwork
from .cells.network import build_cell_network
from .memory_layout import channels_first
from .notes import Note, untold
from .running import outputs_of
from .sparsity.channels import remove_channels
from .stage_cache import StageCache
from .stages.choice import StageNetwork
from .stages.network import build_stage_network
from .students.choice import Student
from .students.families import build_family
from .students.names import SHALLOWER
from .students.shallower import shallower
from .students.warm_start import warm_start
from .supernet.axes import SharingAxes, SharingAxis, networks_of
from .supernet.networks import SharedNetworks
from .supernet.training import train_supernet
from .supernet.weights import Supernet, load_supernet, save_supernet
from .task import Task, iterate
from .training_settings import TrainingSettings
from .training_steps import do_nothing

GRADIENT_BATCHES = 8
"""Batches of training data by whose gradients channels are ranked."""

SUPERNET = "supernet.safetensors"
"""The file of a supernet's entry of the cache."""


class Architect:
    """Makes networks as candidates start from them.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        cache: Where supernets are kept.
        sharing: The axes whose networks share a supernet each.
        supernet_key: Returns the key of an axis' supernet in the cache; it is also the seed of its training.
        seed: Seed of which samples give gradients.
        between_steps: Called between two steps of a supernet's training, and while another process trains it.
    """

    def __init__(
        self,
        task: Task,
        settings: BuildSettings,
        cache: StageCache,
        *,
        sharing: SharingAxes,
        supernet_key: Callable[[SharingAxis], str],
        seed: int,
        between_steps: Callable[[], None] = do_nothing,
    ) -> None:
        self._between_steps = between_steps
        self._task = task
        self._settings = settings
        self._cache = cache
        self._sharing = sharing
        self._seed = seed
        self._example = task.calibration_batch(2)
        self._supernets: dict[str, Supernet[Any]] = {}
        self._supernet_key = supernet_key

    def start(self, candidate: Candidate, note: Note = untold) -> nn.Module:
        """Return the candidate's network before recovery; random weights follow torch's global generator.

        Args:
            candidate: Canonical.
            note: Is told what was spared, and why.

        Raises:
            CandidateFailure: Where the baseline does not run without those blocks or channels.
            ValueError: Where the architecture does not fit the task.
        """
        architecture = candidate.architecture
        if (axis := self._sharing.of(architecture)) is not None:
            return self._supernet(axis).extract(architecture)
        if isinstance(architecture, CellNetwork):
            return build_cell_network(architecture, self._task.input_shape, self._outputs())
        if isinstance(architecture, StageNetwork):
            return build_stage_network(architecture, self._task.input_shape, self._outputs())
        if isinstance(architecture, Student) and not starts_from_baseline(architecture):
            network = build_family(
                architecture.family,
                width=architecture.width,
                input_shape=self._task.input_shape,
                outputs=self._outputs(),
            )
            warm_start(network, self._task.model, self._example)
            return network
        gradient = loss_gradient(self._task, self._settings.batch_size, self._seed)
        return make_from_baseline(
            self._task.model, self._example, candidate, self._settings.multiple, gradient=gradient, note=note
        )

    def _supernet(self, axis: SharingAxis) -> Supernet[Any]:
        """Return the axis' trained supernet, trained once and kept."""
        key = self._supernet_key(axis)
        if key not in self._supernets:
            networks = networks_of(axis, self._task.input_shape, self._outputs())
            make = partial(self._train_supernet, networks, seed_of(key))
            with self._cache.entry(key, make, while_waiting=self._between_steps) as entry:
                self._supernets[key] = load_supernet(entry.folder / SUPERNET, networks)
        return self._supernets[key]

    def _train_supernet(self, networks: SharedNetworks[Any], seed: int, folder: Path) -> None:
        settings = training_settings(
            self._settings,
            epochs=self._settings.epochs_supernet,
            seed=seed,
            learning_rate=self._settings.learning_rate_supernet,
        )
        supernet = train_supernet(
            networks,
            self._task,
            settings,
            teacher=self._task.model,
            between_steps=self._between_steps,
        )
        save_supernet(supernet, folder / SUPERNET)

    def _outputs(self) -> int:
        with torch.no_grad():
            return int(outputs_of(self._task.model.eval(), self._example).shape[1])


def seed_of(key: str) -> int:
    """Return the seed of the training whose result is kept under a key."""
    return int(key.rpartition("-")[2][:8], 16)


def is_warm(architecture: Architecture, sharing: SharingAxes) -> bool:
    """Say whether networks of this architecture start from trained weights, the baseline's or a supernet's."""
    return starts_from_baseline(architecture) or sharing.of(architecture) is not None


def starts_from_baseline(architecture: Architecture) -> bool:
    """Say whether networks of this architecture are the baseline, or cut out of it."""
    return isinstance(architecture, Baseline) or (
        isinstance(architecture, Student) and architecture.family == SHALLOWER
    )


def make_from_baseline(
    baseline: nn.Module,
    example: Tensor,
    candidate: Candidate,
    multiple: int,
    *,
    gradient: Callable[[nn.Module], None] | None = None,
    note: Note = untold,
) -> nn.Module:
    """Return the network that a candidate starts from, where it is cut out of the baseline.

    Args:
        baseline: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        candidate: Its architecture is the baseline or a shallower student, which has a width instead of channels
            removed.
        multiple: As in :func:`~karui.spaces.sparsity.channels.remove_channels`.
        gradient: Likewise.
        note: Is told what was spared, and why.

    Raises:
        CandidateFailure: Where the network does not run without those blocks or channels.
    """
    architecture = candidate.architecture
    if isinstance(architecture, Student):
        return shallower(
            baseline,
            example,
            width=architecture.width,
            depth=architecture.depth,
            resolution=architecture.resolution,
            channel_multiple=multiple,
            note=note,
        )
    return remove_channels(
        baseline,
        example,
        candidate.removed_channels,
        multiple=multiple,
        importance=candidate.channel_importance,
        scope=candidate.channel_scope,
        gradient=gradient,
        note=note,
    )


def loss_gradient(task: Task, batch_size: int, seed: int) -> Callable[[nn.Module], None]:
    """Return a function that adds up the gradients of the task's loss over a few batches, the same at each call."""

    def run(network: nn.Module) -> None:
        order = torch.Generator().manual_seed(seed)
        for inputs, targets in islice(iterate(task.train, batch_size, generator=order), GRADIENT_BATCHES):
            task.loss(network(channels_first(inputs)), targets).backward()  # type: ignore[no-untyped-call]

    return run


def training_settings(settings: BuildSettings, *, epochs: int, seed: int, **changes: Any) -> TrainingSettings:
    """Return how one network of a study is trained."""
    shared = (
        "batch_size", "learning_rate", "temperature", "distillation_weight", "ema_decay", "hint_weight", "precision",
        "device",
    )  # fmt: skip
    chosen = {name: getattr(settings, name) for name in shared} | changes
    return TrainingSettings(epochs=epochs, seed=seed, **chosen)
