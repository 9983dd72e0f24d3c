"""The bit-width axis as data: which bits weights and activations may have, and how they come about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from ...bit_names import (
    FEWEST_BITS,
    FLOAT_BITS,
    FLOATING_BITS,
    HALF_BITS,
    MOST_BITS,
    MOST_BITS_BESIDE_INT8,
    BitAllocation,
    BitTraining,
)
from ...candidate import BuildStage, Candidate
from ...section import Choices
from ...step import FileWork, LaterTraining, Step
from ..axis import INT8, Axis, Sentences, Suggester, choose

if TYPE_CHECKING:
    from pathlib import Path

    from ...task import Task

AWARE_TRAINING = "aware training"
"""The step that trains on with rounded weights."""

_HARMLESS_BITS = 4
"""Bits of weights below which rounding costs accuracy in networks of all kinds."""


def _bits(value: float) -> float:
    if value not in FLOATING_BITS and not FEWEST_BITS <= value <= MOST_BITS:
        raise ValueError(f"{FEWEST_BITS} to {MOST_BITS} bits, {HALF_BITS} for float16, or {FLOAT_BITS} for float32")
    return int(value) if value == int(value) else value


def _as_written(bits: float) -> Any:
    # declared as a float, a whole number would be written as 3.0
    return bits


WeightBits = Annotated[float, AfterValidator(_bits), PlainSerializer(_as_written)]
ActivationBits = Literal[8, 32]


class BitsAxis(Axis):
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
    first_stage: ClassVar[BuildStage] = BuildStage.AWARE_TRAINING
    uses: ClassVar[Mapping[str, str]] = {"bits": "fewer bits"}
    trainings: ClassVar[Sequence[str]] = (AWARE_TRAINING,)

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

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
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

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return the bits and how they come about; not those of groups of layers."""
        return {
            "bits.weights": candidate.weight_bits,
            "bits.activations": candidate.activation_bits,
            "bits.allocation": candidate.bit_allocation,
            "bits.training": candidate.bit_training,
        }

    def first_tries(self) -> Iterable[Candidate]:
        """Return the model in float16, then at every whole bit-width, all layers alike, then as a budget."""
        yield Candidate(weight_bits=HALF_BITS)
        uniform = [Candidate(weight_bits=bits, activation_bits=8) for bits in sorted(self.whole_bits, reverse=True)]
        yield from uniform
        yield from (replace(candidate, bit_allocation="budget") for candidate in uniform)

    def beside_others(self, candidate: Candidate) -> Candidate:
        """Round to 4 bits, which cost next to nothing, or the fewest above that there are."""
        if not self.whole_bits:
            return candidate
        return replace(
            candidate,
            weight_bits=min(self.whole_bits, key=lambda bits: (bits < _HARMLESS_BITS, abs(bits - _HARMLESS_BITS))),
            activation_bits=8 if 8 in self.activations else self.activations[0],
            bit_allocation="uniform" if "uniform" in self.allocations else self.allocations[0],
        )

    def follower_parameters(self) -> dict[str, Any]:
        """Let no training come after that of the network: it is dear."""
        return {"bits.training": "post"} if len(self.training) > 1 else {}

    def coverage(self, trains_later: bool) -> Iterable[Sentences]:  # noqa: ARG002
        """Return what says which layers can be rounded."""
        if self.has_integers:
            yield partial(_layers, self.activations)

    @property
    def computes_in_integers(self) -> bool:
        """Whether activations may be rounded beside integer weights."""
        return self.has_integers and 8 in self.activations

    @property
    def trains_later(self) -> bool:
        """Whether training may go on with rounded weights."""
        return "aware" in self.training and self.has_integers

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Leave out how bits are spread and trained where weights stay floating, and have no more bits than there are.

        Beside 8-bit activations weights have at most :data:`~karui.spaces.candidate.MOST_BITS_BESIDE_INT8` bits, and
        where all have the most that they can, none are spread. Bits become whole where they are, since JSON tells 4
        from 4.0. Where rounded weights are trained, zeros come gradually.
        """
        if candidate.weight_bits in FLOATING_BITS:
            return replace(
                candidate,
                weight_bits=int(candidate.weight_bits),
                bit_allocation="uniform",
                group_bits=(),
                activation_bits=FLOAT_BITS,
                bit_training="post",
            )
        if candidate.bit_training == "aware":
            candidate = replace(candidate, zeroing="gradual")
        most = MOST_BITS_BESIDE_INT8 if candidate.activation_bits != FLOAT_BITS else 8
        groups = tuple(min(bits, most) for bits in candidate.group_bits)
        bits = max(groups) if groups else min(candidate.weight_bits, most)
        bits = int(bits) if bits == int(bits) else bits
        if bits == most and set(groups) <= {most}:
            # Nothing is left to spread: every layer has as many as there can be.
            return replace(candidate, weight_bits=bits, bit_allocation="uniform", group_bits=())
        return replace(candidate, weight_bits=bits, group_bits=groups)

    @classmethod
    def through(cls, candidate: Candidate, stage: BuildStage) -> Candidate:
        """Return the candidate in float32 where nothing is rounded yet."""
        acts = cls.first_stage if candidate.bit_training == "aware" else BuildStage.ROUNDING
        return candidate if stage >= acts else replace(candidate, weight_bits=FLOAT_BITS, bit_training="post")

    @classmethod
    def trains(cls, candidate: Candidate) -> bool:
        """Say whether training goes on with rounded weights."""
        return candidate.bit_training == "aware"

    @classmethod
    def whole_variants(cls) -> Mapping[str, Candidate]:
        """Return the model with fewer bits of weights, and with activations of 8 bits beside them."""
        return {
            "float16 weights": Candidate(weight_bits=HALF_BITS),
            "8-bit weights": Candidate(weight_bits=8),
            "4-bit weights": Candidate(weight_bits=4),
            INT8: Candidate(weight_bits=8, activation_bits=8),
            "4-bit weights, 8-bit activations": Candidate(weight_bits=4, activation_bits=8),
        }

    @classmethod
    def add_steps(cls, candidate: Candidate, steps: Sequence[Step]) -> Sequence[Step]:
        """Round the file, zeroing what is to be zeroed at once in the same go, and train on before where that is asked.

        What is zeroed makes good the error of what is rounded, and the other way round.
        """
        if candidate.weight_bits == FLOAT_BITS:
            return steps
        if candidate.weight_bits == HALF_BITS:
            return [*steps, Step("quantization", BuildStage.ROUNDING, "bits")]
        choice: dict[str, Any] = {
            "weight_bits": candidate.weight_bits,
            "activation_bits": candidate.activation_bits,
            "allocation": candidate.bit_allocation,
            "group_bits": candidate.group_bits,
        }
        zeroing = [step for step in steps if step.stage == BuildStage.ROUNDING and "zeroed_weights" in step.settings]
        found = [step for step in steps if step not in zeroing]
        if candidate.bit_training == "aware":
            found.append(Step(AWARE_TRAINING, BuildStage.AWARE_TRAINING, "bits", choice, training="aware"))
        zeros = {"zeros": zeroing[0].settings} if zeroing else {}
        in_integers = candidate.activation_bits != FLOAT_BITS
        return [*found, Step("quantization", BuildStage.ROUNDING, "bits", choice | zeros, in_integers=in_integers)]

    @classmethod
    def train_on(cls, step: Step, training: LaterTraining, folder: Path) -> None:
        """Train on with rounded weights."""
        from .qat_step import train_on

        train_on(step, training, folder)

    @classmethod
    def take_up(cls, work: FileWork, folder: Path) -> None:
        """Take up the grids that training has found."""
        from .qat_step import read_grids

        work.learned = read_grids(folder)

    @classmethod
    def change_file(cls, source: Path, destination: Path, step: Step, work: FileWork) -> None:
        """Write the rounded file."""
        from .steps import round_file

        round_file(source, destination, step, work)

    @classmethod
    def describe(cls, candidate: Candidate) -> Sequence[str]:
        """Return the bits, such as ``w4 a8``."""
        if candidate.weight_bits == FLOAT_BITS:
            return ["float32"]
        if candidate.weight_bits == HALF_BITS:
            return ["float16"]
        groups = "-".join(map(str, candidate.group_bits))
        bits = f"w{groups}" if groups else f"w{candidate.weight_bits:g}"
        how = " budget" if candidate.bit_allocation == "budget" else ""
        trained = " aware" if candidate.bit_training == "aware" else ""
        return [f"{bits}{how} a{candidate.activation_bits}{trained}"]

    @classmethod
    def configuration(cls, candidate: Candidate) -> Sequence[tuple[str, str]]:
        """Return the same in words."""
        bits = candidate.activation_bits
        activations = "kept in float32" if bits == FLOAT_BITS else f"rounded to {bits} bits"
        return [("Weights", _weights_in_words(candidate)), ("Activations", activations)]

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Say whether a trial has fewer bits than float32."""
        groups = any(name.startswith("bits.group.") for name in chosen)
        return groups or chosen.get("bits.weights", FLOAT_BITS) < FLOAT_BITS


def _weights_in_words(candidate: Candidate) -> str:
    if candidate.weight_bits == FLOAT_BITS:
        return "kept in float32"
    if candidate.weight_bits == HALF_BITS:
        return "stored as float16, computed in float32"
    trained = ", and trained with that rounding" if candidate.bit_training == "aware" else ""
    if candidate.group_bits:
        return f"rounded to {', '.join(map(str, candidate.group_bits))} bits, by groups of layers{trained}"
    mean = " on average, spread by how sensitive layers are" if candidate.bit_allocation == "budget" else ""
    return f"rounded to {candidate.weight_bits:g} bits{mean}{trained}"


def _layers(activations: tuple[int, ...], task: Task, baseline: Path) -> Iterable[str]:  # noqa: ARG001
    from .coverage import describe_layers

    return describe_layers(activations, baseline)
