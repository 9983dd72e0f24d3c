"""SearchSpace: axes and the conditions between them, from which a candidate is suggested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from random import Random
from typing import Any

from .axis import AxisModel, Draw, Suggester
from .candidate import HALF_BITS, Architecture, Baseline, Candidate, CellNetwork, Student
from .cells.axis import CellsAxis
from .exits.axis import ExitsAxis
from .quantization.axis import BitsAxis
from .sparsity.axis import SparsityAxis
from .stages.axis import StagesAxis
from .stages.choice import StageNetwork
from .students.axis import StudentsAxis
from .students.names import SHALLOWER

_AFTER_TRAINING = (BitsAxis.prefix, ExitsAxis.prefix)
"""What the names of parameters begin with that do not change which network is trained."""

_HARMLESS_BITS = 4
"""Bits of weights below which rounding costs accuracy in networks of all kinds."""


class SearchSpace(AxisModel):
    """The axes of one study; an axis that is None is not searched.

    The baseline is always in the space. Conditions: a student's or a cell's parameters exist only where that
    architecture is chosen, removed channels only for the baseline, activation bits only for rounded weights, a
    threshold only for an exit.

    Args:
        students: Student architectures.
        cells: NAS cells.
        stages: Networks of inverted-residual stages.
        sparsity: Removed channels and zeroed weights.
        bits: Bit-widths.
        exits: Early exits.
    """

    students: StudentsAxis | None = None
    cells: CellsAxis | None = None
    stages: StagesAxis | None = None
    sparsity: SparsityAxis | None = None
    bits: BitsAxis | None = None
    exits: ExitsAxis | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """The kinds of architecture that may be chosen."""
        searched = ((Student.kind, self.students), (CellNetwork.kind, self.cells), (StageNetwork.kind, self.stages))
        return (Baseline.kind, *(kind for kind, axis in searched if axis is not None))

    def suggest(self, trial: Suggester) -> Candidate:
        """Choose a candidate; equal meanings are brought together by :attr:`Candidate.key`, not here."""
        candidate = Candidate(architecture=self._suggest_architecture(trial))
        for axis in (self.sparsity, self.bits, self.exits):
            if axis is not None:
                candidate = axis.refine(trial, candidate)
        return candidate

    def _suggest_architecture(self, trial: Suggester) -> Architecture:
        kind = Baseline.kind
        if len(self.architectures) > 1:
            kind = trial.suggest_categorical("architecture", self.architectures)
        if kind == Student.kind and self.students is not None:
            return self.students.suggest(trial)
        if kind == CellNetwork.kind and self.cells is not None:
            return self.cells.suggest(trial)
        if kind == StageNetwork.kind and self.stages is not None:
            return self.stages.suggest(trial)
        return Baseline()

    def landmarks(self) -> list[dict[str, Any]]:
        """Return the parameters of what everyone tries first, none of which trains anything.

        That is the baseline in float32 and float16, at every whole bit-width with 8-bit activations, all layers alike,
        and with as many bits spread as a budget.
        """
        rounded = sorted(self.bits.whole_bits, reverse=True) if self.bits is not None else []
        wanted = [Candidate(), Candidate(weight_bits=HALF_BITS)]
        wanted += [Candidate(weight_bits=bits, activation_bits=8) for bits in rounded]
        wanted += [replace(candidate, bit_allocation="budget") for candidate in wanted[2:]]
        return self._reached(wanted)

    def trained_landmarks(self) -> list[dict[str, Any]]:
        """Return the parameters of what a good engineer trains first: the model itself with less of one thing.

        That is fewer channels, fewer blocks, a lower resolution, as far as they are in the space, the mildest of each
        first, all with the model's own weights to start from. They are rounded to 4 bits, which cost next to nothing,
        or the fewest above that there are.
        """
        rounded = Candidate()
        if self.bits is not None and self.bits.whole_bits:
            bits = min(self.bits.whole_bits, key=lambda bits: (bits < _HARMLESS_BITS, abs(bits - _HARMLESS_BITS)))
            activations = 8 if 8 in self.bits.activations else self.bits.activations[0]
            allocation = "uniform" if "uniform" in self.bits.allocations else self.bits.allocations[0]
            rounded = Candidate(weight_bits=bits, activation_bits=activations, bit_allocation=allocation)
        by_turns = chain.from_iterable(zip_longest(*self._less_of_one_thing()))
        return self._reached(replace(rounded, **less) for less in by_turns if less)

    def _less_of_one_thing(self) -> Iterator[list[dict[str, Any]]]:
        """Yield, for each thing of which the model may have less, how it may: the mildest first."""
        if self.sparsity is not None:
            how = {"channel_importance": self.sparsity.importances[0], "channel_scope": self.sparsity.scopes[0]}
            yield [{"removed_channels": share, **how} for share in sorted(self.sparsity.removed_channels) if share]
        if self.students is not None and SHALLOWER in self.students.families:
            width, depth, resolution = (
                max(choices) for choices in (self.students.widths, self.students.depths, self.students.resolutions)
            )
            whole = Student(SHALLOWER, width, depth, resolution)
            depths, resolutions = (
                sorted(choices, reverse=True)[1:] for choices in (self.students.depths, self.students.resolutions)
            )
            yield [{"architecture": replace(whole, depth=share)} for share in depths]
            yield [{"architecture": replace(whole, resolution=share)} for share in resolutions]

    def _reached(self, wanted: Iterable[Candidate]) -> list[dict[str, Any]]:
        """Return the parameters of those candidates that are in the space, once where several mean the same file."""
        found: dict[Candidate, dict[str, Any]] = {}
        for candidate in wanted:
            preference = _Prefer(_preferences(candidate))
            if self.suggest(preference) == candidate:
                found.setdefault(candidate.canonical(), preference.parameters)
        return list(found.values())

    def network_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that decide which network is trained; the others decide how it is rounded and left."""
        return {name: value for name, value in parameters.items() if not name.startswith(_AFTER_TRAINING)}

    @property
    def has_followers(self) -> bool:
        """Whether candidates may share a trained network and still differ."""
        return self.bits is not None or self.exits is not None

    def follower_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a follower of a trained network has fixed: the network, and that no training comes after."""
        fixed = self.network_parameters(parameters)
        if self.bits is not None and len(self.bits.training) > 1:
            fixed["bits.training"] = "post"
        return fixed

    def siblings(self, parameters: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Candidate]]:
        """Yield every combination that shares its network with the given parameters, these included, and costs little.

        Training with rounded weights is dear, so that those who ask for it are no siblings.
        """
        for combination, candidate in self._visit(_Walk(fixed=self.network_parameters(parameters))):
            if candidate.bit_training == "post":
                yield combination, candidate

    def random_point(self, chance: Random) -> tuple[dict[str, Any], Candidate]:
        """Return one combination of parameters and its candidate, every choice drawn uniformly."""
        draw = Draw(chance)
        candidate = self.suggest(draw)
        return draw.parameters, candidate

    def points(self) -> Iterator[tuple[dict[str, Any], Candidate]]:
        """Yield every combination of parameters with its candidate, lazily and in a fixed order.

        Several combinations may mean the same candidate.
        """
        yield from self._visit(_Walk())

    def _visit(self, walk: _Walk) -> Iterator[tuple[dict[str, Any], Candidate]]:
        while True:
            candidate = self.suggest(walk)
            yield dict(walk.parameters), candidate
            if not walk.advance():
                return


def problem_of(candidate: Candidate) -> str | None:
    """Say why a candidate cannot be made at all, or None where it can."""
    architecture = candidate.architecture
    if isinstance(architecture, CellNetwork) and not architecture.genotype.is_connected():
        return "the cell has no path from its input to its output"
    return None


def _preferences(candidate: Candidate) -> dict[str, Any]:
    """Return the parameters of a candidate of the model itself or its own family, without exits or zeros."""
    architecture = candidate.architecture
    return {
        "architecture": architecture.kind,
        **{f"student.{name}": value for name, value in vars(architecture).items()},
        "sparsity.removed_channels": candidate.removed_channels,
        "sparsity.zeroed_weights": 0.0,
        "exit.depth": 0.0,
        "bits.weights": candidate.weight_bits,
        "bits.activations": candidate.activation_bits,
        "bits.allocation": candidate.bit_allocation,
        "bits.training": candidate.bit_training,
    }


class _Prefer:
    """A suggester that takes the preferred value where it may be chosen, and the first one otherwise."""

    def __init__(self, preferred: Mapping[str, Any]) -> None:
        self._preferred = preferred
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._preferred.get(name)
        self.parameters[name] = value if value in choices else choices[0]
        return self.parameters[name]


class _Walk:
    """A suggester that visits every branch of the space: an odometer over the choices that were asked for.

    What is fixed takes its one value throughout.
    """

    def __init__(self, fixed: Mapping[str, Any] | None = None) -> None:
        self._fixed = fixed or {}
        self._path: list[tuple[int, int]] = []
        self._position = 0
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._fixed:
            self.parameters[name] = self._fixed[name]
            return self._fixed[name]
        if self._position == len(self._path):
            self._path.append((0, len(choices)))
        index, _ = self._path[self._position]
        self._position += 1
        self.parameters[name] = choices[index]
        return choices[index]

    def advance(self) -> bool:
        """Move to the next combination; False where all have been visited."""
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if not self._path:
            return False
        index, count = self._path[-1]
        self._path[-1] = (index + 1, count)
        self._position = 0
        self.parameters = {}
        return True
