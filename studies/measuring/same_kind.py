"""Whether this machine is of the kind on which a study began: latencies are measured on the machine that evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = ("processor", "threads", "provider", "onnxruntime", "openvino", "governor")
"""Conditions of a latency that decide how much faster one file is than another."""


def describe_difference(noted: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return in a sentence how measuring here differs from measuring where the study began; None where it does not.

    Args:
        noted: Conditions of the baseline's latency; what they do not name is taken to be the same.
        here: Conditions of this machine's target.
    """
    keys = [key for key in _KEYS if key in noted and noted[key] != here.get(key)]
    differing = [f"{key} {here.get(key)!r} instead of {noted[key]!r}" for key in keys]
    if not differing:
        return None
    return (
        f"this machine is not of the kind that the study began on: {', '.join(differing)}; "
        "how much faster a candidate is than the baseline may differ between the two, and the front mixes both"
    )
