"""The axes whose networks share one supernet each."""

from __future__ import annotations

from collections.abc import Iterable

from ...architectures import Architecture
from ..axis import Axis, NetworkAxis


class SharingAxes:
    """The axes of a study whose networks take their weights from a supernet; those of others begin anew.

    Args:
        axes: The axes of the study.
    """

    def __init__(self, axes: Iterable[Axis] = ()) -> None:
        self._axes = tuple(axis for axis in axes if isinstance(axis, NetworkAxis) and axis.shares_weights)

    def of(self, architecture: Architecture) -> NetworkAxis | None:
        """Return the axis with whose networks this one shares its weights; None where it shares none."""
        return next((axis for axis in self._axes if axis.kind == architecture.kind), None)
