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
from .data.batches import Inputs, Targets, collate_targets, is_held_in_memory, read_inputs, spread_rows
from .data.batches import Pairs as Pairs
from .data.batches import iterate as iterate
from .data.batches import spread_batch as spread_batch
from .data.class_targets import cross_entropy
from .data.class_targets import top1_accuracy as top1_accuracy
from .data.float32_data import in_float32
from .data.named import Named, Shapes, shapes_of
from .data.structured_split import Collate, StructuredSplit, structured, unloaded
from .data.structures import SeesStructure
from .metric_object import MetricObject, as_metric
from .networks.plain_model import plain_model
from .networks.structured_network import own_network
from .networks.trial_run import Wrapped, in_structure
from .output_losses import Distillation, check_distillation

Loss = Callable[[Any, Targets], Tensor]
Metric = Callable[[Any, Targets], float]

USUAL_METRIC = "accuracy"
"""What the metric is called where nobody says so."""


@dataclass(frozen=True, eq=False)
class Task:
    """What karui is to make light, and how it can tell whether the result is still good.

    Every data set yields pairs ``(inputs, target)`` of one sample each, or dicts with the targets among the inputs.
    Inputs are tensors of one fixed shape, of floats, integers or truth values, whose type the file takes as well: one,
    a tuple of them, given to the model in order, or a dict, given by name. Targets are tensors, numbers or texts of one
    shape, alone or in dicts, tuples and lists; or what ``collate`` makes of them, a list having one entry for each
    sample. Loss and metric are given batches of them in that structure. Samples are read by ``split[i]``, so what a
    data set makes of them there is what everything works on. A ``DataLoader`` stands for its data and its collate.

    Args:
        model: The network to make light, already trained unless ``baseline_epochs`` is given. It takes one batch of
            inputs and returns a tensor whose first axis is the batch, or several in tuples, lists, dicts, named tuples
            and dataclasses, such as a ``ModelOutput``; what is no tensor among them is left out, with a warning. What
            is in a DataParallel, DistributedDataParallel, AveragedModel or compiled module is taken out of it, and a
            model in half or double precision is taken in float32, with a warning.
        train: Data for recovery training.
        validation: Data by which the search compares candidates.
        test: Held-out data, touched only to re-measure the final front.
        calibration: Data from which ranges of activations are taken, by samples spread over them; ``train`` where None.
        loss: Maps (outputs, targets) of a batch to a scalar tensor; outputs are in the model's own structure.
        metric: Maps (outputs, targets) of a whole split to a number; higher is better. Outputs as for the loss. Or an
            object with ``update``, ``compute`` and ``reset``, as those of torchmetrics are; where its
            ``higher_is_better`` is False, its negative is compared.
        metric_name: What the metric is called in tables and plots; an object goes by its type where left out.
        baseline_epochs: Epochs for which karui trains ``model`` once before the search; 0 for a trained model.
        augment: Optional change of a training batch of inputs (for example random flips), applied in training only.
        preprocessing: How raw data become inputs, in words or as JSON-able numbers (such as mean and deviation): what
            whoever deploys the file has to do. It is handed on as it is, never applied.
        labels: Names of the outputs, in their order; of classes where the outputs are logits.
        collate: Makes a batch of a list of samples, as in a ``DataLoader``; torch's where None.
        targets: Names of the targets, where samples are dicts that hold them beside the inputs; the loss is given the
            only one, or several in a dict.
        distillation: What the outputs are, from which candidates learn beside the task's loss: ``logits``, ``values``,
            ``embedding`` (by the cosine), ``features``, ``none``, or a function of (outputs, the teacher's); in a dict
            by the names of several outputs. Where None, that of a single output follows from the loss, and several are
            not learnt from a teacher.

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
    metric_name: str = USUAL_METRIC
    baseline_epochs: int = 0
    augment: Callable[[Tensor], Tensor] | None = None
    preprocessing: Mapping[str, Any] | str | None = None
    labels: Sequence[str] = ()
    collate: Collate | None = None
    targets: str | Sequence[str] = ()
    distillation: Distillation = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(
                "the task's model is not a PyTorch module",
                where="Task(model=...)",
                expected="an instance of torch.nn.Module",
                got=_type_name(self.model),
            )
        if self.collate is not None and not callable(self.collate):
            raise TaskError(
                "the task's collate cannot be called",
                where="Task(collate=...)",
                expected="a function of a list of samples, as a DataLoader's",
                got=_type_name(self.collate),
            )
        for name in ("train", "validation", "test", "calibration"):
            split, collate = unloaded(getattr(self, name), self.collate)
            if split is not None or name != "calibration":
                object.__setattr__(
                    self, name, _checked(name, split, collate, self._target_names, own_network(self.model))
                )
        object.__setattr__(self, "metric", as_metric(self.metric))
        if isinstance(self.metric, MetricObject) and self.metric_name == USUAL_METRIC:
            object.__setattr__(self, "metric_name", self.metric.name)
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
        _check_metadata(self.preprocessing, self.labels)
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
        told += self._take_structure()
        for sentence in told:
            warnings.warn(f"Task: {sentence}", stacklevel=4)

    def _take_structure(self) -> list[str]:
        """Put model, loss and metric behind the call of one batch where the model has several inputs or outputs."""
        wrapped: Wrapped = in_structure(self.model, self.train)
        object.__setattr__(self, "model", wrapped.model)
        object.__setattr__(self, "_output_names", () if wrapped.outputs is None else wrapped.outputs.names)
        check_distillation(self.distillation, self.output_names)
        if wrapped.outputs is None:
            return []
        for name in ("loss", "metric"):
            function = getattr(self, name)
            if function in (cross_entropy, top1_accuracy):
                raise TaskError(
                    f"the task's model gives several outputs, and the task no {name} that reads them",
                    where=f"Task({name}=...)",
                    expected=f"a function of (outputs, targets), outputs with {', '.join(wrapped.outputs.names)}",
                    got=f"none, for which karui's own {function.__name__} stands",
                    remedy=f"give the task a {name}, such as {function.__name__} of one of the outputs",
                )
            if not isinstance(getattr(function, "guards", function), SeesStructure):
                object.__setattr__(self, name, SeesStructure(function, wrapped.outputs))
        told = list(wrapped.told)
        if self.distillation is None:
            names = ", ".join(wrapped.outputs.names)
            told.append(
                f"candidates learn by the loss alone: what the outputs {names} are, so that they can be compared with "
                "the baseline's, is said by Task(distillation=...), which may also be 'none'"
            )
        return told

    @property
    def _target_names(self) -> tuple[str, ...]:
        names = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        if not all(isinstance(name, str) and name for name in names):
            raise TaskError(
                "the task's targets are no names",
                where="Task(targets=...)",
                expected='a name in the dicts that the data yield, or several, such as "labels"',
                got=repr(self.targets)[:200],
            )
        return names

    @property
    def input_shape(self) -> Shapes:
        """Shape of one input, without the batch axis; by name where there are several."""
        return shapes_of(self._one_input())

    @property
    def input_type(self) -> Any:
        """Type of an input's numbers, as numpy calls it; that of the file's input. By name where there are several."""
        given = self._one_input()
        if isinstance(given, Named):
            return {name: str(part.dtype).removeprefix("torch.") for name, part in given.parts.items()}
        return str(given.dtype).removeprefix("torch.")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of the model, and of the file, where they have names of their own."""
        names: tuple[str, ...] = getattr(self, "_output_names", ())
        return names

    def _one_input(self) -> Inputs:
        given = self.train[0][0]
        return given.map(lambda part: part[None]) if isinstance(given, Named) else given[None]

    def calibration_batch(self, samples: int) -> Inputs:
        """Return inputs spread over the calibration data, shape (min(samples, available), *input_shape).

        They are the same samples at every call, in new tensors.
        """
        split = self.calibration if self.calibration is not None else self.train
        return read_inputs(split, spread_rows(len(split), samples))  # type: ignore[arg-type]


def _checked(name: str, split: Any, collate: Collate | None, targets: tuple[str, ...], model: nn.Module) -> Any:
    """Return a split as everything works on it, checked by its first sample."""
    if isinstance(split, StructuredSplit):
        return split
    sample = _first_sample(name, split)
    found = structured(split, f"Task({name}=...)", collate, targets, model)
    if found is None:
        _check_pairs(name, split, sample)
    return split if found is None else found


def _first_sample(name: str, split: Any) -> Any:
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
    return sample


def _check_pairs(name: str, split: Any, sample: Any) -> None:
    where = f"Task({name}=...)"
    if not (isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(sample[0], Tensor)):
        raise TaskError(
            f"the task's {name} data does not yield pairs",
            where=where,
            expected="(input tensor, target) for each index; or (tuple or dict of tensors, target)",
            got=_type_name(sample),
            remedy='name the targets that are among the inputs: Task(targets="labels")'
            if isinstance(sample, Mapping)
            else None,
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
    _check_targets(split, where, len(split), sample[1])


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


def _check_metadata(preprocessing: Any, labels: Any) -> None:
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
