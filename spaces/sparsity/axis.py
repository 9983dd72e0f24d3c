"""The sparsity axis as data: which fractions of channels and weights may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ..axis import AxisModel, Choices, Suggester
from ..candidate import Baseline, Candidate

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class SparsityAxis(AxisModel):
    """Sparsity: channels removed for good, and single weights set to zero.

    Args:
        removed_channels: Fractions of channels removed; asked of the baseline only, since a student or a cell network
            has widths of its own and no trained channels to choose among.
        zeroed_weights: Fractions of the remaining weights set to zero.
    """

    removed_channels: Choices[Fraction] = (0.0, 0.25, 0.5, 0.7)
    zeroed_weights: Choices[Fraction] = (0.0, 0.5, 0.8)

    def refine(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add sparsity to a candidate whose architecture is chosen."""
        if isinstance(candidate.architecture, Baseline):
            removed = trial.suggest_categorical("sparsity.removed_channels", self.removed_channels)
            candidate = replace(candidate, removed_channels=removed)
        return replace(
            candidate, zeroed_weights=trial.suggest_categorical("sparsity.zeroed_weights", self.zeroed_weights)
        )
