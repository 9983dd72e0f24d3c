"""Candidate -> Artifact: the one fixed order of stages, with the dear one cached.

architecture -> (channels removed, weights zeroed while recovering) -> export -> quantization -> packing. All candidates
that share the network before quantization share its float32 file, which is trained once and kept under the digest of
everything that went into it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CandidateFailure
from .artifact import Artifact, StageRecord, file_digest
from .build_settings import BuildSettings
from .candidate import FLOAT_BITS, Baseline, Candidate, CellNetwork, Student
from .cells.network import build_cell_network
from .export import export_onnx
from .packing import pack
from .quantization.quantize import quantize
from .recovery import TrainingSettings, train
from .sparsity.channels import remove_channels
from .students.families import build_family
from .students.names import SHALLOWER
from .students.shallower import shallower
from .task import Task

BUILD_VERSION = 1
"""Raised when a change of the code changes the networks that the same settings give."""

PARITY_SAMPLES = 8


class Builder:
    """Makes the file of a candidate.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        folder: Where networks and files are kept.
        seed: Seed of all training.
    """

    def __init__(self, task: Task, settings: BuildSettings, folder: Path, seed: int = 0) -> None:
        self._task = task
        self._settings = settings
        self._seed = seed
        self._networks = folder / "networks"
        self._files = folder / "files"
        self._baseline_digest = network_digest(task.model)
        self._calibration = task.calibration_batch(settings.calibration_samples)
        for kept in (self._networks, self._files):
            kept.mkdir(parents=True, exist_ok=True)

    def file_of(self, candidate: Candidate) -> Path:
        """Return where the candidate's file lies once it is made."""
        return self._files / f"{candidate.key}.onnx"

    def build(self, candidate: Candidate) -> Artifact:
        """Make the candidate's ONNX file.

        Raises:
            CandidateFailure: Naming the stage, where this candidate cannot be made.
        """
        candidate = candidate.canonical()
        stages: list[StageRecord] = []
        network = self._network_file(candidate, stages)
        destination = self.file_of(candidate)
        with tempfile.TemporaryDirectory(dir=self._files) as scratch:
            rounded = network
            if candidate.weight_bits != FLOAT_BITS:
                rounded = Path(scratch) / "rounded.onnx"
                with _stage("quantization", stages):
                    quantize(
                        network,
                        rounded,
                        weight_bits=candidate.weight_bits,
                        activation_bits=candidate.activation_bits,
                        calibration=self._calibration.numpy(),
                        rounding=self._settings.rounding,
                    )
            with _stage("packing", stages):
                pack(rounded, destination)
        return Artifact(destination, file_digest(destination), tuple(stages))

    def _network_file(self, candidate: Candidate, stages: list[StageRecord]) -> Path:
        """Return the float32 file of the candidate's trained network, making it where it is not kept yet."""
        kept = self._networks / f"{self._network_key(candidate)}.onnx"
        if kept.exists():
            stages.append(StageRecord("network", 0.0, cached=True))
            return kept
        with _stage("architecture", stages):
            network = self._architecture(candidate)
        if epochs := self._epochs(candidate):
            with _stage("recovery", stages):
                settings = self._training_settings(candidate, epochs)
                train(network, self._task, settings, teacher=self._task.model, zeroed_weights=candidate.zeroed_weights)
        with _stage("export", stages):
            export_onnx(network, self._calibration[:PARITY_SAMPLES], kept)
        return kept

    def _architecture(self, candidate: Candidate) -> nn.Module:
        example = self._calibration[:2]
        architecture = candidate.architecture
        multiple = self._settings.channel_multiple
        with torch.random.fork_rng():
            torch.manual_seed(self._seed_of(candidate))
            if isinstance(architecture, Baseline):
                return remove_channels(self._task.model, example, candidate.removed_channels, multiple=multiple)
            if isinstance(architecture, CellNetwork):
                return build_cell_network(architecture, self._task.input_shape, self._outputs(example))
            if architecture.family == SHALLOWER:
                return shallower(
                    self._task.model,
                    example,
                    width=architecture.width,
                    depth=architecture.depth,
                    channel_multiple=multiple,
                )
            return build_family(
                architecture.family,
                width=architecture.width,
                input_shape=self._task.input_shape,
                outputs=self._outputs(example),
            )

    def _outputs(self, example: torch.Tensor) -> int:
        with torch.no_grad():
            return int(self._task.model.eval()(example).shape[1])

    def _epochs(self, candidate: Candidate) -> int:
        architecture = candidate.architecture
        if isinstance(architecture, Baseline) and not candidate.removed_channels and not candidate.zeroed_weights:
            return 0
        starts_warm = isinstance(architecture, Baseline) or (
            isinstance(architecture, Student) and architecture.family == SHALLOWER
        )
        return self._settings.epochs if starts_warm else self._settings.epochs_from_scratch

    def _training_settings(self, candidate: Candidate, epochs: int) -> TrainingSettings:
        shared = ("batch_size", "learning_rate", "temperature", "distillation_weight", "device")
        chosen = {name: getattr(self._settings, name) for name in shared}
        return TrainingSettings(epochs=epochs, seed=self._seed_of(candidate), **chosen)

    def _network_key(self, candidate: Candidate) -> str:
        plain = candidate.to_dict()
        described = {
            "version": BUILD_VERSION,
            "baseline": self._baseline_digest,
            "seed": self._seed,
            "settings": self._settings.model_dump(mode="json", exclude={"device", "rounding"}),
            "network": {name: plain[name] for name in ("architecture", "removed_channels", "zeroed_weights")},
        }
        return _digest(described)

    def _seed_of(self, candidate: Candidate) -> int:
        # From the network alone: candidates that differ in bits share the trained network, whoever comes first.
        return int(self._network_key(candidate)[:8], 16)


def network_digest(network: nn.Module) -> str:
    """Return a digest of a network's parameters and buffers, names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _stage(name: str, stages: list[StageRecord]) -> Iterator[None]:
    """Time a stage; turn what libraries raise about this network into the candidate's own failure."""
    begin = time.perf_counter()
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, ArithmeticError) as error:
        raise CandidateFailure(name, f"{type(error).__name__}: {error}") from error
    stages.append(StageRecord(name, time.perf_counter() - begin, cached=False))
