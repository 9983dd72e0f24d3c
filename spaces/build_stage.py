"""The stages of a build."""

from __future__ import annotations

from enum import IntEnum


class BuildStage(IntEnum):
    """The stages of a build at which axes act, in their order."""

    NETWORK = 1
    """The network is made: its layers, their channels, its activation functions."""
    TRAINING = 2
    """It is trained to win accuracy back, or for the first time."""
    EXPORT = 3
    """It is written to a float32 file."""
    AWARE_TRAINING = 4
    """Training goes on with rounded weights."""
    ROUNDING = 5
    """The file's weights and activations are zeroed and rounded."""
    PACKING = 6
    """The file that is deployed is written."""
