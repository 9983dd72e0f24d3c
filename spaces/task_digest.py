"""What a task trains by, in one digest: networks of another task are never taken for its own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .data.named import Named
from .networks.code_digest import Description, describe, describe_network
from .networks.code_state import array_digest
from .networks.computation import describe_computation
from .task import Pairs, Task

READ_WHOLE_BYTES = 1_000_000_000
"""Tensors in memory up to this size are read whole, in a second or two."""

SAMPLES = 64
"""Samples that are read of other data."""


@dataclass(frozen=True)
class TaskDigest:
    """What a task trains by.

    Args:
        value: Differs wherever a network trained by the task could differ, as far as that can be told.
        unknown: What cannot be told, in words; where there is any, networks are not shared with other studies.
    """

    value: str
    unknown: tuple[str, ...] = ()


_KNOWN: WeakKeyDictionary[Task, TaskDigest] = WeakKeyDictionary()


def task_digest(task: Task) -> str:
    """Return a digest of a task but for its model's weights; a task keeps the one it had at first.

    It covers training, validation and calibration data, loss, metric, augmentation, the model's code and attributes,
    and what the model computes: all that goes into a network beside the baseline's weights. Data that are no tensors
    in memory, or large, are told by their code, their length and by samples over the whole length; samples that differ
    when they are read twice are told by code and shapes alone.

    Raises:
        TaskError: Where reading the data raises it.
    """
    return whole_digest(task).value


def whole_digest(task: Task) -> TaskDigest:
    """Return the same with what it does not cover.

    Raises:
        TaskError: Where reading the data raises it.
    """
    if task not in _KNOWN:  # a loss may count its calls, and be told apart by that from what it was
        _KNOWN[task] = _digest(task)
    return _KNOWN[task]


def unshared(task: Task) -> str | None:
    """Return in a sentence why networks of a task are not shared with other studies; None where they are."""
    unknown = whole_digest(task).unknown
    if not unknown:
        return None
    named = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    return f"trained networks are not shared with other studies: it cannot be told what is in {named}"


def _digest(task: Task) -> TaskDigest:
    described = {
        "model": describe_network(task.model),
        "loss": describe(task.loss),
        "metric": describe(task.metric),
        "augment": describe(task.augment),
    }
    if task.distillation is not None:
        described["distillation"] = describe(task.distillation)
    with _randomness_kept():
        described["what the model computes"] = describe_computation(task.model, task.calibration_batch(2))
        for name in ("train", "validation", "calibration"):
            split = getattr(task, name)
            described[name] = Description("none") if split is None else _describe_split(split)
    value = hashlib.sha256("\n".join(part.text for part in described.values()).encode()).hexdigest()
    unknown = [f"{name}: {what}" for name, part in described.items() for what in part.unknown]
    return TaskDigest(value, tuple(unknown))


def _describe_split(split: Pairs) -> Description:
    if type(split) is TensorDataset:
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in split.tensors)
        if size_bytes <= READ_WHOLE_BYTES:
            return Description(str([array_digest(tensor) for tensor in split.tensors]))
        return Description(_describe_samples(split))
    before = describe(split)
    samples = _describe_samples(split)
    # what it keeps of what was read, or draws by, differs from one time to the next
    stable = describe(split) == before
    return Description(f"{before.text if stable else describe(type(split)).text} {samples}", before.unknown)


def _describe_samples(split: Pairs) -> str:
    count = len(split)  # type: ignore[arg-type]
    places = np.unique(np.linspace(0, count - 1, SAMPLES).astype(int)).tolist()
    first, second = ([_describe_sample(split[place]) for place in places] for _ in range(2))
    if first != second:  # drawn at random each time
        return f"{count} {[_shapes(split[place]) for place in places]}"
    return f"{count} {first}"


def _describe_sample(sample: tuple[Any, ...]) -> str:
    return str([_describe_part(part) for part in sample])


def _describe_part(part: Any) -> str:
    if isinstance(part, Named):
        return str([(name, array_digest(tensor)) for name, tensor in part.parts.items()])
    return array_digest(part) if isinstance(part, Tensor) else describe(part).text


def _shapes(sample: tuple[Any, ...]) -> str:
    parts = [tensor for part in sample for tensor in (part.tensors if isinstance(part, Named) else (part,))]
    return str([(_shape(part), str(getattr(part, "dtype", type(part).__name__))) for part in parts])


def _shape(part: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(part))
    except ValueError:  # a ragged target
        return ()


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Begin the generators that data may draw from anew, and leave them as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)  # what is drawn while it is looked at is the same in every process
            np.random.seed(0)
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
