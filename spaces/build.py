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
from .candidate import FLOAT_BITS, Architecture, Baseline, Candidate, CellNetwork, Student
from .cells.network import build_cell_network
from .export import PARITY_SAMPLES, export_onnx
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
        with torch.random.fork_rng():
            torch.manual_seed(self._seed_of(candidate))
            if isinstance(architecture, CellNetwork):
                return build_cell_network(architecture, self._task.input_shape, self._outputs(example))
            if isinstance(architecture, Student) and not starts_from_baseline(architecture):
                return build_family(
                    architecture.family,
                    width=architecture.width,
                    input_shape=self._task.input_shape,
                    outputs=self._outputs(example),
                )
            return make_from_baseline(
                self._task.model, example, architecture, candidate.removed_channels, self._settings.channel_multiple
            )

    def _outputs(self, example: torch.Tensor) -> int:
        with torch.no_grad():
            return int(self._task.model.eval()(example).shape[1])

    def _epochs(self, candidate: Candidate) -> int:
        architecture = candidate.architecture
        if isinstance(architecture, Baseline) and not candidate.removed_channels and not candidate.zeroed_weights:
            return 0
        warm = starts_from_baseline(architecture)
        return self._settings.epochs if warm else self._settings.epochs_from_scratch

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


def starts_from_baseline(architecture: Architecture) -> bool:
    """Say whether networks of this architecture are made from the baseline and its weights."""
    return isinstance(architecture, Baseline) or (
        isinstance(architecture, Student) and architecture.family == SHALLOWER
    )


def make_from_baseline(
    baseline: nn.Module, example: torch.Tensor, architecture: Baseline | Student, removed_channels: float, multiple: int
) -> nn.Module:
    """Return the network that a candidate starts from, where it starts from the baseline's weights.

    Args:
        baseline: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        architecture: The baseline itself, or a shallower student.
        removed_channels: Fraction of the baseline's channels removed; a student has a width instead.
        multiple: As in :func:`~karui.spaces.sparsity.channels.remove_channels`.

    Raises:
        CandidateFailure: Where the network does not run without those blocks or channels.
    """
    if isinstance(architecture, Baseline):
        return remove_channels(baseline, example, removed_channels, multiple=multiple)
    width, depth = architecture.width, architecture.depth
    return shallower(baseline, example, width=width, depth=depth, channel_multiple=multiple)


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
