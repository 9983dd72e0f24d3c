"""Batches of a data set: what ``split[i]`` yields, put together alike for whoever reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from ...errors import TaskError
from .named import Named
from .structured_split import PerSample, StructuredSplit

Pairs = Dataset[tuple[Tensor, ...]]

Inputs = Any
"""The inputs of a batch: a tensor, or several in a :class:`~karui.spaces.data.named.Named`."""

Outputs = Any
"""What a network gives for a batch: a tensor, or several in a :class:`~karui.spaces.data.named.Named`."""

Targets = Any
"""The targets of a batch: a tensor, a list of texts or of one entry for each sample, or any nesting of these in dicts,
tuples and lists."""


def iterate(
    split: Pairs, batch_size: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[Inputs, Targets]]:
    """Yield batches (inputs, targets) of a split; shuffled where a generator is given.

    Raises:
        TaskError: Where samples cannot be put together.
    """
    for rows in row_batches(len(split), batch_size, generator=generator):  # type: ignore[arg-type]
        yield read_rows(split, rows)


def row_batches(count: int, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Yield which samples make up the batches that :func:`iterate` yields: their positions, int64, shape (n,)."""
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    return iter(torch.split(order, batch_size))


def read_rows(split: Pairs, rows: Tensor) -> tuple[Inputs, Targets]:
    """Return inputs and targets of these samples: new tensors on the CPU, without gradients.

    In-memory tensors are sliced rather than collated sample by sample, which is what makes small tasks quick.

    Args:
        split: Pairs of input and target.
        rows: Positions, int64, shape (n,), n >= 1.

    Raises:
        TaskError: Where samples cannot be put together.
    """
    if (held := _held(split, rows)) is not None:
        tensors, places = held
        inputs, targets = (_plain(tensor[places]) for tensor in tensors)
        return inputs, targets
    if isinstance(split, StructuredSplit):
        return split.read(rows)
    samples = [split[int(row)] for row in rows]
    return _stacked_inputs(split, samples), collate_targets([sample[1] for sample in samples], _where(split))


def read_inputs(split: Pairs, rows: Tensor) -> Inputs:
    """Return the inputs alone of these samples, as :func:`read_rows` does."""
    if (held := _held(split, rows)) is not None:
        tensors, places = held
        return _plain(tensors[0][places])
    if isinstance(split, StructuredSplit):
        return split.read(rows)[0]
    return _stacked_inputs(split, [split[int(row)] for row in rows])


def spread_rows(available: int, samples: int) -> Tensor:
    """Return which samples stand for a data set: one drawn from each of equal parts of it, always the same.

    Data sets are often sorted by class, so that their first samples show a few classes only; or their classes take
    turns, so that every tenth sample is of one class.

    Args:
        available: How many there are.
        samples: How many are wanted; all where there are fewer.

    Returns:
        Positions in ascending order, int64, shape (min(samples, available),).
    """
    count = min(samples, available)
    ends = torch.arange(count + 1) * available // max(count, 1)
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ends[:-1] + (drawn * ends.diff()).long()


def spread_batch(split: Pairs, samples: int) -> tuple[Inputs, Targets]:
    """Return inputs and targets of samples spread over a split: the same ones at every call.

    Args:
        split: Pairs of input and target.
        samples: How many; all where the split has fewer.

    Returns:
        Inputs of shape (min(samples, available), *input_shape), and their targets as the split's batches have them.
    """
    return read_rows(split, spread_rows(len(split), samples))  # type: ignore[arg-type]


def is_held_in_memory(split: Pairs) -> bool:
    """Say whether a split's samples are rows of tensors in memory: the same whenever they are read."""
    return _held(split, torch.zeros(1, dtype=torch.int64)) is not None


def collate_targets(targets: Sequence[Any], where: str = "Task") -> Targets:
    """Return the targets of several samples as those of a batch: tensors on the CPU, without gradients.

    Args:
        targets: One for each sample.
        where: What an error names.

    Raises:
        TaskError: Where they cannot be put together.
    """
    try:
        return map_targets(_plain, default_collate([map_targets(_plain, each) for each in targets]))
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise _cannot_be_put_together("the targets of the task's data", where, error) from error


def join_targets(batches: Sequence[Targets]) -> Targets:
    """Return the targets of several batches, one after the other, as one.

    Raises:
        TaskError: Where they differ in shape or structure.
    """
    first = batches[0]
    try:
        if isinstance(first, Tensor):
            return torch.cat(list(batches))
        if _is_one_a_row(first):
            return _listed(first, [each for batch in batches for each in batch])
        if isinstance(first, Mapping):
            return {key: join_targets([batch[key] for batch in batches]) for key in first}
        return _like(first, [join_targets(parts) for parts in zip(*batches, strict=True)])
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise _cannot_be_put_together("the targets of the task's data", "Task", error) from error


