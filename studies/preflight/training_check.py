"""What a preflight finds where candidates train: whether bfloat16 is worth it there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluators.targets.local import processor_name
from ...evaluators.targets.telling import tell_nobody
from ..study_file.spec import StudySpec
from .kept import keep, read_kept

if TYPE_CHECKING:
    from ...evaluators.training_speed import TrainingSpeed
    from ...spaces.task import Task


def training_speed_of(
    task: Task,
    spec: StudySpec,
    *,
    kept: Path | None = None,
    told: Callable[[str], None] = tell_nobody,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> TrainingSpeed | None:
    """Return what training in bfloat16 takes on this machine, measured now or earlier; None where it does not work.

    Args:
        task: The task, its model trained.
        spec: The study.
        kept: A JSON file in which results lie; None to keep them nowhere.
        told: Is told what is tried.
        alone: Makes what holds while it is measured.
    """
    from ...evaluators.training_speed import TrainingSpeed, training_speed

    known, key = read_kept(kept), _key(task, spec)
    if key in known:
        return TrainingSpeed(**known[key])
    told("training in bfloat16")
    try:
        with alone():
            found = training_speed(task, spec.recovery.batch_size, spec.recovery.device)
    except (RuntimeError, ValueError, TypeError):
        return None  # whatever the model cannot do in bfloat16; in float32 its candidates will say it themselves
    keep(kept, key, asdict(found))
    return found


def training_sentences(found: TrainingSpeed | None, spec: StudySpec) -> Iterator[str]:
    """Yield what to change in a study, where that makes its training possible, or faster."""
    if found is None:
        if spec.recovery.precision == "bfloat16":
            yield 'a training step in bfloat16 fails here: precision = "float32" in [recovery] may not'
        return
    taken = f"{found.time_ratio:.2f} ± {found.time_spread:.2f} of the time of float32 where candidates train"
    if spec.recovery.precision == "float32" and found.is_faster:
        yield f'a training step in bfloat16 takes {taken}: precision = "bfloat16" in [recovery] would save the rest'
    if spec.recovery.precision == "bfloat16" and found.is_slower:
        yield f'a training step in bfloat16 takes {taken}: precision = "float32" in [recovery] would be faster'


def _key(task: Task, spec: StudySpec) -> str:
    import torch

    told = {
        "network": [f"{name} {tuple(tensor.shape)}" for name, tensor in task.model.state_dict().items()],
        "model": repr(task.model),
        "shape": task.input_shape,
        "batch_size": spec.recovery.batch_size,
        "device": spec.recovery.device,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return f"training-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"
