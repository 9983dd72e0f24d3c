"""Candidate -> Artifact: the one fixed order of stages, with the dear ones cached.

architecture -> (channels removed, weights zeroed while recovering) -> export -> (training with rounded weights) ->
quantization -> packing. All candidates that share the network before quantization share its float32 file, which is
trained once and kept under the digest of everything that went into it; so is a network trained with rounded weights.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from ..errors import CandidateFailure
from .architect import Architect, is_warm, training_settings
from .artifact import Artifact, StageRecord, file_digest
from .aware.training import AwareResult, bits_by_module, learned_grids, train_aware
from .build_settings import BuildSettings
from .candidate import FLOAT_BITS, Candidate
from .export import PARITY_SAMPLES, export_onnx
from .one_maker import one_maker
from .packing import pack
from .quantization.allocation import spread_bits
from .quantization.bit_choice import BitChoice
from .quantization.learned import LearnedGrids
from .quantization.quantize import quantize, zero_weights
from .quantization.settings import QuantizationSettings
from .quantization.zeroing import Zeroing
from .recovery import train
from .stages.axis import StagesAxis
from .stages.choice import StageNetwork
from .task import Task
from .training_steps import do_nothing

BUILD_VERSION = 2
"""Raised when a change of the code changes the networks that the same settings give."""

_LATER_SETTINGS = {"device", "epochs_aware", "epochs_supernet", "learning_rate_supernet"}
"""Settings that do not touch a network before it is quantized, or only those of a supernet."""


class Builder:
    """Makes the file of a candidate.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        folder: Where networks and files are kept.
        seed: Seed of all training.
        quantization: How weights and activations are rounded.
        stages: The axis whose networks share a supernet, where the study has it.
        between_steps: Called between two steps of any training, and while another process makes what is wanted here;
            it may wait.
        on_stage: Told of each stage that begins.
    """

    def __init__(
        self,
        task: Task,
        settings: BuildSettings,
        folder: Path,
        seed: int = 0,
        quantization: QuantizationSettings | None = None,
        stages: StagesAxis | None = None,
        between_steps: Callable[[], None] = do_nothing,
        on_stage: Callable[[str], None] | None = None,
    ) -> None:
        self._between_steps = between_steps
        self._on_stage = on_stage
        self._task = task
        self._settings = settings
        self._quantization = quantization or QuantizationSettings()
        self._stages = stages
        self._seed = seed
        self._networks = folder / "networks"
        self._files = folder / "files"
        self._baseline_digest = network_digest(task.model)
        self._calibration = task.calibration_batch(self._quantization.calibration_samples)
        for kept in (self._networks, self._files):
            kept.mkdir(parents=True, exist_ok=True)
        self._architect = Architect(
            task, settings, self._networks, stages=stages, supernet_key=self._supernet_key(), seed=seed,
            between_steps=between_steps,
        )  # fmt: skip

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
        learned = None
        if candidate.bit_training == "aware":
            network, learned = self._aware_file(candidate, stages)
        destination = self.file_of(candidate)
        with tempfile.TemporaryDirectory(dir=self._files) as scratch:
            rounded = self._round(candidate, network, learned, Path(scratch) / "rounded.onnx", stages)
            with self._stage("packing", stages):
                pack(rounded, destination)
        return Artifact(destination, file_digest(destination), tuple(stages))

    def _round(
        self, candidate: Candidate, network: Path, learned: LearnedGrids | None, path: Path, stages: list[StageRecord]
    ) -> Path:
        """Round and zero what is not rounded and zeroed yet; return the file, the network's own where that is none."""
        zeroing = None
        if candidate.zeroed_weights and candidate.zeroing == "one_shot":
            zeroing = Zeroing(candidate.zeroed_weights, candidate.zero_pattern)
        inputs, settings = self._calibration.numpy(), self._quantization
        if candidate.weight_bits != FLOAT_BITS:
            with self._stage("quantization", stages):
                table = network.with_suffix(".sensitivity.json")
                choice = bits_of(candidate)
                quantize(
                    network, path, choice, calibration=inputs, settings=settings, learned=learned, sensitivity=table,
                    zeroing=zeroing,
                )  # fmt: skip
            return path
        if zeroing is not None:
            with self._stage("zeroing", stages):
                zero_weights(network, path, zeroing, calibration=inputs, settings=settings)
            return path
        return network

    def _network_file(self, candidate: Candidate, stages: list[StageRecord]) -> Path:
        """Return the float32 file of the candidate's trained network, making it where it is not kept yet."""
        kept = self._networks / f"{self._network_key(candidate)}.onnx"
        if not kept.exists():
            with one_maker(kept, self._between_steps):
                if not kept.exists():
                    return self._make_network(candidate, kept, stages)
        stages.append(StageRecord("network", 0.0, cached=True))
        return kept

    def _make_network(self, candidate: Candidate, kept: Path, stages: list[StageRecord]) -> Path:
        with self._stage("architecture", stages):
            network = self._start(candidate)
        if epochs := self._epochs(candidate):
            with self._stage("recovery", stages):
                train(
                    network,
                    self._task,
                    training_settings(self._settings, epochs=epochs, seed=self._seed_of(candidate)),
                    teacher=self._task.model,
                    zeroed_weights=network_of(candidate).zeroed_weights,
                    zero_pattern=candidate.zero_pattern,
                    between_steps=self._between_steps,
                )
        with self._stage("export", stages):
            save_model(network, str(kept.with_suffix(".safetensors")))
            export_onnx(network, self._calibration[:PARITY_SAMPLES], kept)
        return kept

    def _aware_file(self, candidate: Candidate, stages: list[StageRecord]) -> tuple[Path, LearnedGrids]:
        """Return the float32 file of the network trained with rounded weights, and its grids."""
        kept = self._networks / f"{self._aware_key(candidate)}.onnx"
        grids = kept.with_suffix(".npz")
        if kept.exists() and grids.exists():
            stages.append(StageRecord("aware training", 0.0, cached=True))
            return kept, LearnedGrids.load(grids)
        with one_maker(kept, self._between_steps), self._stage("aware training", stages):
            if kept.exists() and grids.exists():
                return kept, LearnedGrids.load(grids)
            result = self._train_aware(candidate)
            export_onnx(result.network, self._calibration[:PARITY_SAMPLES], kept)
            learned = learned_grids(result, kept)
            learned.save(grids)
        return kept, learned

    def _train_aware(self, candidate: Candidate) -> AwareResult:
        network = self._start(candidate)
        load_model(network, str(self._networks / f"{self._network_key(candidate)}.safetensors"))
        choice, settings, inputs = bits_of(candidate), self._quantization, self._calibration
        bits = bits_by_module(
            network,
            inputs,
            lambda model, layers: spread_bits(model, layers, layers, choice, inputs.numpy(), settings, None),
            activation_bits=choice.activation_bits,
        )
        return train_aware(
            network,
            self._task,
            training_settings(self._settings, epochs=self._settings.epochs_aware, seed=self._seed_of(candidate)),
            teacher=self._task.model,
            bits=bits,
            activation_bits=choice.activation_bits,
            calibration=inputs,
            quantization=settings,
            between_steps=self._between_steps,
        )

    @contextmanager
    def _stage(self, name: str, stages: list[StageRecord]) -> Iterator[None]:
        if self._on_stage is not None:
            self._on_stage(name)
        with _stage(name, stages):
            yield

    def _start(self, candidate: Candidate) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self._seed_of(candidate))
            return self._architect.start(candidate)

    def _epochs(self, candidate: Candidate) -> int:
        if network_of(candidate) == Candidate():
            return 0
        warm = is_warm(candidate.architecture, self._stages)
        return self._settings.epochs if warm else self._settings.epochs_from_scratch

    def _network_key(self, candidate: Candidate) -> str:
        described = {
            "version": BUILD_VERSION,
            "baseline": self._baseline_digest,
            "seed": self._seed,
            "settings": self._settings.model_dump(mode="json", exclude=_LATER_SETTINGS),
            "network": network_of(candidate).to_dict(),
        }
        if isinstance(candidate.architecture, StageNetwork):
            described["supernet"] = self._supernet_key()
        return _digest(described)

    def _supernet_key(self) -> str:
        axis = None if self._stages is None else self._stages.model_dump(mode="json")
        settings = self._settings.model_dump(mode="json", exclude={"device", "epochs_aware"})
        return _digest(
            {"version": BUILD_VERSION, "baseline": self._baseline_digest, "seed": self._seed, "settings": settings,
             "axis": axis}
        )  # fmt: skip

    def _aware_key(self, candidate: Candidate) -> str:
        described = {
            "network": self._network_key(candidate),
            "epochs": self._settings.epochs_aware,
            "quantization": self._quantization.model_dump(mode="json"),
            "candidate": candidate.to_dict(),
        }
        return _digest(described)

    def _seed_of(self, candidate: Candidate) -> int:
        # From the network alone: candidates that differ in bits share the trained network, whoever comes first.
        return int(self._network_key(candidate)[:8], 16)


def network_of(candidate: Candidate) -> Candidate:
    """Return the candidate whose file is the trained network itself: nothing rounded, nothing zeroed afterwards."""
    return replace(
        candidate,
        zeroed_weights=candidate.zeroed_weights if candidate.zeroing == "gradual" else 0.0,
        weight_bits=FLOAT_BITS,
        bit_training="post",
    ).canonical()


def bits_of(candidate: Candidate) -> BitChoice:
    """Return the part of a candidate that quantization needs."""
    return BitChoice(candidate.weight_bits, candidate.activation_bits, candidate.bit_allocation, candidate.group_bits)


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
