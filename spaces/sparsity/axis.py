"""The sparsity axis as data: which fractions of channels and weights may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from ..axis import AxisModel, Choices, Suggester, choose
from ..candidate import Baseline, Candidate
from .names import ChannelImportance, ChannelScope, ZeroingTime, ZeroPattern

HALF = 0.5
"""The fraction of zeros of both patterns."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class SparsityAxis(AxisModel):
    """Sparsity: channels removed for good, and single weights set to zero.

    Args:
        removed_channels: Fractions of channels removed; asked of the baseline only, since a student or a cell network
            has widths of its own and no trained channels to choose among.
        importances: By what the channels that stay are chosen: ``magnitude`` of their weights, the scales of the
            ``batch_norm`` behind them, ``taylor`` (what the loss would change to first order), or
            ``geometric_median`` (channels that others can stand in for go).
        scopes: ``layer`` where every layer loses the same fraction, ``global`` where all layers compete.
        zeroed_weights: Fractions of the remaining weights set to zero.
        patterns: Where zeros lie: ``free``, or ``2:4`` and ``4:8``, which are asked only for half of the weights.
        zeroing: ``gradual`` while recovering, or ``one_shot`` afterwards, which trains nothing.
    """

    removed_channels: Choices[Fraction] = (0.0, 0.25, 0.5, 0.7)
    importances: Choices[ChannelImportance] = ("magnitude",)
    scopes: Choices[ChannelScope] = ("layer",)
    zeroed_weights: Choices[Fraction] = (0.0, 0.5, 0.8)
    patterns: Choices[ZeroPattern] = ("free",)
    zeroing: Choices[ZeroingTime] = ("gradual",)

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        strict = [pattern for pattern in self.patterns if pattern != "free"]
        if strict and HALF not in self.zeroed_weights:
            raise ValueError(f"the pattern {strict[0]} zeroes half of the weights: add {HALF} to zeroed_weights")
        return self

    def refine(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add sparsity to a candidate whose architecture is chosen."""
        if isinstance(candidate.architecture, Baseline):
            candidate = self._remove(trial, candidate)
        zeroed = trial.suggest_categorical("sparsity.zeroed_weights", self.zeroed_weights)
        candidate = replace(candidate, zeroed_weights=zeroed)
        if not zeroed:
            return candidate
        if zeroed == HALF:
            candidate = replace(candidate, zero_pattern=choose(trial, "sparsity.pattern", self.patterns))
        return replace(candidate, zeroing=choose(trial, "sparsity.zeroing", self.zeroing))

    def _remove(self, trial: Suggester, candidate: Candidate) -> Candidate:
        removed = trial.suggest_categorical("sparsity.removed_channels", self.removed_channels)
        candidate = replace(candidate, removed_channels=removed)
        if not removed:
            return candidate
        return replace(
            candidate,
            channel_importance=choose(trial, "sparsity.importance", self.importances),
            channel_scope=choose(trial, "sparsity.scope", self.scopes),
        )
