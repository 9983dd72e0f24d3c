"""The names of the student families and the resolutions, without torch, so that the search can list them."""

from __future__ import annotations

SHALLOWER = "shallower"
"""The student that is the baseline with fewer blocks and channels."""

FAMILIES: tuple[str, ...] = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2",
    "resnet18",
    "mnasnet",
    "efficientnet_b0",
    "squeezenet",
)
"""The torchvision families, built untrained."""

RESOLUTIONS = (1.0, 0.5, 0.25)
"""Fractions of height and width at which a shallower student may compute: strides are whole numbers."""
