"""Several tensors or arrays of one batch, by name: what is handed around where a network has more than one of them.

Part of what is sent to a device, so numpy has to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Named:
    """Tensors, or arrays, of one batch in a fixed order; the first axis of each is the batch.

    Whoever cuts a batch into rows, copies or moves it need not know whether it is one of these or a single tensor.

    Args:
        parts: The tensors, or arrays, by name.
        structure: What they were taken out of, a :class:`~karui.spaces.data.structures.Structure`; None where that is
            not known.
    """

    parts: dict[str, Any]
    structure: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names in their order."""
        return tuple(self.parts)

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The tensors, or arrays, in their order."""
        return tuple(self.parts.values())

    @property
    def device(self) -> Any:
        """The device of the first tensor."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of all together."""
        return sum(int(part.nbytes) for part in self.tensors)

    @property
    def size(self) -> int:
        """Elements of all arrays together."""
        return sum(int(part.size) for part in self.tensors)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.tensors[0])

    def __getitem__(self, rows: Any) -> Named:
        """Return some rows of each."""
        return self.map(lambda part: part[rows])

    def map(self, change: Callable[[Any], Any]) -> Named:
        """Return the same names with each tensor changed."""
        return replace(self, parts={name: change(part) for name, part in self.parts.items()})

    def to(self, *places: Any, **options: Any) -> Named:
        """Return the tensors elsewhere."""
        return self.map(lambda part: part.to(*places, **options))

    def cpu(self) -> Named:
        """Return the tensors on the CPU."""
        return self.map(lambda part: part.cpu())

    def detach(self) -> Named:
        """Return the tensors without their gradients."""
        return self.map(lambda part: part.detach())

    def clone(self, **options: Any) -> Named:
        """Return copies of the tensors."""
        return self.map(lambda part: part.clone(**options))

    def numpy(self) -> Named:
        """Return the tensors as arrays."""
        return self.map(lambda part: part.numpy())

    def restored(self) -> Any:
        """Return the tensors in the structure that they were taken out of; in a dict where it is not known."""
        return dict(self.parts) if self.structure is None else self.structure.restore(self.parts)


def parts_of(batch: Any, single: str = "") -> dict[str, Any]:
    """Return the tensors, or arrays, of a batch by name; a single one under a name that the caller gives it."""
    return dict(batch.parts) if isinstance(batch, Named) else {single: batch}


def map_parts(change: Callable[[Any], Any], batch: Any) -> Any:
    """Return a batch with each of its tensors, or its only one, changed."""
    return batch.map(change) if isinstance(batch, Named) else change(batch)


def floats_to(kind: Any, batch: Any) -> Any:
    """Return a batch of tensors with its floats in another precision."""
    return map_parts(lambda part: part.to(kind) if part.is_floating_point() else part, batch)


def joined(batches: Sequence[Any]) -> Any:
    """Return several batches of arrays or tensors, one after the other, as one."""
    first = batches[0]
    if isinstance(first, Named):
        names = first.parts
        return replace(first, parts={name: joined([batch.parts[name] for batch in batches]) for name in names})
    if isinstance(first, np.ndarray):
        return np.concatenate(list(batches))
    # whoever holds a tensor has loaded torch, which a device need not have
    return sys.modules["torch"].cat(list(batches))


def contiguous(batch: Any) -> Any:
    """Return arrays whose memory is laid out as their axes are; they themselves where it is."""
    if not isinstance(batch, Named):
        return np.ascontiguousarray(batch)
    made = batch.map(np.ascontiguousarray)
    return batch if all(one is other for one, other in zip(batch.tensors, made.tensors)) else made  # noqa: B905


Shapes = Any
"""The shape of a tensor, a tuple; or a dict of those of several by name."""


def shapes_of(batch: Any) -> Shapes:
    """Return the shape of one row, or by name those of the tensors that one row consists of."""
    if isinstance(batch, Named):
        return {name: tuple(part.shape[1:]) for name, part in batch.parts.items()}
    return tuple(batch.shape[1:])


def whole_shapes_of(batch: Any) -> Shapes:
    """Return the shape of a batch, or by name those of its tensors."""
    if isinstance(batch, Named):
        return {name: tuple(part.shape) for name, part in batch.parts.items()}
    return tuple(batch.shape)


def is_floating(batch: Any) -> bool:
    """Say whether any tensor of a batch holds floats."""
    return any(part.is_floating_point() for part in parts_of(batch).values())


def describe_shapes(batch: Any) -> str:
    """Return the shapes of a batch in words."""
    if isinstance(batch, Named):
        return ", ".join(f"{name} {tuple(part.shape)}" for name, part in batch.parts.items())
    return str(tuple(batch.shape))


def feeds_of(names: Iterable[str], batch: Any) -> Mapping[str, Any]:
    """Return what a session is fed with for a batch.

    Args:
        names: Of the file's inputs; a file whose answer does not depend on its input may have none.
        batch: An array for a file of one input, or named arrays.
    """
    if isinstance(batch, Named):
        return {name: batch.parts[name] for name in names}
    return dict.fromkeys(names, batch)


def with_rows(batch: Any, rows: int) -> Any:
    """Return a batch of arrays with so many rows, filled up with copies of its first."""
    missing = rows - len(batch)
    return (
        joined([batch, map_parts(lambda part: np.repeat(part[:1], missing, axis=0), batch)]) if missing > 0 else batch
    )


def to_arrays(what: str, batch: Any) -> dict[str, Any]:
    """Return the arrays of a batch as a file keeps them: a single one by what it is, named ones as ``what.name``."""
    if isinstance(batch, Named):
        return {f"{what}.{name}": part for name, part in batch.parts.items()}
    return {what: batch}


def from_arrays(what: str, arrays: Mapping[str, Any]) -> Any:
    """Return what :func:`to_arrays` made arrays of; None where they hold nothing of that kind."""
    if what in arrays:
        return arrays[what]
    parts = {name[len(what) + 1 :]: part for name, part in arrays.items() if name.startswith(f"{what}.")}
    return Named(parts) if parts else None
