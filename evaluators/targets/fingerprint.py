"""What of a target's conditions makes it another target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LASTING = ("target", "processor", "runtime", "onnxruntime", "openvino", "provider", "threads", "governor")
"""Settings of target and machine: none of them changes by itself."""


def fingerprint_of(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lasts of a target's conditions; see :meth:`karui.evaluators.targets.target.Target.fingerprint`."""
    return {name: conditions[name] for name in LASTING if name in conditions}
