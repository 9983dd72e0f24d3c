"""Measurement: a number with its unit, spread, count and conditions; and the protocol of what makes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ..spaces.artifact import Artifact


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Args:
        name: What was measured, with its unit in the name where it has one: ``size_bytes``, ``latency_ms``.
        value: The number; always finite, since a missing one is a status and not a number.
        unit: ``bytes``, ``ms``, ``mJ``, or ``1`` for shares and ratios.
        spread: Half the width of the 95 % interval, in the same unit; 0 for what is exact.
        count: How many samples stand behind it.
        conditions: Under what it was measured, JSON types only.

    Raises:
        ValueError: Where value or spread is not finite, or the count is not positive.
    """

    name: str
    value: float
    unit: str
    spread: float = 0.0
    count: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not math.isfinite(self.spread) or self.spread < 0 or self.count < 1:
            raise ValueError(f"{self.name}: {self.value} +- {self.spread} over {self.count} is no measurement")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Measurement:
        """Read what :meth:`to_dict` wrote."""
        return cls(**plain)


class Evaluator(Protocol):
    """Measures one file. It never changes the file, and never says which direction is better."""

    @property
    def name(self) -> str:
        """The stage name under which a failure of this evaluator is recorded."""

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Measure the file.

        Raises:
            CandidateFailure: Where the file cannot be measured.
        """
