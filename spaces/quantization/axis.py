"""The bit-width axis as data: which bits weights and activations may have."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from ..axis import AxisModel, Choices, Suggester
from ..candidate import FLOAT_BITS, Candidate

WeightBits = Literal[2, 3, 4, 5, 6, 7, 8, 32]
ActivationBits = Literal[8, 32]
Rounding = Literal["nearest", "feedback"]


class BitsAxis(AxisModel):
    """Bit-widths; 32 stands for float32.

    Args:
        weights: Bits of the weights.
        activations: Bits of the activations; asked only where the weights are not float32, since the runtime's
            integer kernels need both.
    """

    prefix: ClassVar[str] = "bits."
    """What the names of this axis's parameters begin with."""

    weights: Choices[WeightBits] = (2, 3, 4, 8, 32)
    activations: Choices[ActivationBits] = (8, 32)

    def refine(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add bit-widths to a candidate."""
        weight_bits = trial.suggest_categorical("bits.weights", self.weights)
        candidate = replace(candidate, weight_bits=weight_bits)
        if weight_bits == FLOAT_BITS:
            return candidate
        return replace(candidate, activation_bits=trial.suggest_categorical("bits.activations", self.activations))
