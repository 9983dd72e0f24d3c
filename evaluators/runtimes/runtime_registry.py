"""The runtimes that there are, by name, without loading any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spaces.registry import Registry

if TYPE_CHECKING:
    from .runtime import Runtime

RUNTIMES: Registry[Runtime] = Registry(
    "karui.runtimes",
    {
        "onnxruntime": "karui.evaluators.runtimes.runtime:ONNXRUNTIME",
        "openvino": "karui.evaluators.runtimes.runtime:OPENVINO",
    },
)
"""Every runtime by its name, which a study file has: karui's own, then those of other packages."""
