"""The baseline: the user's model, trained first where the task asks for it, and its float32 file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor

from ...errors import CandidateFailure, KaruiError, OutputError, TaskError
from ..artifact import BASELINE_FILE, EXPORTED_ANEW, Artifact, file_digest
from ..data.batches import Inputs
from ..data.named import is_floating, map_parts, parts_of
from ..formats.format import PARITY_SAMPLES, find_format
from ..networks.memory_layout import lay_channels_first
from ..networks.weights_file import save_weights
from ..notes import Note, untold
from ..task import Task
from ..task_digest import task_digest, whole_digest
from ..training.recovery import TrainingSettings, train
from ..training.training_steps import do_nothing
from .build_settings import BuildSettings
from .stage_cache import StageCache
from .stage_keys import BUILD_VERSION, network_digest

BASELINE = "baseline.safetensors"
"""The file of a baseline's entry of the cache."""

SAME_ANSWERS = 1e-5
"""Share of the largest answer by which two files of one model may differ: about what the order of additions makes."""

OnEpoch = Callable[[int, float], None]


def prepare_baseline(
    task: Task,
    settings: BuildSettings,
    folder: Path,
    *,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    cache: StageCache | None = None,
    began_with: str = "",
    note: Note = untold,
    between_steps: Callable[[], None] = do_nothing,
    while_waiting: Callable[[], None] = do_nothing,
) -> Artifact:
    """Train the task's model where it asks for it (once: the weights are kept), and write its float32 file.

    The file that a study began with stays its baseline for as long as it computes what the model does: another version
    of karui may export the same model otherwise, and every ratio of the study is one to that file.

    Args:
        task: The task; its model is left trained, on the CPU, in evaluation mode, its channels first in memory.
        settings: How it is trained.
        folder: Where ``baseline.onnx`` and the trained weights (``baseline-<digest>.safetensors``) are kept.
        seed: Seed of the training.
        on_epoch: Told of each epoch's number and validation metric.
        cache: Where trained weights are shared with other studies of the same task, if it can be told which those are.
        began_with: SHA-256 of the file that the study began with; empty where it begins now. Where that file is in the
            folder it is left there, and returned if the model computes the same; else another path is returned.
        note: Is told where that file is another than would be exported now.
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
    own = folder / BASELINE_FILE
    is_there = bool(began_with) and own.is_file() and file_digest(own) == began_with
    path = folder / EXPORTED_ANEW if is_there else own
    examples = task.calibration_batch(PARITY_SAMPLES)
    try:
        find_format().export(task.model, examples, path)
    except CandidateFailure as failure:
        raise TaskError(
            "the task's model cannot be exported to ONNX",
            where="Task(model=...)",
            expected="a module of tensors in and out that torch.onnx.export takes",
            got=failure.reason,
            remedy="change the model, or wrap it in a module whose forward takes and returns tensors",
        ) from failure
    artifact = Artifact(path, file_digest(path))
    if is_there and (artifact.digest == began_with or _compute_the_same(own, path, examples)):
        path.unlink()
        if artifact.digest != began_with:
            note(
                "the model is exported otherwise now than when this study began, and computes the same: the study's "
                f"{BASELINE_FILE} stays the one that its files are compared with"
            )
        return Artifact(own, began_with)
    return artifact


def _compute_the_same(one: Path, other: Path, examples: Inputs) -> bool:
    """Say whether two files of a model answer alike: to inputs as they are, and to what is made of them."""
    batches = [examples]
    if is_floating(examples):
        batches += [map_parts(change, examples) for change in (_negative, _zero, _mixed)]
    try:
        first, second = (_answers(path, batches) for path in (one, other))
    except Exception:  # the runtime may refuse a file of whatever age in many ways
        return False
    return all(map(_are_alike, first, second))


def _negative(part: Tensor) -> Tensor:
    return -part if part.is_floating_point() else part


def _zero(part: Tensor) -> Tensor:
    return torch.zeros_like(part) if part.is_floating_point() else part


def _mixed(part: Tensor) -> Tensor:
    return (part + part.flip(0)) / 2 if part.is_floating_point() else part


def _answers(path: Path, batches: list[Inputs]) -> list[np.ndarray]:
    answers = [find_format().answers(path, batch.numpy(), PARITY_SAMPLES) for batch in batches]
    return [part for answer in answers for part in parts_of(answer).values()]


def _are_alike(first: np.ndarray, second: np.ndarray) -> bool:
    if first.shape != second.shape:
        return False
    allowed = SAME_ANSWERS * max(1.0, float(np.abs(first[np.isfinite(first)]).max(initial=0.0)))
    return bool(np.isclose(first, second, rtol=0.0, atol=allowed, equal_nan=True).all())


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
