"""The bit-width axis as data: which bits weights and activations may have, and how they come about."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from ..axis import AxisModel, Choices, Suggester, choose
from ..candidate import FLOAT_BITS, FLOATING_BITS, HALF_BITS, BitAllocation, BitTraining, Candidate
from .scales import FEWEST_BITS, MOST_BITS


def _bits(value: float) -> float:
    if value not in FLOATING_BITS and not FEWEST_BITS <= value <= MOST_BITS:
        raise ValueError(f"{FEWEST_BITS} to {MOST_BITS} bits, {HALF_BITS} for float16, or {FLOAT_BITS} for float32")
    return int(value) if value == int(value) else value


def _as_written(bits: float) -> Any:
    # declared as a float, a whole number would be written as 3.0
    return bits


WeightBits = Annotated[float, AfterValidator(_bits), PlainSerializer(_as_written)]
ActivationBits = Literal[8, 32]


class BitsAxis(AxisModel):
    """Bit-widths; 32 stands for float32, 16 for float16.

    Args:
        weights: Bits of the weights. Where they are spread as a budget, a mean such as 2.5 has a meaning as well.
        activations: Bits of the activations; asked only where the weights are integers, since the runtime's
            integer kernels need both.
        allocations: How bits are spread over the layers: ``uniform``, all alike but the first and the last layer;
            ``budget``, as many bits in all, but more to the layers that are hurt most by few of them; ``groups``, every
            group of layers with bits of its own.
        groups: For ``groups``, into how many runs of layers, as equal as can be, a network is cut; with as many as the
            network has layers, every layer has bits of its own.
        training: ``post`` to round a trained network, ``aware`` to train on with rounded weights before: dear.
    """

    prefix: ClassVar[str] = "bits."
    """What the names of this axis's parameters begin with."""

    weights: Choices[WeightBits] = (2, 3, 4, 8, 32)
    activations: Choices[ActivationBits] = (8, 32)
    allocations: Choices[BitAllocation] = ("uniform",)
    groups: Annotated[int, Field(ge=1, le=512)] = 4
    training: Choices[BitTraining] = ("post",)

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        fractions = [bits for bits in self.weights if bits != int(bits)]
        if fractions and "budget" not in self.allocations:
            raise ValueError(f'{fractions[0]:g} bits are a mean, which only allocations = ["budget"] can keep')
        if "groups" in self.allocations and not self.whole_bits:
            raise ValueError('allocations = ["groups"] needs at least one whole number from 2 to 8 among the weights')
        return self

    @property
    def whole_bits(self) -> tuple[int, ...]:
        """The whole numbers of bits among the weights', those of floating point aside."""
        return tuple(int(bits) for bits in self.weights if bits == int(bits) and bits not in FLOATING_BITS)

    @property
    def has_integers(self) -> bool:
        """Whether weights may be rounded to integers at all."""
        return any(bits not in FLOATING_BITS for bits in self.weights)

    def refine(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add bit-widths to a candidate."""
        allocation = choose(trial, "bits.allocation", self.allocations)
        if allocation == "groups":
            names = [f"bits.group.{group}" for group in range(self.groups)]
            groups = tuple(trial.suggest_categorical(name, self.whole_bits) for name in names)
            candidate = replace(candidate, weight_bits=max(groups), bit_allocation="groups", group_bits=groups)
        else:
            weight_bits = trial.suggest_categorical("bits.weights", self.weights)
            if weight_bits in FLOATING_BITS:
                return replace(candidate, weight_bits=weight_bits)
            if weight_bits != int(weight_bits):
                allocation = "budget"
            candidate = replace(candidate, weight_bits=weight_bits, bit_allocation=allocation)
        candidate = replace(candidate, activation_bits=trial.suggest_categorical("bits.activations", self.activations))
        return replace(candidate, bit_training=choose(trial, "bits.training", self.training))
