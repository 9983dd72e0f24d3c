"""What may be measured of a file beside its size, latency and accuracy, and the registry of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from ..spaces.artifact import Artifact
from ..spaces.registry import Registry
from .measurement import Evaluator
from .targets.target import Target
from .timing.alternating import TimingSettings


@dataclass(frozen=True)
class Measured:
    """With what a study measures.

    Args:
        target: Where.
        reference: The file that all candidates are compared with.
        inputs: One batch of real data, shape (batch, *input_shape).
        settings: When to stop, and how long a block lasts.
    """

    target: Target
    reference: Artifact
    inputs: NDArray[Any]
    settings: TimingSettings


@dataclass(frozen=True)
class Metric:
    """Something that may be a further objective of a study, and have a bound.

    Args:
        name: What ``further_objectives`` of a study file call it, such as ``load``.
        measurement: Name of the measurement, such as ``load_ms``.
        direction: Whether little of it is wanted, or much.
        unit: Unit of the measurement: ``bytes``, ``ms``, ``mJ``, or ``1`` for a plain number.
        bound: The key of ``[bounds]`` that bounds it, such as ``max_load``.
        title: What it is called in the report.
        evaluator: Makes what measures it on a target.
        ratio: Name of the measurement by which the worst of several targets is told, candidate over reference; empty
            where there is none, and the first target is taken.
    """

    name: str
    measurement: str
    direction: Literal["minimize", "maximize"]
    unit: str
    bound: str
    title: str
    evaluator: Callable[[Measured], Evaluator]
    ratio: str = ""


METRICS: Registry[Metric] = Registry(
    "karui.metrics",
    {
        "load": "karui.evaluators.loading:LOAD",
        "memory": "karui.evaluators.memory:MEMORY",
        "energy": "karui.evaluators.energy:ENERGY",
    },
)
"""Every metric by its name: karui's own, then those of other packages."""
