"""Data of samples that are not pairs of one tensor and its target, or that a function of their own makes batches of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ...errors import KaruiError, TaskError
from .named import Named, map_parts
from .structures import Structure, take_apart

Collate = Callable[[list[Any]], Any]


class PerSample(list[Any]):
    """Targets of a batch of which there is one for each sample, such as the boxes in each image."""


class StructuredSplit(Dataset[tuple[Any, ...]]):
    """A split whose batches hold named inputs, and targets of any structure.

    Args:
        split: The user's data.
        where: What an error names.
        collate: Makes a batch of samples: torch's where the user gives none.
        targets: Names of the targets in batches that are one dict; empty where samples are pairs.
        model: Whose arguments the inputs are.
    """

    def __init__(
        self, split: Any, where: str, collate: Collate | None, targets: tuple[str, ...], model: nn.Module
    ) -> None:
        self._split = split
        self.where = where
        self._collate = collate or default_collate
        self._own_collate = collate is not None
        self._targets = targets
        self._to_float32 = ""
        self.structure: Structure | None = None
        self._shapes: dict[str, tuple[Any, ...]] | None = None
        first = self._batch([0])[0]
        apart = take_apart(first, "input", naming=_arguments(model))
        self._check_kind(first, apart.structure, apart.left_out)
        if apart.structure.container is not None:
            self.structure = apart.structure
            _check_arguments(model, apart.structure, where)
        self._shapes = {name: _kind(part) for name, part in apart.parts.items()}

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return one sample, its inputs without the axis of the batch; its target as a batch of one has it."""
        if index < 0 or index >= len(self):
            raise IndexError(index)
        inputs, targets = self.read(torch.tensor([index]))
        return map_parts(lambda part: part[0], inputs), targets

    def in_float32(self, kinds: str) -> StructuredSplit:
        """Return the same with inputs in float32.

        Args:
            kinds: Which: ``all`` floats, or those in ``bfloat16``.
        """
        changed = object.__new__(StructuredSplit)
        changed.__dict__ = {**self.__dict__, "_to_float32": kinds}
        return changed

    def read(self, rows: Tensor) -> tuple[Any, Any]:
        """Return inputs and targets of some samples, as one batch: new tensors on the CPU, without gradients.

        Raises:
            TaskError: Where samples cannot be read or put together, or differ in structure.
        """
        numbers = rows.tolist()
        inputs, targets = self._batch(numbers)
        apart = take_apart(inputs, "input", naming=() if self.structure is None else self.structure.names)
        kinds = {name: _kind(part) for name, part in apart.parts.items()}
        if self._shapes is not None and kinds != self._shapes:
            raise self._fault(numbers, "has inputs of several structures or shapes", str(self._shapes), str(kinds))
        for name, part in apart.parts.items():
            if len(part) != len(numbers):
                rows_of = f"{len(numbers)} rows of {name}, one for each sample"
                raise self._fault(numbers, "has inputs whose first axis is not the batch", rows_of, f"{len(part)}")
        parts = {name: self._plain(part) for name, part in apart.parts.items()}
        given = next(iter(parts.values())) if self.structure is None else Named(parts, self.structure)
        return given, self._plain_targets(targets)

    def _batch(self, numbers: list[int]) -> tuple[Any, Any]:
        """Return inputs and targets as the user's collate makes them of samples."""
        try:
            samples = [self._split[number] for number in numbers]
            batch = self._collate(samples)
        except KaruiError:
            raise
        except Exception as error:  # the user's code may raise anything
            got = f"{type(error).__name__}: {error}"
            raise self._fault(
                numbers, "cannot be read as a batch", "samples that collate makes a batch of", got
            ) from error
        # torch's own collate takes the names of the first sample, and passes over what others have besides
        if not self._own_collate and len(names := {_names(sample) for sample in samples}) > 1:
            shown = [", ".join(each) for each in sorted(names)]
            raise self._fault(numbers, "has samples of several structures", shown[0], " and ".join(shown[1:]))
        if self._targets:
            return self._without_targets(numbers, batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = f"a dict of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
            remedy = 'where targets are among the names of a dict, name them: Task(targets="labels")'
            raise self._fault(numbers, "does not yield pairs", "(inputs, target) for each index", got, remedy)
        return batch[0], batch[1]

    def _without_targets(self, numbers: list[int], batch: Any) -> tuple[Any, Any]:
        found = dict(batch) if isinstance(batch, Mapping) else {}
        if missing := [name for name in self._targets if name not in found]:
            got = f"a dict of {', '.join(map(str, found))}" if found else type(batch).__name__
            expected = f"a dict that holds the targets {', '.join(missing)}"
            raise self._fault(numbers, "lacks its targets", expected, got, "correct Task(targets=...)")
        targets = {name: found.pop(name) for name in self._targets}
        return found, targets if len(targets) > 1 else next(iter(targets.values()))

    def _check_kind(self, inputs: Any, structure: Structure, left_out: Sequence[str]) -> None:
        if left_out or not structure.names or any(child.container is not None for child in structure.children):
            got = f"besides tensors {', '.join(left_out)}" if left_out else type(inputs).__name__
            expected = "a tensor, or a tuple or a dict of tensors"
            raise self._fault([0], "has inputs that are no tensors", expected, got)

    def _plain(self, part: Tensor) -> Tensor:
        part = part.detach().cpu()
        is_meant = part.dtype == torch.bfloat16 if self._to_float32 == "bfloat16" else part.is_floating_point()
        return part.float() if self._to_float32 and is_meant else part

    def _plain_targets(self, targets: Any) -> Any:
        """Return targets on the CPU; what a collate of the user's gives as a list has one entry for each sample."""
        if isinstance(targets, Tensor):
            return targets.detach().cpu()
        if isinstance(targets, Mapping):
            return {key: self._plain_targets(part) for key, part in targets.items()}
        if isinstance(targets, (tuple, list)):
            parts = [self._plain_targets(part) for part in targets]
            if hasattr(targets, "_fields"):
                return type(targets)(*parts)
            return PerSample(parts) if self._own_collate and type(targets) is list else type(targets)(parts)
        return targets

    def _fault(self, numbers: list[int], what: str, expected: str, got: str, remedy: str | None = None) -> TaskError:
        shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} ... {numbers[-1]}"
        return TaskError(
            f"the task's data {what}",
            where=f"{self.where}[{shown}]",
            expected=expected,
            got=got[:300],
            remedy=remedy or "correct the data set, or pad what differs to one shape in Task(collate=...)",
        )


