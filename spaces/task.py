"""Task: the user's trained model, data, loss and metric."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TaskError
from .data.batches import Pairs as Pairs
from .data.batches import Targets, collate_targets, is_held_in_memory, read_inputs, spread_rows
from .data.batches import iterate as iterate
from .data.batches import spread_batch as spread_batch
from .data.class_targets import cross_entropy
from .data.class_targets import top1_accuracy as top1_accuracy
from .data.float32_data import in_float32
from .networks.plain_model import plain_model

Loss = Callable[[Tensor, Targets], Tensor]
Metric = Callable[[Tensor, Targets], float]


@dataclass(frozen=True, eq=False)
class Task:
    """What karui is to make light, and how it can tell whether the result is still good.

    Every data set yields pairs ``(input, target)`` of one sample each. Inputs are tensors of one fixed shape, of
    floats, integers or truth values, whose type the file takes as well. Targets are tensors, numbers or texts of one
    shape, alone or in dicts, tuples and lists; loss and metric are given batches of them in that structure. Samples are
    read by ``split[i]``, so what a data set makes of them there is what everything works on.

    Args:
        model: The network to make light, already trained unless ``baseline_epochs`` is given. It takes one batch of
            inputs and returns one tensor whose first axis is the batch. What is in a DataParallel,
            DistributedDataParallel, AveragedModel or compiled module is taken out of it, and a model in half or double
            precision is taken in float32, with a warning.
        train: Data for recovery training.
        validation: Data by which the search compares candidates.
        test: Held-out data, touched only to re-measure the final front.
        calibration: Data from which ranges of activations are taken, by samples spread over them; ``train`` where None.
        loss: Maps (outputs, targets) of a batch to a scalar tensor.
        metric: Maps (outputs, targets) of a whole split to a number; higher is better.
        metric_name: What the metric is called in tables and plots.
        baseline_epochs: Epochs for which karui trains ``model`` once before the search; 0 for a trained model.
        augment: Optional change of a training batch of inputs (for example random flips), applied in training only.
        preprocessing: How raw data become inputs, in words or as JSON-able numbers (such as mean and deviation): what
            whoever deploys the file has to do. It is handed on as it is, never applied.
        labels: Names of the outputs, in their order; of classes where the outputs are logits.

    Raises:
        TaskError: Where a part has the wrong type, or a data set is empty.
    """

    model: nn.Module
    train: Pairs
    validation: Pairs
    test: Pairs
    calibration: Pairs | None = None
    loss: Loss = cross_entropy
    metric: Metric = top1_accuracy
    metric_name: str = "accuracy"
    baseline_epochs: int = 0
    augment: Callable[[Tensor], Tensor] | None = None
    preprocessing: Mapping[str, Any] | str | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(
                "the task's model is not a PyTorch module",
                where="Task(model=...)",
                expected="an instance of torch.nn.Module",
                got=_type_name(self.model),
            )
        for name in ("train", "validation", "test", "calibration"):
            split = getattr(self, name)
            if split is not None or name != "calibration":
                _check_split(name, split)
        for name in ("loss", "metric"):
            if not callable(getattr(self, name)):
                raise TaskError(
                    f"the task's {name} cannot be called",
                    where=f"Task({name}=...)",
                    expected="a function of (outputs, targets)",
                    got=_type_name(getattr(self, name)),
                )
        if not isinstance(self.baseline_epochs, int) or self.baseline_epochs < 0:
            raise TaskError(
                "the number of epochs for the baseline has no meaning",
                where="Task(baseline_epochs=...)",
                expected="a whole number, 0 or more",
                got=repr(self.baseline_epochs),
            )
        _check_papers(self.preprocessing, self.labels)
        self._take_plain()

    def _take_plain(self) -> None:
        """Take model and data in the form that everything works on, and warn where that is another one."""
        model, told = plain_model(self.model)
        if model is not self.model:
            object.__setattr__(self, "model", model)
        converted: list[str] = []
        in_half = any("float32 is what is made light" in sentence for sentence in told)
        for name in ("train", "validation", "test", "calibration"):
            split = getattr(self, name)
            taken = None if split is None else in_float32(split, model_was_converted=in_half)
            if taken is not split:
                object.__setattr__(self, name, taken)
                converted.append(name)
        if converted:
            told.append(f"the inputs of the {', '.join(converted)} data are read as float32")
        for sentence in told:
            warnings.warn(f"Task: {sentence}", stacklevel=4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.train[0][0].shape)

    @property
    def input_type(self) -> str:
        """Type of the numbers of an input, as numpy calls it; that of the file's input."""
        return str(self.train[0][0].dtype).removeprefix("torch.")

    def calibration_batch(self, samples: int) -> Tensor:
        """Return inputs spread over the calibration data, shape (min(samples, available), *input_shape).

        They are the same samples at every call, in new tensors.
        """
        split = self.calibration if self.calibration is not None else self.train
        return read_inputs(split, spread_rows(len(split), samples))  # type: ignore[arg-type]


