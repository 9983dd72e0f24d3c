"""The network that a candidate starts from, before it recovers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..architectures import Architecture
from ..axes.axis import NetworkAxis, all_axes, axis_of
from ..axes.supernet.networks import SharedNetworks
from ..axes.supernet.shared_axes import SharingAxes
from ..axes.supernet.supernet_training import train_supernet
from ..axes.supernet.weights import Supernet, load_supernet, save_supernet
from ..candidate import BuildStage, Candidate
from ..networks.memory_layout import channels_first
from ..networks.parametrizations import fold_parametrizations
from ..notes import Note, untold
from ..step import NetworkMaterials
from ..task import Task, iterate
from ..training.training_settings import TrainingSettings
from ..training.training_steps import do_nothing
from .build_settings import BuildSettings
from .recipe import steps_of
from .stage_cache import StageCache

GRADIENT_BATCHES = 8
"""Batches of training data by whose gradients channels are ranked."""

SUPERNET = "supernet.safetensors"
"""The file of a supernet's entry of the cache."""


class NetworkFactory:
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
        supernet_key: Callable[[NetworkAxis], str],
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
        if (axis := self._sharing.of(candidate.architecture)) is not None:
            return self._changed(self._supernet(axis).extract(candidate.architecture), candidate, note)
        return make_network(candidate, self._materials(note))

    def _changed(self, network: nn.Module, candidate: Candidate, note: Note) -> nn.Module:
        return change_network(network, candidate, self._materials(note))

    def _materials(self, note: Note) -> NetworkMaterials:
        gradient = loss_gradient(self._task, self._settings.batch_size, self._seed)
        return NetworkMaterials(self._task.model, self._example, self._settings.multiple, gradient, note)

    def _supernet(self, axis: NetworkAxis) -> Supernet[Any]:
        """Return the axis' trained supernet, trained once and kept."""
        key = self._supernet_key(axis)
        if key not in self._supernets:
            materials = self._materials(untold)
            networks = axis.shared_networks(materials.input_shape, materials.outputs)
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


def seed_of(key: str) -> int:
    """Return the seed of the training whose result is kept under a key."""
    return int(key.rpartition("-")[2][:8], 16)


def is_warm(architecture: Architecture, sharing: SharingAxes) -> bool:
    """Say whether networks of this architecture start from trained weights, the baseline's or a supernet's."""
    axis = axis_of(architecture)
    return axis is None or axis.is_cut_out(architecture) or sharing.of(architecture) is not None


def make_network(candidate: Candidate, materials: NetworkMaterials) -> nn.Module:
    """Return the network that a candidate starts from, where it takes no weights from a supernet.

    Args:
        candidate: Canonical.
        materials: What it is made of; the baseline is left as it is.

    Raises:
        CandidateFailure: Where the network does not run without those blocks or channels.
        ValueError: Where the architecture does not fit the task.
    """
    axis, architecture = axis_of(candidate.architecture), candidate.architecture
    network = fold_parametrizations(materials.baseline) if axis is None else axis.start(architecture, materials)
    return change_network(network, candidate, materials)


def change_network(network: nn.Module, candidate: Candidate, materials: NetworkMaterials) -> nn.Module:
    """Return a network with what the axes change of it before it is trained."""
    for step in steps_of(candidate):
        if step.stage == BuildStage.NETWORK and step.axis:
            network = all_axes()[step.axis].change_network(network, step, materials)
    return network


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