def structured(
    split: Any, where: str, collate: Collate | None, targets: tuple[str, ...], model: nn.Module
) -> StructuredSplit | None:
    """Return a split of the user's whose batches are not plain pairs of tensors; None where they are.

    Args:
        split: The user's data, which can be indexed.
        where: What an error names.
        collate: The user's, where there is one.
        targets: Names of targets among those of a dict.
        model: The user's.

    Raises:
        TaskError: Where samples are of no kind that can be handled.
    """
    if isinstance(split, StructuredSplit):
        return split
    if collate is None and not targets:
        sample = split[0]
        is_pair = isinstance(sample, (tuple, list)) and len(sample) == 2
        if not is_pair or not isinstance(sample[0], (tuple, list, Mapping)) or not sample[0]:
            return None
    return StructuredSplit(split, where, collate, targets, model)


def unloaded(split: Any, collate: Collate | None) -> tuple[Any, Collate | None]:
    """Return the data of a ``DataLoader``, and what makes its batches; the data themselves otherwise."""
    if not isinstance(split, DataLoader):
        return split, collate
    own = split.collate_fn
    return split.dataset, collate or (None if own is default_collate else own)


def _names(sample: Any) -> tuple[str, ...]:
    """Return the names in a sample that is a dict, or in the inputs of a pair."""
    if isinstance(sample, (tuple, list)) and sample:
        sample = sample[0]
    return tuple(sorted(map(str, sample))) if isinstance(sample, Mapping) else ()


def _kind(part: Tensor) -> tuple[Any, ...]:
    return (*part.shape[1:], str(part.dtype).removeprefix("torch."))


def _arguments(model: nn.Module) -> tuple[str, ...]:
    """Return what a model calls its inputs, those that are given in order."""
    return tuple(
        name
        for name, each in _parameters(model).items()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    )


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return {}


def _check_arguments(model: nn.Module, structure: Structure, where: str) -> None:
    """Check that a model takes inputs of these names, and lacks none."""
    parameters = _parameters(model)
    kinds = [each.kind for each in parameters.values()]
    by_name = structure.container is not None and issubclass(structure.container, Mapping)
    room = inspect.Parameter.VAR_KEYWORD if by_name else inspect.Parameter.VAR_POSITIONAL
    if not parameters or room in kinds:
        return
    needed = [
        name
        for name, each in parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    given = set(structure.names) if by_name else set(_arguments(model)[: len(structure.names)])
    unknown = [name for name in structure.names if name not in parameters]
    missing = [name for name in needed if name not in given]
    if not unknown and not missing:
        return
    faults = [f"no argument {name}" for name in unknown] + [
        f"an argument {name} that nothing is given for" for name in missing
    ]
    raise TaskError(
        "the task's model does not take the inputs of the task's data",
        where=where,
        expected=f"inputs for the arguments of {type(model).__name__}.forward: {', '.join(parameters)}",
        got=f"inputs {', '.join(structure.names)}; the model has {' and '.join(faults)}",
        remedy="name the inputs as the model's arguments are, or name the targets among them in Task(targets=...)",
    )
