"""Candidate -> Artifact: the steps of its recipe, one after the other, with the dear ones cached.

All candidates that share the network before quantization share its float32 file, which is trained once and kept under
the digest of everything that went into it; so is a network trained on with rounded weights. What is kept lies in a
cache that studies share. What a candidate is, nobody asks here: :mod:`.recipe` says which steps make it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn

from ...errors import CandidateFailure
from ..artifact import Artifact, StageRecord, file_digest
from ..axes.axis import Axis, all_axes
from ..axes.supernet.shared_axes import SharingAxes
from ..candidate import BuildStage, Candidate
from ..formats.format import PARITY_SAMPLES, Format, find_format
from ..networks.code_state import array_digest
from ..networks.weights_file import save_weights
from ..notes import Note, read_notes, untold, write_notes
from ..rounding.settings import QuantizationSettings
from ..step import FileWork, LaterTraining, Step
from ..task import Task
from ..task_digest import whole_digest
from ..training.recovery import adopt, train
from ..training.teacher import Teacher
from ..training.training_settings import TrainingSettings
from ..training.training_steps import do_nothing
from .build_settings import BuildSettings
from .network_factory import NetworkFactory, training_settings
from .recipe import ARCHITECTURE, EXPORT, Recipe
from .recipe_book import RecipeBook
from .stage_cache import DEFAULT_LIMIT_BYTES, WAITING, Entry, StageCache
from .stage_keys import StageKeys
from .untrained_proxy import write_untrained_proxy

NETWORK, WEIGHTS = "network.onnx", "network.safetensors"
"""The files of an entry of the cache."""


OnEpoch = Callable[[str, int, int, float], None]
"""Is told, after each epoch of a candidate's training, what kind of training it is (``warm``, ``from scratch`` or
``aware``), how many epochs it has in all, which one is done, and the metric; it may raise to stop the candidate."""


@dataclass
class _Build:
    """One candidate on its way: what is known of it, and what has to be let go of afterwards."""

    recipe: Recipe
    held: ExitStack
    on_epoch: OnEpoch | None
    stages: list[StageRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self, step: Step) -> Callable[[int, float], None] | None:
        """Return what is told after each epoch of a step."""
        tell = self.on_epoch
        return None if tell is None else lambda epoch, metric: tell(step.training, step.epochs, epoch, metric)


class Builder:
    """Makes the file of a candidate.

    Args:
        task: The task, its model trained.
        settings: What all candidates of the study share.
        folder: Where the candidates' files are kept.
        seed: Seed of all training.
        quantization: How weights and activations are rounded.
        axes: Those of the study; networks of some share a supernet unless that is trained for no epochs.
        cache: Where trained networks are kept and shared; in the folder where left out, or where it cannot be told
            what the task computes (:func:`~karui.spaces.task_digest.whole_digest`).
        between_steps: Called between two steps of any training, and while another process makes what is wanted here;
            it may wait.
        on_stage: Told of each stage that begins.
        format: What kind of file is made; ONNX where left out.
    """

    def __init__(
        self,
        task: Task,
        settings: BuildSettings,
        folder: Path,
        seed: int = 0,
        quantization: QuantizationSettings | None = None,
        axes: Iterable[Axis] = (),
        cache: StageCache | None = None,
        between_steps: Callable[[], None] = do_nothing,
        on_stage: Callable[[str], None] | None = None,
        format: Format | None = None,
    ) -> None:
        self._format = format or find_format()
        self._between_steps = between_steps
        self._on_stage = on_stage
        self._task = task
        self._teacher = Teacher(task.model, precision=settings.precision)
        self._seed = seed
        self._settings = settings
        self._quantization = quantization or QuantizationSettings()
        self._cache = own_cache(task, folder, cache)
        self._files = folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._calibration = task.calibration_batch(self._quantization.calibration_samples)
        self._kept: dict[str, Any] = {}
        sharing = SharingAxes(axes if settings.epochs_supernet else ())
        keys = StageKeys(task, settings, self._quantization, sharing, seed, array_digest(self._calibration))
        self._recipes = RecipeBook(settings, sharing, keys)
        self._network_factory = NetworkFactory(
            task, settings, self._cache, sharing=sharing, supernet_key=keys.supernet, seed=seed,
            between_steps=between_steps,
        )  # fmt: skip

    def file_of(self, candidate: Candidate) -> Path:
        """Return where the candidate's file lies once it is made."""
        return self._files / f"{candidate.key}{self._format.suffix}"

    def build(self, candidate: Candidate, on_epoch: OnEpoch | None = None) -> Artifact:
        """Make the candidate's file.

        Args:
            candidate: What to make.
            on_epoch: Is told how its training goes, where it has any.

        Raises:
            CandidateFailure: Naming the stage, where this candidate cannot be made.
        """
        recipe = self._recipes.of(candidate)
        destination = self.file_of(recipe.candidate)
        with ExitStack() as held, tempfile.TemporaryDirectory(dir=self._files) as scratch:
            build = _Build(recipe, held, on_epoch)
            work = self._work(Path(scratch), build.notes.append)
            weights = source = self._network_file(build)
            for step in recipe.at(BuildStage.AWARE_TRAINING):
                source = self._trained_on(build, step, weights.parent / WEIGHTS, work)
            work.sensitivity = source.with_suffix(".sensitivity.json")
            *before, last = recipe.at(BuildStage.ROUNDING, BuildStage.PACKING)
            for number, step in enumerate(before):
                changed = work.folder / f"{number}.onnx"
                self._change_file(build, source, changed, step, work)
                source = changed
            self._change_file(build, source, destination, last, work)
        digest = file_digest(destination)
        notes = tuple(dict.fromkeys(build.notes))
        return Artifact(destination, digest, tuple(build.stages), notes, self._format.name)

    @contextmanager
    def untrained_proxy(self, candidate: Candidate) -> Iterator[Artifact | None]:
        """Yield a file about as large and as fast as the candidate's own will be, made before its training.

        It is gone afterwards. None where no training is left to save, where its latency is a matter of what is learnt,
        or where no proxy can be made: the build will say why.
        """
        recipe = self._recipes.of(candidate)
        with self._cache.found(recipe.network_key) as network:
            if not self._has_to_train(recipe, network is not None):
                yield None
                return
            with tempfile.TemporaryDirectory(dir=self._files) as scratch:
                kept = None if network is None else network.folder / NETWORK
                yield self._proxy_file(recipe, Path(scratch), kept)

    @contextmanager
    def float_twin(self, candidate: Candidate) -> Iterator[Path | None]:
        """Yield the float32 file of the network that a candidate's file was made of, to be timed beside it.

        None where it is gone, where the file computes as it does in float32, where that network is the baseline, which
        every file is timed beside, and where how fast the file is depends on what it has learnt.
        """
        recipe = self._recipes.of(candidate)
        if recipe.is_learnt or not recipe.in_integers or not recipe.at(BuildStage.TRAINING):
            yield None
            return
        with self._cache.found(recipe.network_key) as entry:
            yield None if entry is None else entry.folder / NETWORK

    def _proxy_file(self, recipe: Recipe, folder: Path, kept: Path | None) -> Artifact | None:
        path = folder / "untrained_proxy.onnx"
        work = replace(self._work(folder, untold), is_untrained=True, is_checked=False)
        try:
            with _stage("draft", []):
                write_untrained_proxy(path, recipe.steps, work, kept=kept, start=lambda: self._start(recipe))
        except CandidateFailure:
            return None
        return Artifact(path, file_digest(path), format=self._format.name)

    def _has_to_train(self, recipe: Recipe, network_is_there: bool) -> bool:
        if recipe.is_learnt:
            return False  # only a trained one can say how fast it is
        if recipe.aware_key:
            with self._cache.found(recipe.aware_key) as aware:
                return aware is None
        return recipe.epochs > 0 and not network_is_there

    def _work(self, folder: Path, note: Note) -> FileWork:
        return FileWork(
            self._calibration,
            self._quantization,
            folder,
            self._format,
            kept=self._kept,
            note=note,
            known_task=self._task,
        )

    def _change_file(self, build: _Build, source: Path, destination: Path, step: Step, work: FileWork) -> None:
        with self._stage(step.name, build.stages):
            if step.axis:
                all_axes()[step.axis].change_file(source, destination, step, work)
            else:
                self._format.pack(source, destination)

    def _network_file(self, build: _Build) -> Path:
        """Return the float32 file of the candidate's trained network, making it where it is not kept yet."""
        recipe = build.recipe

        def make(folder: Path) -> None:
            told: list[str] = []
            with self._stage(ARCHITECTURE, build.stages):
                network = self._start(recipe, told.append)
            for step in recipe.at(BuildStage.TRAINING):
                with self._stage(step.name, build.stages):
                    self._recover(build, network, step)
            with self._stage(EXPORT, build.stages):
                save_weights(network, folder / WEIGHTS)
                self._format.export(network, self._calibration[:PARITY_SAMPLES], folder / NETWORK)
            write_notes(told, folder)

        return self._entry("network", recipe.network_key, make, build).folder / NETWORK

    def _recover(self, build: _Build, network: nn.Module, step: Step) -> None:
        """Train the network; where it is trained for no epochs, estimate its statistics anew."""
        settings = self._training(build.recipe, step.epochs)
        if not step.training:
            adopt(network, self._task, settings, **step.settings)
            return
        train(
            network,
            self._task,
            settings,
            teacher=self._teacher,
            between_steps=self._between_steps,
            on_epoch=build.told(step),
            **step.settings,
        )

    def _trained_on(self, build: _Build, step: Step, weights: Path, work: FileWork) -> Path:
        """Return the float32 file of the network that a step has gone on training, and take up what it has found."""
        axis = all_axes()[step.axis]

        def network() -> nn.Module:
            started = self._start(build.recipe)
            load_model(started, str(weights))
            return started

        def make(folder: Path) -> None:
            training = LaterTraining(
                work, network, weights, self._training(build.recipe, step.epochs), self._teacher, build.told(step),
                self._between_steps,
            )  # fmt: skip
            with self._stage(step.name, build.stages):
                axis.train_on(step, training, folder)

        entry = self._entry(step.name, build.recipe.aware_key, make, build)
        axis.take_up(work, entry.folder)
        return entry.folder / NETWORK

    def _entry(self, stage: str, key: str, make: Callable[[Path], None], build: _Build) -> Entry:
        """Hold what a stage has made, and say where it was found, or waited for."""
        begin = time.perf_counter()
        entry = build.held.enter_context(self._cache.entry(key, make, while_waiting=self._waiting()))
        if not entry.made:
            build.stages.append(StageRecord(stage, time.perf_counter() - begin, cached=True))
        build.notes += read_notes(entry.folder)
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

    def _training(self, recipe: Recipe, epochs: int) -> TrainingSettings:
        return training_settings(self._settings, epochs=epochs, seed=recipe.seed, data_seed=self._seed)

    @contextmanager
    def _stage(self, name: str, stages: list[StageRecord]) -> Iterator[None]:
        if self._on_stage is not None:
            self._on_stage(name)
        with _stage(name, stages):
            yield

    def _start(self, recipe: Recipe, note: Note = untold) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            return self._network_factory.start(recipe.candidate, note)


def own_cache(task: Task, folder: Path, shared: StageCache | None) -> StageCache:
    """Return the cache that others share; one of the folder's own where networks of another task could be taken."""
    if shared is not None and not whole_digest(task).unknown:
        return shared
    limit_bytes = DEFAULT_LIMIT_BYTES if shared is None else shared.limit_bytes
    return StageCache(folder / "cache", limit_bytes)


@contextmanager
def _stage(name: str, stages: list[StageRecord]) -> Iterator[None]:
    """Time a stage; turn what libraries raise about this network into the candidate's own failure."""
    begin = time.perf_counter()
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, ArithmeticError) as error:
        raise CandidateFailure(name, f"{type(error).__name__}: {error}") from error
    stages.append(StageRecord(name, time.perf_counter() - begin, cached=False))
