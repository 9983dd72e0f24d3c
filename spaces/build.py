"""Candidate -> Artifact: the one fixed order of stages, with the dear ones cached.

architecture -> (channels removed, weights zeroed while recovering) -> export -> (training with rounded weights) ->
quantization -> packing, or exit, which packs too. All candidates that share the network before quantization share its
float32 file, which is trained once and kept under the digest of everything that went into it; so is a network trained
with rounded weights. What is kept lies in a cache that studies share.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import nn

from ..errors import CandidateFailure
from .architect import Architect, is_warm, training_settings
from .artifact import Artifact, StageRecord, file_digest
from .aware.training import AwareResult, bits_by_module, learned_grids, train_aware
from .build_settings import BuildSettings
from .candidate import FLOATING_BITS, HALF_BITS, Candidate
from .candidate import network_of as network_of
from .cells.axis import CellsAxis
from .code_state import array_digest
from .draft import write_draft
from .exits.cut import STAGE as EXIT
from .exits.stage import ExitStage
from .exits.whole_file import ExitChoice
from .export import PARITY_SAMPLES, export_onnx
from .notes import Note, read_notes, untold, write_notes
from .packing import pack
from .quantization.allocation import spread_bits
from .quantization.bit_choice import BitChoice
from .quantization.half import store_in_half
from .quantization.learned import LearnedGrids
from .quantization.quantize import quantize, zero_weights
from .quantization.settings import QuantizationSettings
from .quantization.zeroing import Zeroing
from .recovery import adopt, train
from .stage_cache import DEFAULT_LIMIT_BYTES, WAITING, Entry, StageCache
from .stage_keys import StageKeys
from .stages.axis import StagesAxis
from .supernet.axes import SharingAxes
from .task import Task
from .task_digest import whole_digest
from .teacher import Teacher
from .training_settings import TrainingSettings
from .training_steps import do_nothing
from .weights_file import save_weights

NETWORK, WEIGHTS, GRIDS = "network.onnx", "network.safetensors", "network.npz"
"""The files of an entry of the cache."""


OnEpoch = Callable[[str, int, int, float], None]
"""Is told, after each epoch of a candidate's training, what kind of training it is (``warm``, ``from scratch`` or
``aware``), how many epochs it has in all, which one is done, and the metric; it may raise to stop the candidate."""


class Builder:
    """Makes the file of a candidate.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        folder: Where the candidates' files are kept.
        seed: Seed of all training.
        quantization: How weights and activations are rounded.
        cells: The axis of cells, where the study has it; its networks share a supernet unless that is trained for no
            epochs.
        stages: The same for inverted-residual stages.
        cache: Where trained networks are kept and shared; in the folder where left out, or where it cannot be told
            what the task computes (:func:`~karui.spaces.task_digest.whole_digest`).
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
        cells: CellsAxis | None = None,
        stages: StagesAxis | None = None,
        cache: StageCache | None = None,
        between_steps: Callable[[], None] = do_nothing,
        on_stage: Callable[[str], None] | None = None,
    ) -> None:
        self._between_steps = between_steps
        self._on_stage = on_stage
        self._task = task
        self._teacher = Teacher(task.model, precision=settings.precision)
        self._seed = seed
        self._settings = settings
        self._quantization = quantization or QuantizationSettings()
        self._sharing = SharingAxes(cells, stages) if settings.epochs_supernet else SharingAxes()
        self._cache = own_cache(task, folder, cache)
        self._files = folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._calibration = task.calibration_batch(self._quantization.calibration_samples)
        self._keys = StageKeys(task, settings, self._quantization, self._sharing, seed, array_digest(self._calibration))
        self._exits = ExitStage(task)
        self._architect = Architect(
            task, settings, self._cache, sharing=self._sharing, supernet_key=self._keys.supernet, seed=seed,
            between_steps=between_steps,
        )  # fmt: skip

    def file_of(self, candidate: Candidate) -> Path:
        """Return where the candidate's file lies once it is made."""
        return self._files / f"{candidate.key}.onnx"

    def build(self, candidate: Candidate, on_epoch: OnEpoch | None = None) -> Artifact:
        """Make the candidate's ONNX file.

        Args:
            candidate: What to make.
            on_epoch: Is told how its training goes, where it has any.

        Raises:
            CandidateFailure: Naming the stage, where this candidate cannot be made.
        """
        candidate = candidate.canonical()
        stages: list[StageRecord] = []
        notes: list[str] = []
        destination = self.file_of(candidate)
        with ExitStack() as held, tempfile.TemporaryDirectory(dir=self._files) as scratch:
            network = self._network_file(candidate, stages, notes, held, on_epoch)
            learned = None
            if candidate.bit_training == "aware":
                network, learned = self._aware_file(candidate, network, stages, notes, held, on_epoch)
            rounded = self._round(candidate, network, learned, Path(scratch) / "rounded.onnx", stages, notes)
            if candidate.exit_depth:
                with self._stage(EXIT, stages):
                    self._exits.make(rounded, destination, ExitChoice(candidate.exit_depth, candidate.exit_threshold))
            else:
                with self._stage("packing", stages):
                    pack(rounded, destination)
        return Artifact(destination, file_digest(destination), tuple(stages), tuple(dict.fromkeys(notes)))

    @contextmanager
    def draft(self, candidate: Candidate) -> Iterator[Artifact | None]:
        """Yield a file about as large and as fast as the candidate's own will be, made before its training.

        It is gone afterwards. None where no training is left to save, where an early exit makes the latency a matter
        of what is learnt, or where no draft can be made: the build will say why.
        """
        candidate = candidate.canonical()
        with self._cache.found(self._keys.network(candidate)) as network:
            if not self._has_to_train(candidate, network is not None):
                yield None
                return
            with tempfile.TemporaryDirectory(dir=self._files) as scratch:
                path = Path(scratch) / "draft.onnx"
                kept = None if network is None else network.folder / NETWORK
                yield self._draft_file(candidate, path, kept)

    def _draft_file(self, candidate: Candidate, path: Path, kept: Path | None) -> Artifact | None:
        try:
            with _stage("draft", []):
                write_draft(
                    path,
                    candidate,
                    bits_of(candidate) if candidate.weight_bits not in FLOATING_BITS else None,
                    kept=kept,
                    start=lambda: self._start(candidate),
                    inputs=self._calibration,
                    settings=self._quantization,
                )
        except CandidateFailure:
            return None
        return Artifact(path, file_digest(path))

    def _has_to_train(self, candidate: Candidate, network_is_there: bool) -> bool:
        if candidate.exit_depth:
            return False  # how early it answers, only a trained one can say
        if candidate.bit_training == "aware":
            with self._cache.found(self._keys.aware(candidate, self._epochs_aware(candidate))) as aware:
                return aware is None
        return self._epochs(candidate) > 0 and not network_is_there

    def _round(
        self,
        candidate: Candidate,
        network: Path,
        learned: LearnedGrids | None,
        path: Path,
        stages: list[StageRecord],
        notes: list[str],
    ) -> Path:
        """Round and zero what is not rounded and zeroed yet; return the file, the network's own where that is none."""
        zeroing = None
        if candidate.zeroed_weights and candidate.zeroing == "one_shot":
            zeroing = Zeroing(candidate.zeroed_weights, candidate.zero_pattern)
        inputs, settings = self._calibration.numpy(), self._quantization
        if candidate.weight_bits not in FLOATING_BITS:
            with self._stage("quantization", stages):
                table = network.with_suffix(".sensitivity.json")
                choice = bits_of(candidate)
                quantize(
                    network, path, choice, calibration=inputs, settings=settings, learned=learned, sensitivity=table,
                    zeroing=zeroing, note=notes.append,
                )  # fmt: skip
            return path
        if zeroing is not None:
            with self._stage("zeroing", stages):
                zero_weights(network, path, zeroing, calibration=inputs, settings=settings)
            network = path
        if candidate.weight_bits == HALF_BITS:
            with self._stage("quantization", stages):
                store_in_half(network, path, inputs, notes.append)
            network = path
        return network

    def _network_file(
        self,
        candidate: Candidate,
        stages: list[StageRecord],
        notes: list[str],
        held: ExitStack,
        on_epoch: OnEpoch | None,
    ) -> Path:
        """Return the float32 file of the candidate's trained network, making it where it is not kept yet."""

        def make(folder: Path) -> None:
            told: list[str] = []
            with self._stage("architecture", stages):
                network = self._start(candidate, told.append)
            if epochs := self._epochs(candidate):
                with self._stage("recovery", stages):
                    train(
                        network,
                        self._task,
                        self._training(candidate, epochs),
                        teacher=self._teacher,
                        zeroed_weights=network_of(candidate).zeroed_weights,
                        zero_pattern=candidate.zero_pattern,
                        between_steps=self._between_steps,
                        on_epoch=_told(on_epoch, self._kind(candidate), epochs),
                    )
            elif self._inherits(candidate):
                with self._stage("statistics", stages):
                    zeros = network_of(candidate).zeroed_weights
                    adopt(
                        network, self._task, self._training(candidate, 0),
                        zeroed_weights=zeros, zero_pattern=candidate.zero_pattern,
                    )  # fmt: skip
            with self._stage("export", stages):
                save_weights(network, folder / WEIGHTS)
                export_onnx(network, self._calibration[:PARITY_SAMPLES], folder / NETWORK)
            write_notes(told, folder)

        entry = self._kept("network", self._keys.network(candidate), make, stages, notes, held)
        return entry.folder / NETWORK

    def _aware_file(
        self,
        candidate: Candidate,
        network: Path,
        stages: list[StageRecord],
        notes: list[str],
        held: ExitStack,
        on_epoch: OnEpoch | None,
    ) -> tuple[Path, LearnedGrids]:
        """Return the float32 file of the network trained with rounded weights, and its grids."""

        def make(folder: Path) -> None:
            with self._stage("aware training", stages):
                result = self._train_aware(candidate, network.parent / WEIGHTS, on_epoch)
                export_onnx(result.network, self._calibration[:PARITY_SAMPLES], folder / NETWORK)
                learned_grids(result, folder / NETWORK).save(folder / GRIDS)

        entry = self._kept(
            "aware training", self._keys.aware(candidate, self._epochs_aware(candidate)), make, stages, notes, held
        )
        return entry.folder / NETWORK, LearnedGrids.load(entry.folder / GRIDS)

    def _kept(
        self,
        stage: str,
        key: str,
        make: Callable[[Path], None],
        stages: list[StageRecord],
        notes: list[str],
        held: ExitStack,
    ) -> Entry:
        """Hold what a stage has made, and say where it was found, or waited for."""
        begin = time.perf_counter()
        entry = held.enter_context(self._cache.entry(key, make, while_waiting=self._waiting()))
        if not entry.made:
            stages.append(StageRecord(stage, time.perf_counter() - begin, cached=True))
        notes += read_notes(entry.folder)
        return entry

    def _waiting(self) -> Callable[[], None]:
        """Return what is called again and again while another process makes what is wanted here."""
        told = False

        def wait() -> None:
            nonlocal told
            if not told and self._on_stage is not None:
                self._on_stage(WAITING)
            told = True
            self._between_steps()

        return wait

    def _train_aware(self, candidate: Candidate, weights: Path, on_epoch: OnEpoch | None) -> AwareResult:
        network = self._start(candidate)
        load_model(network, str(weights))
        choice, settings, inputs = bits_of(candidate), self._quantization, self._calibration
        # of the network before this training; beside 8-bit activations, with its int8 layers alone
        table = weights.with_name(f"aware-a{choice.activation_bits}.sensitivity.json")
        bits = bits_by_module(
            network,
            inputs,
            lambda model, layers: spread_bits(model, layers, layers, choice, inputs.numpy(), settings, table),
            activation_bits=choice.activation_bits,
        )
        return train_aware(
            network,
            self._task,
            self._training(candidate, self._epochs_aware(candidate)),
            teacher=self._teacher,
            bits=bits,
            activation_bits=choice.activation_bits,
            calibration=inputs,
            quantization=settings,
            on_epoch=_told(on_epoch, "aware", self._epochs_aware(candidate)),
            between_steps=self._between_steps,
        )

    def _training(self, candidate: Candidate, epochs: int) -> TrainingSettings:
        seed = self._keys.seed(candidate)
        return training_settings(self._settings, epochs=epochs, seed=seed, data_seed=self._seed)

    @contextmanager
    def _stage(self, name: str, stages: list[StageRecord]) -> Iterator[None]:
        if self._on_stage is not None:
            self._on_stage(name)
        with _stage(name, stages):
            yield

    def _start(self, candidate: Candidate, note: Note = untold) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self._keys.seed(candidate))
            return self._architect.start(candidate, note)

    def _epochs(self, candidate: Candidate) -> int:
        if network_of(candidate) == Candidate():
            return 0
        if self._inherits(candidate):
            return self._settings.inherited(candidate.epochs_factor)
        epochs = self._settings.epochs if self._kind(candidate) == "warm" else self._settings.epochs_from_scratch
        return epochs * candidate.epochs_factor

    def _inherits(self, candidate: Candidate) -> bool:
        """Say whether the candidate's network takes its weights from a supernet."""
        return self._sharing.of(candidate.architecture) is not None

    def _epochs_aware(self, candidate: Candidate) -> int:
        return self._settings.epochs_aware * candidate.epochs_factor

    def _kind(self, candidate: Candidate) -> str:
        return "warm" if is_warm(candidate.architecture, self._sharing) else "from scratch"


def own_cache(task: Task, folder: Path, shared: StageCache | None) -> StageCache:
    """Return the cache that others share; one of the folder's own where networks of another task could be taken."""
    if shared is not None and not whole_digest(task).unknown:
        return shared
    limit_bytes = DEFAULT_LIMIT_BYTES if shared is None else shared.limit_bytes
    return StageCache(folder / "cache", limit_bytes)


def bits_of(candidate: Candidate) -> BitChoice:
    """Return the part of a candidate that quantization needs."""
    return BitChoice(candidate.weight_bits, candidate.activation_bits, candidate.bit_allocation, candidate.group_bits)


def _told(on_epoch: OnEpoch | None, kind: str, epochs: int) -> Callable[[int, float], None] | None:
    return None if on_epoch is None else lambda epoch, metric: on_epoch(kind, epochs, epoch, metric)


@contextmanager
def _stage(name: str, stages: list[StageRecord]) -> Iterator[None]:
    """Time a stage; turn what libraries raise about this network into the candidate's own failure."""
    begin = time.perf_counter()
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, ArithmeticError) as error:
        raise CandidateFailure(name, f"{type(error).__name__}: {error}") from error
    stages.append(StageRecord(name, time.perf_counter() - begin, cached=False))
