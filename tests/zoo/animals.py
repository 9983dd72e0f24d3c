"""All networks of the zoo: importing the files that hold them fills the registry."""

from __future__ import annotations

from . import (  # noqa: F401
    networks_activations,
    networks_attention,
    networks_channels,
    networks_convolutions,
    networks_heads,
    networks_norms,
    networks_oddities,
    networks_pooling,
    networks_sequences,
    networks_structures,
    networks_wirings,
)
from .registry import ZOO

__all__ = ["ZOO"]