def _check_split(name: str, split: Any) -> None:
    where = f"Task({name}=...)"
    try:
        count = len(split)
        sample = split[0] if count else None
    except (TypeError, NotImplementedError, KeyError, IndexError) as error:
        raise TaskError(
            f"the task's {name} data cannot be indexed",
            where=where,
            expected="a torch Dataset with __len__ and __getitem__",
            got=f"{_type_name(split)}: {error}",
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise TaskError(
            f"the task's {name} data raises an error",
            where=f"{where}[0]",
            expected="(input tensor, target) for each index",
            got=f"{type(error).__name__}: {error}",
            remedy="correct the data set",
        ) from error
    if sample is None:
        raise TaskError(
            f"the task's {name} data is empty", where=where, expected="at least one sample", got="0 samples"
        )
    if not (isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(sample[0], Tensor)):
        raise TaskError(
            f"the task's {name} data does not yield pairs",
            where=where,
            expected="(input tensor, target) for each index",
            got=_type_name(sample),
        )
    inputs = sample[0]
    if (
        inputs.layout != torch.strided
        or inputs.is_quantized
        or inputs.is_nested
        or inputs.is_meta
        or inputs.is_complex()
    ):
        raise TaskError(
            f"the task's {name} data yields inputs of a kind that no file takes",
            where=where,
            expected="dense tensors of floats, integers or truth values",
            got=f"{inputs.dtype}, {inputs.layout}{', on no device' if inputs.is_meta else ''}",
            remedy="turn them into dense tensors in the data set, complex numbers into two channels",
        )
    _check_targets(split, where, count, sample[1])


def _check_targets(split: Any, where: str, count: int, first: Any) -> None:
    """Check by two samples that targets make batches: what differs among the others is told when it is read."""
    if is_held_in_memory(split):
        return
    try:
        last = split[count - 1][1]
    except Exception:  # a sample that cannot be read is told, with its number, by whoever reads it
        last = first
    try:
        collate_targets([first, last])
    except TaskError as error:
        raise TaskError(error.what, where=where, expected=error.expected, got=error.got, remedy=error.remedy) from error


def _check_papers(preprocessing: Any, labels: Any) -> None:
    """Check what is only handed on with the file: found out at its export, it would be too late."""
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TaskError(
            "the task's labels are no names",
            where="Task(labels=...)",
            expected='one text for each output, such as ["cat", "dog"]',
            got=repr(labels)[:200],
        )
    try:
        text = isinstance(preprocessing, (str, Mapping, type(None))) and json.dumps(preprocessing, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _bad_preprocessing(str(error)) from error
    if not text:
        raise _bad_preprocessing(_type_name(preprocessing))


def _bad_preprocessing(got: str) -> TaskError:
    return TaskError(
        "the task's preprocessing cannot be written down",
        where="Task(preprocessing=...)",
        expected="a text, or a dict of texts, finite numbers and lists of them",
        got=got,
        remedy="turn tensors and arrays into numbers or lists, or say it in words",
    )


def _type_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
