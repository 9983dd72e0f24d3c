"""The baseline: the user's model, trained first where the task asks for it, and its float32 file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

from ..errors import CandidateFailure, KaruiError, OutputError, TaskError
from .artifact import Artifact, file_digest
from .build_settings import BuildSettings
from .export import PARITY_SAMPLES, export_onnx
from .memory_layout import lay_channels_first
from .recovery import TrainingSettings, train
from .stage_cache import StageCache
from .stage_keys import BUILD_VERSION, network_digest
from .task import Task
from .task_digest import task_digest, whole_digest
from .training_steps import do_nothing
from .weights_file import save_weights

BASELINE = "baseline.safetensors"
"""The file of a baseline's entry of the cache."""

OnEpoch = Callable[[int, float], None]


def prepare_baseline(
    task: Task,
    settings: BuildSettings,
    folder: Path,
    *,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    cache: StageCache | None = None,
    between_steps: Callable[[], None] = do_nothing,
    while_waiting: Callable[[], None] = do_nothing,
) -> Artifact:
    """Train the task's model where it asks for it (once: the weights are kept), and write its float32 file.

    Args:
        task: The task; its model is left trained, on the CPU, in evaluation mode, its channels first in memory.
        settings: How it is trained.
        folder: Where ``baseline.onnx`` and the trained weights (``baseline-<digest>.safetensors``) are kept.
        seed: Seed of the training.
        on_epoch: Told of each epoch's number and validation metric.
        cache: Where trained weights are shared with other studies of the same task, if it can be told which those are.
        between_steps: Called after each step of the training; it may wait.
        while_waiting: Called again and again while another process trains it.

    Raises:
        TaskError: Where the model cannot be trained or exported.
        OutputError: Where the kept weights cannot be read.
    """
    lay_channels_first(task.model)  # all that is cut out of it is laid out as it is
    kept = weights_path(task, settings, folder, seed)
    if kept is not None:
        described = _described(task, settings, seed)
        if not _load_kept(task, kept, described):
            _train_or_find(task, settings, seed, on_epoch, cache, between_steps, while_waiting)
            save_weights(task.model, kept, described=described)
    task.model.cpu().eval()
    path = folder / "baseline.onnx"
    try:
        export_onnx(task.model, task.calibration_batch(PARITY_SAMPLES), path)
    except CandidateFailure as failure:
        raise TaskError(
            "the task's model cannot be exported to ONNX",
            where="Task(model=...)",
            expected="a module of one input and one output tensor that torch.onnx.export takes",
            got=failure.reason,
            remedy="change the model, or wrap it in a module whose forward takes and returns one tensor",
        ) from failure
    return Artifact(path, file_digest(path))


def weights_path(task: Task, settings: BuildSettings, folder: Path, seed: int) -> Path | None:
    """Return where the trained weights are kept; None where the task's model is trained already."""
    if not task.baseline_epochs:
        return None
    # Named by what they were trained for: a task that is changed and then taken back finds its own weights again.
    return folder / f"baseline-{_described(task, settings, seed)[:12]}.safetensors"


def _train_or_find(
    task: Task,
    settings: BuildSettings,
    seed: int,
    on_epoch: OnEpoch | None,
    cache: StageCache | None,
    between_steps: Callable[[], None],
    while_waiting: Callable[[], None],
) -> None:
    """Leave the task's model trained, by another study where the cache holds it."""

    def make(folder: Path) -> None:
        _train(task, settings, seed, on_epoch, between_steps)
        save_weights(task.model, folder / BASELINE)

    if cache is None or whole_digest(task).unknown:
        _train(task, settings, seed, on_epoch, between_steps)
        return
    with cache.entry(_shared_key(task, settings, seed), make, while_waiting=while_waiting) as entry:
        if not entry.made:
            load_model(task.model, str(entry.folder / BASELINE))


def _train(
    task: Task,
    settings: BuildSettings,
    seed: int,
    on_epoch: OnEpoch | None,
    between_steps: Callable[[], None],
) -> None:
    training = TrainingSettings(
        epochs=task.baseline_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate_baseline,
        device=settings.device,
        seed=seed,
    )
    try:
        train(task.model, task, training, on_epoch=on_epoch, between_steps=between_steps)
    except KaruiError:
        raise
    except Exception as error:  # model, loss and metric are the user's code and may raise anything
        reason = error.reason if isinstance(error, CandidateFailure) else f"{type(error).__name__}: {error}"
        raise TaskError(
            "the baseline cannot be trained",
            where="Task(model=..., baseline_epochs=...)",
            got=" ".join(reason.split()),
            remedy="check the task's loss, metric and data, or hand over a model that is already trained",
        ) from error


def _shared_key(task: Task, settings: BuildSettings, seed: int) -> str:
    """Tell a training from those of all other studies: more than :func:`_described`, also what it starts from."""
    start = network_digest(task.model), task_digest(task)
    training = task.baseline_epochs, settings.batch_size, settings.learning_rate_baseline, seed
    return f"baseline-{hashlib.sha256(repr((BUILD_VERSION, start, training)).encode()).hexdigest()[:24]}"


def _described(task: Task, settings: BuildSettings, seed: int) -> str:
    """Say in a digest what the kept weights were trained for, so that those of another model are not taken."""
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in task.model.state_dict().items()]
    samples = len(task.train)  # type: ignore[arg-type]
    training = f"{task.baseline_epochs} {settings.batch_size} {settings.learning_rate_baseline} {seed}"
    return hashlib.sha256(f"{shapes} {samples} {task.input_shape} {training}".encode()).hexdigest()


def _load_kept(task: Task, kept: Path, described: str) -> bool:
    if not kept.exists():
        return False
    try:
        with safe_open(str(kept), framework="pt") as file:
            matches = (file.metadata() or {}).get("described") == described
        if matches:
            load_model(task.model, str(kept))
    except (SafetensorError, OSError) as error:
        raise OutputError(
            "the kept weights of the baseline cannot be read",
            where=str(kept),
            got=str(error),
            remedy="delete that file; the baseline is then trained again",
        ) from error
    return matches
