"""The user's data and functions, made to say whose fault it is when they raise in the middle of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ...errors import CandidateFailure, KaruiError, TaskError
from ...spaces.data.batches import Pairs, is_held_in_memory
from ...spaces.data.structured_split import StructuredSplit
from ...spaces.task import Task


def guarded(task: Task) -> Task:
    """Return a task whose data raise TaskError, and whose loss and augmentation CandidateFailure, on any fault.

    Data are the same for all candidates, so a fault in them ends the search; a loss may fail on one candidate's
    outputs only. The model and the metric are left as they are: export and evaluators see to them.
    """
    return replace(
        task,
        train=_guarded_data(task.train, "train"),
        validation=_guarded_data(task.validation, "validation"),
        test=_guarded_data(task.test, "test"),
        calibration=None if task.calibration is None else _guarded_data(task.calibration, "calibration"),
        loss=_guarded_function(task.loss, "loss"),
        augment=None if task.augment is None else _guarded_function(task.augment, "augment"),
    )


def _guarded_data(split: Pairs, name: str) -> Pairs:
    # Tensors in memory cannot fail on one sample only, and are sliced whole by whoever knows their type.
    known = isinstance(split, (_GuardedData, StructuredSplit))  # the latter tells its faults itself
    return split if known or is_held_in_memory(split) else _GuardedData(split, name)


class _GuardedData(Dataset[tuple[Tensor, ...]]):
    """A split whose faults are told with the split's name and the sample's index."""

    def __init__(self, split: Pairs, name: str) -> None:
        self._split = split
        self._name = name
        self.where = f"Task({name}=...)"
        self._shape = tuple(split[0][0].shape)

    def __len__(self) -> int:
        return len(self._split)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        try:
            sample = self._split[index]
        except KaruiError:
            raise
        except Exception as error:
            if isinstance(error, IndexError) and index >= len(self):
                raise  # that is how iteration over a sequence stops
            raise self._fault(index, "raises an error", None, f"{type(error).__name__}: {error}") from error
        shape = tuple(getattr(sample[0], "shape", ()))
        if shape != self._shape:
            raise self._fault(index, "has inputs of several shapes", f"shape {self._shape}", f"shape {shape}")
        return sample

    def _fault(self, index: int, what: str, expected: str | None, got: str) -> TaskError:
        return TaskError(
            f"the task's {self._name} data {what}",
            where=f"Task({self._name}=...)[{index}]",
            expected=expected,
            got=got,
            remedy="correct the data set; the same command goes on with what was found so far",
        )


def _guarded_function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (KaruiError, CandidateFailure):
            raise
        except Exception as error:
            raise CandidateFailure("recovery", f"the task's {name} raised {type(error).__name__}: {error}") from error

    call.guards = function  # type: ignore[attr-defined]  # by which a loss that is known is still told
    return call