def map_targets(change: Callable[[Tensor], Tensor], targets: Targets) -> Targets:
    """Return targets of the same structure, each tensor changed; texts stay."""
    if isinstance(targets, Tensor):
        return change(targets)
    if isinstance(targets, PerSample):
        return PerSample(map_targets(change, each) for each in targets)
    if _are_texts(targets):
        return targets
    if isinstance(targets, Mapping):
        return {key: map_targets(change, part) for key, part in targets.items()}
    if isinstance(targets, (tuple, list)):
        return _like(targets, [map_targets(change, part) for part in targets])
    return targets


def slice_targets(targets: Targets, rows: slice) -> Targets:
    """Return the targets of some rows that follow each other, without copying them."""
    if isinstance(targets, Mapping):
        return {key: slice_targets(part, rows) for key, part in targets.items()}
    if isinstance(targets, Tensor):
        return targets[rows]
    if _is_one_a_row(targets):
        return _listed(targets, targets[rows])
    return _like(targets, [slice_targets(part, rows) for part in targets])


def targets_digest(targets: Targets, name: str) -> str:
    """Return a digest of types, shapes and values of targets on the CPU, and of a name."""
    if not isinstance(targets, Tensor):
        if not isinstance(targets, (Mapping, tuple, list)):  # a number or a text of a ragged target
            return hashlib.sha256(f"{name} {targets!r}".encode()).hexdigest()
        parts = targets.items() if isinstance(targets, Mapping) else enumerate(targets)
        told = [part if _are_texts(targets) else targets_digest(part, str(key)) for key, part in parts]
        return hashlib.sha256(f"{name} {told}".encode()).hexdigest()
    digest = hashlib.sha256(f"{name} {targets.dtype} {tuple(targets.shape)}".encode())
    digest.update(targets.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def targets_of(targets: Targets, rows: np.ndarray) -> Targets:
    """Return the targets, or outputs, of some rows.

    Args:
        targets: On the CPU.
        rows: Positions, shape (n,).
    """
    if isinstance(targets, Tensor):
        try:
            # torch spreads even a small gather over its threads: on a busy machine that costs a hundred times as much
            return torch.from_numpy(targets.numpy()[rows])
        except TypeError:  # numpy has no bfloat16
            return targets[torch.from_numpy(rows)]
    if isinstance(targets, Named):
        return targets.map(lambda part: targets_of(part, rows))
    if _is_one_a_row(targets):
        return _listed(targets, [targets[row] for row in rows])
    if isinstance(targets, Mapping):
        return {key: targets_of(part, rows) for key, part in targets.items()}
    return _like(targets, [targets_of(part, rows) for part in targets])


def _held(split: Pairs, rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor] | None:
    """Return the tensors of a split and where in them these samples lie; None where samples have to be asked for.

    A subclass may yield something else than what its tensors hold, so only the exact types are known.
    """
    if type(split) is TensorDataset and len(split.tensors) == 2:
        return split.tensors, rows
    if type(split) is Subset and type(split.dataset) is TensorDataset and len(split.dataset.tensors) == 2:
        try:
            places = torch.as_tensor(np.asarray(split.indices, dtype=np.int64))
        except (TypeError, ValueError, OverflowError):
            return None
        if places.ndim == 1:
            return split.dataset.tensors, places[rows]
    return None


def _stacked_inputs(split: Pairs, samples: Sequence[tuple[Any, ...]]) -> Tensor:
    try:
        return torch.stack([_plain(sample[0]) for sample in samples])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise _cannot_be_put_together("the inputs of the task's data", _where(split), error) from error


def _cannot_be_put_together(what: str, where: str, error: Exception) -> TaskError:
    line = next((text for text in str(error).splitlines() if text.strip()), "")
    return TaskError(
        f"{what} cannot be put together into batches",
        where=where,
        expected="tensors, numbers or texts, alone or in dicts, tuples and lists, of one shape for all samples",
        got=f"{type(error).__name__}: {line}",
        remedy="pad what differs in length to one shape, and hand its length or a mask over beside it",
    )


def _where(split: Pairs) -> str:
    return str(getattr(split, "where", f"{type(split).__module__}.{type(split).__qualname__}"))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _are_texts(targets: Targets) -> bool:
    return isinstance(targets, (tuple, list)) and len(targets) > 0 and isinstance(targets[0], (str, bytes))


def _is_one_a_row(targets: Targets) -> bool:
    return isinstance(targets, PerSample) or _are_texts(targets)


def _listed(first: Targets, entries: Any) -> Targets:
    return PerSample(entries) if isinstance(first, PerSample) else entries


def _like(first: Any, parts: list[Any]) -> Any:
    if hasattr(first, "_fields"):  # a named tuple
        return type(first)(*parts)
    return tuple(parts) if isinstance(first, tuple) else parts
