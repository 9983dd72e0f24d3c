"""Task: the user's trained model, data, loss and metric."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ..errors import TaskError

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float]
Pairs = Dataset[tuple[Tensor, ...]]


def top1_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of rows whose largest output is the target class.

    Args:
        outputs: Logits, shape (n, classes).
        targets: Class indices, shape (n,).
    """
    return float((outputs.argmax(dim=1) == targets).double().mean())


@dataclass(frozen=True, eq=False)
class Task:
    """What karui is to make light, and how it can tell whether the result is still good.

    Every data set yields pairs ``(input, target)`` of one sample each; inputs are float tensors of one fixed shape.

    Args:
        model: The network to make light, already trained unless ``baseline_epochs`` is given. It takes one batch of
            inputs and returns one tensor whose first axis is the batch.
        train: Data for recovery training.
        validation: Data by which the search compares candidates.
        test: Held-out data, touched only to re-measure the final front.
        calibration: Data from which ranges of activations are taken; the first samples of ``train`` where None.
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
    loss: Loss = nn.functional.cross_entropy
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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.train[0][0].shape)

    def calibration_batch(self, samples: int) -> Tensor:
        """Return the first inputs of the calibration data, shape (min(samples, available), *input_shape)."""
        split = self.calibration if self.calibration is not None else self.train
        count = min(samples, len(split))  # type: ignore[arg-type]
        return torch.stack([split[index][0] for index in range(count)])


def iterate(
    split: Pairs, batch_size: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches (inputs, targets) of a split; shuffled where a generator is given.

    In-memory tensors are sliced rather than collated sample by sample, which is what makes small tasks quick.
    """
    if isinstance(split, TensorDataset) and len(split.tensors) == 2:
        inputs, targets = split.tensors
        order = torch.arange(len(inputs)) if generator is None else torch.randperm(len(inputs), generator=generator)
        for chosen in torch.split(order, batch_size):
            yield inputs[chosen], targets[chosen]
        return
    # without a generator of its own a DataLoader draws from the global one
    private = torch.Generator() if generator is None else generator
    yield from DataLoader(split, batch_size=batch_size, shuffle=generator is not None, generator=private)


def spread_batch(split: Pairs, samples: int) -> tuple[Tensor, Any]:
    """Return inputs and targets of samples spread evenly over a split: the same ones at every call.

    Data sets are often sorted by class, so that their first samples show a few classes only.

    Args:
        split: Pairs of input and target.
        samples: How many; all where the split has fewer.

    Returns:
        Inputs of shape (min(samples, available), *input_shape), and their targets as the split's batches have them.
    """
    available = len(split)  # type: ignore[arg-type]
    count = min(samples, available)
    rows = [number * available // count for number in range(count)]
    inputs, targets = next(iterate(Subset(split, rows), count))
    return inputs, targets


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
