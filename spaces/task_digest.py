"""What a task trains by, in one digest: networks of another task are never taken for its own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .code_digest import array_digest, describe, describe_network
from .task import Pairs, Task

READ_WHOLE_BYTES = 1_000_000_000
"""Tensors in memory up to this size are read whole, in a second or two."""

SAMPLES = 64
"""Samples that are read of other data."""


_KNOWN: WeakKeyDictionary[Task, str] = WeakKeyDictionary()


def task_digest(task: Task) -> str:
    """Return a digest of a task but for its model's weights; a task keeps the one it had at first.

    It covers training, validation and calibration data, loss, metric, augmentation and the model's code: all that goes
    into a network beside the baseline's weights. Data that are no tensors in memory, or large, are told by their length
    and by samples over the whole length; samples that differ when they are read twice are told by their shapes alone.

    Raises:
        TaskError: Where reading the data raises it.
    """
    if task not in _KNOWN:  # a loss may count its calls, and be told apart by that from what it was
        _KNOWN[task] = _digest(task)
    return _KNOWN[task]


def _digest(task: Task) -> str:
    described = [describe_network(task.model), *map(describe, (task.loss, task.metric, task.augment))]
    with _randomness_kept():
        splits = (task.train, task.validation, task.calibration)
        described += ["none" if split is None else _describe_split(split) for split in splits]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _describe_split(split: Pairs) -> str:
    if isinstance(split, TensorDataset):
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in split.tensors)
        if size_bytes <= READ_WHOLE_BYTES:
            return str([array_digest(tensor) for tensor in split.tensors])
    count = len(split)  # type: ignore[arg-type]
    places = np.unique(np.linspace(0, count - 1, SAMPLES).astype(int)).tolist()
    first, second = ([_describe_sample(split[place]) for place in places] for _ in range(2))
    if first != second:  # drawn at random each time
        return f"{count} {[_shapes(split[place]) for place in places]}"
    return f"{count} {first}"


def _describe_sample(sample: tuple[Any, ...]) -> str:
    return str([array_digest(part if isinstance(part, Tensor) else np.asarray(part)) for part in sample])


def _shapes(sample: tuple[Any, ...]) -> str:
    return str([(tuple(np.shape(part)), str(getattr(part, "dtype", type(part).__name__))) for part in sample])


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Leave the generators that data may draw from as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
