"""The baseline: the user's model, trained first where the task asks for it, and its float32 file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from ..errors import CandidateFailure, OutputError, TaskError
from .artifact import Artifact, file_digest
from .build_settings import BuildSettings
from .export import export_onnx
from .recovery import TrainingSettings, train
from .task import Task

PARITY_SAMPLES = 8


def prepare_baseline(
    task: Task,
    settings: BuildSettings,
    folder: Path,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Artifact:
    """Train the task's model where it asks for it (once: the weights are kept), and write its float32 file.

    Args:
        task: The task; its model is left trained, on the CPU, in evaluation mode.
        settings: How it is trained.
        folder: Where ``baseline.safetensors`` and ``baseline.onnx`` are kept.
        seed: Seed of the training.
        on_epoch: Told of each epoch's number and validation metric.

    Raises:
        TaskError: Where the model cannot be trained or exported.
        OutputError: Where the kept weights cannot be read.
    """
    if task.baseline_epochs:
        kept = folder / "baseline.safetensors"
        if not _load_kept(task, kept, seed):
            _train(task, settings, seed, on_epoch)
            _save(task, kept, seed)
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


def _train(task: Task, settings: BuildSettings, seed: int, on_epoch: Callable[[int, float], None] | None) -> None:
    training = TrainingSettings(
        epochs=task.baseline_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        device=settings.device,
        seed=seed,
    )
    try:
        train(task.model, task, training, on_epoch=on_epoch)
    except CandidateFailure as failure:
        raise TaskError(
            "the baseline cannot be trained",
            where="Task(model=..., baseline_epochs=...)",
            got=failure.reason,
            remedy="check the task's loss, metric and data, or hand over a model that is already trained",
        ) from failure


def _described(task: Task, seed: int) -> str:
    """Say in a digest what the kept weights were trained for, so that those of another model are not taken."""
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in task.model.state_dict().items()]
    text = f"{shapes} {task.baseline_epochs} {len(task.train)} {task.input_shape} {seed}"  # type: ignore[arg-type]
    return hashlib.sha256(text.encode()).hexdigest()


def _save(task: Task, kept: Path, seed: int) -> None:
    unfinished = kept.with_suffix(".unfinished")
    save_model(task.model, str(unfinished), metadata={"described": _described(task, seed)})
    unfinished.replace(kept)


def _load_kept(task: Task, kept: Path, seed: int) -> bool:
    if not kept.exists():
        return False
    try:
        with safe_open(str(kept), framework="pt") as file:
            matches = (file.metadata() or {}).get("described") == _described(task, seed)
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
