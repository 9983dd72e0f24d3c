"""What is checked of a bundle: by what, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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


@dataclass(frozen=True)
class VerifyOptions:
    """By what a bundle is verified, beyond what lies in it.

    Args:
        data: An ``.npz`` with ``inputs`` and ``targets``, on which accuracy is measured; None to leave it.
        target: Name of the target on which latency is measured; None to leave it.
        reference: The float32 file against which latency was measured; without it milliseconds are compared.
        tolerance: Largest difference of the samples' outputs, instead of what ``config.json`` says.
        latency_tolerance: By what share latency may be higher; as wide as the comparison asks for where None.
        target_options: What that target asks for, as text by name, such as ``host``.
    """

    data: Path | None = None
    target: str | None = "local"
    reference: Path | None = None
    tolerance: float | None = None
    latency_tolerance: float | None = None
    target_options: Mapping[str, str] = field(default_factory=dict)
