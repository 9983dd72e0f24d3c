"""Under which keys the stages of a candidate are kept: digests of all that what they make follows from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from torch import nn

from ..axes.axis import NetworkAxis, all_axes
from ..axes.supernet.shared_axes import SharingAxes
from ..candidate import BuildStage, Candidate, network_of
from ..rounding.settings import QuantizationSettings
from ..task import Task
from ..task_digest import task_digest
from .build_settings import BuildSettings
from .network_factory import seed_of

BUILD_VERSION = 4
"""Raised when a change of the code changes the networks that the same settings give."""

AWARE_VERSION = 2
"""The same for training with rounded weights."""

_LATER_SETTINGS = {
    "device", "epochs_inherited", "epochs_aware", "epochs_supernet", "learning_rate_baseline", "learning_rate_supernet",
    "final_factor",
}  # fmt: skip
"""Settings that do not touch a network before it is quantized, or only another one, or what is searched."""

_SUPERNET_SETTINGS = {
    "epochs_supernet", "learning_rate_supernet", "batch_size", "temperature", "distillation_weight", "precision",
}  # fmt: skip
"""Settings that the training of a supernet reads, the device aside."""


class StageKeys:
    """The keys of one study's stages in the cache.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        quantization: How weights and activations are rounded.
        sharing: The axes whose networks share a supernet each.
        seed: Seed of all training.
        calibration: Digest of the inputs on which rounding is decided.
    """

    def __init__(
        self,
        task: Task,
        settings: BuildSettings,
        quantization: QuantizationSettings,
        sharing: SharingAxes,
        seed: int,
        calibration: str,
    ) -> None:
        self._settings = settings
        self._quantization = quantization
        self._sharing = sharing
        self._calibration = calibration
        self._attends = any(isinstance(layer, nn.MultiheadAttention) for layer in task.model.modules())
        self._ties = shares_parameters(task.model)
        self._origin = {
            "version": BUILD_VERSION,
            "baseline": network_digest(task.model),
            "task": task_digest(task),
            "seed": seed,
        }

    def network(self, candidate: Candidate) -> str:
        """Return the key of the candidate's trained network, before it is rounded."""
        described = self._origin | {
            "settings": self._network_settings(),
            "network": network_of(candidate).to_dict(),
        }
        if self._ties and network_of(candidate) != Candidate():
            described["shared"] = "kept"  # parameters came apart where channels were removed before
        for each in all_axes().values():
            described |= each.differences(network_of(candidate), self._attends)
        if (axis := self._sharing.of(candidate.architecture)) is not None:
            described["supernet"] = self.supernet(axis)
            if (epochs := self._settings.inherited()) != self._settings.epochs:
                described["epochs_inherited"] = epochs  # left out, they are as many, as before it could be said
        return f"network-{_digest(described)}"

    def _network_settings(self) -> dict[str, Any]:
        settings = self._settings.model_dump(mode="json", exclude=_LATER_SETTINGS)
        if settings["precision"] == "float32":
            del settings["precision"]  # as it was before there was another
        return settings | self._teaching()

    def _teaching(self) -> dict[str, str]:
        """Return what tells networks of a teacher that computes in bfloat16 from those of earlier versions."""
        return {} if self._settings.precision == "float32" else {"teacher": self._settings.precision}

    def supernet(self, axis: NetworkAxis) -> str:
        """Return the key of the supernet of an axis."""
        settings = self._settings.model_dump(mode="json", include=_SUPERNET_SETTINGS) | self._teaching()
        described = self._origin | {"settings": settings, "axis": axis.model_dump(mode="json")}
        described |= axis.supernet_differences()
        return f"supernet-{_digest(described)}"

    def aware(self, candidate: Candidate, epochs: int) -> str:
        """Return the key of the candidate's network, trained with rounded weights for so many epochs."""
        described = {
            "version": AWARE_VERSION,
            "network": self.network(candidate),
            "calibration": self._calibration,
            "epochs": epochs,
            "quantization": self._aware_quantization(),
            "candidate": candidate.through(BuildStage.AWARE_TRAINING).to_dict(),
        }
        return f"aware-{_digest(described)}"

    def _aware_quantization(self) -> dict[str, Any]:
        told = self._quantization.model_dump(mode="json")
        if told["activation_ranges"] == "auto":
            told["activation_ranges"] = "minmax"  # which is what training begins with; others are chosen for the file
        if told["float_operators"] in ("auto", []):
            del told["float_operators"]  # as it was before it could be said
        return told

    def seed(self, candidate: Candidate) -> int:
        """Return the seed of the candidate's training.

        It follows from the network alone: candidates that differ in bits share the trained network, whoever comes
        first. And it is the same for however many epochs: how lucky a start was is part of why it was chosen.
        """
        return seed_of(self.network(replace(candidate, epochs_factor=1)))


def shares_parameters(network: nn.Module) -> bool:
    """Say whether two layers of a network own the same parameter."""
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    return len(names) > len(list(network.parameters()))


def network_digest(network: nn.Module) -> str:
    """Return a digest of a network's parameters and buffers, names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
