"""One thing that was checked of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CheckVerdict = Literal["kept", "missed", "not comparable", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what came of it.

    Args:
        name: ``sums``, ``configuration``, ``file``, ``parity``, ``accuracy`` or ``latency``.
        verdict: ``kept``, ``missed``, ``not comparable`` where what was measured and what is said are of two kinds, or
            ``not checked`` where something is lacking.
        text: What was found, in one sentence.
        numbers: What was found and expected, JSON types only.
    """

    name: str
    verdict: CheckVerdict
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
