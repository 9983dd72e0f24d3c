"""A metric that is an object, as those of torchmetrics are: it is fed a split batch by batch."""

from __future__ import annotations

import numbers
from typing import Any

from torch import Tensor

from ..errors import TaskError
from .data.batches import Targets, slice_targets
from .data.structures import take_apart

ROWS = 256
"""Of each batch."""

_METHODS = ("update", "compute", "reset")


class MetricObject:
    """A metric object as a function over a whole split.

    Args:
        metric: Has ``update(outputs, targets)``, ``compute()`` and ``reset()``. Where its ``higher_is_better`` is
            False, its negative is what is compared.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.is_negative = getattr(metric, "higher_is_better", None) is False
        metric.reset()  # so that what it has seen elsewhere tells no two tasks apart

    @property
    def name(self) -> str:
        """What it is called where nobody says so."""
        return f"{'negative ' if self.is_negative else ''}{type(self.metric).__name__}"

    def __call__(self, outputs: Any, targets: Targets) -> Any:
        """Return what it computes of outputs, in the model's own structure, and their targets."""
        apart = take_apart(outputs)
        count = max((len(part) for part in apart.parts.values()), default=0)
        self.metric.reset()
        try:
            for start in range(0, count, ROWS):
                rows = slice(start, min(start + ROWS, count))
                some = apart.structure.restore({name: part[rows] for name, part in apart.parts.items()})
                self.metric.update(some, slice_targets(targets, rows))
            answer = self.metric.compute()
        finally:
            self.metric.reset()
        return -answer if self.is_negative and isinstance(answer, (Tensor, numbers.Real)) else answer


def as_metric(metric: Any) -> Any:
    """Return a metric object as a function of (outputs, targets), and any other metric as it is.

    Raises:
        TaskError: Where an object that is updated lacks what else it needs.
    """
    if isinstance(metric, type) or not callable(getattr(metric, "update", None)):
        return metric
    if missing := [name for name in _METHODS if not callable(getattr(metric, name, None))]:
        raise TaskError(
            "the task's metric object is not whole",
            where="Task(metric=...)",
            expected=f"an object with {', '.join(_METHODS)}, as those of torchmetrics have",
            got=f"{type(metric).__name__} without {' and '.join(missing)}",
        )
    return MetricObject(metric)
