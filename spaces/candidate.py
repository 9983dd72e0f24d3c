"""One point of the search space: frozen data, JSON-able, with a canonical key.

A candidate is what the axes chose. What a choice means, how it is said and when it takes effect, its axis knows
(:class:`~karui.spaces.axes.axis.Axis`); here they are asked, one after the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from .architectures import Architecture, Baseline
from .axis_registry import AXES
from .bit_names import FLOAT_BITS, MOST_BITS_BESIDE_INT8, BitAllocation, BitTraining
from .build_stage import BuildStage
from .sparsity_names import ChannelImportance, ChannelScope, ZeroingTime, ZeroPattern

__all__ = [
    "FLOAT_BITS",
    "MOST_BITS_BESIDE_INT8",
    "Architecture",
    "Baseline",
    "BitAllocation",
    "BitTraining",
    "BuildStage",
    "Candidate",
]

Plain = str | int | float | bool
"""What an axis of another package may choose."""

_KINDS: dict[type, type | tuple[type, ...]] = {float: (int, float), int: (int, float), str: str}
"""What a field may hold, by what it holds where it is left out."""


@dataclass(frozen=True)
class Candidate:
    """One combination of what the axes choose.

    Args:
        architecture: Which network is made.
        removed_channels: Fraction of channels removed for good, in [0, 1).
        channel_importance: By what the channels that stay are chosen.
        channel_scope: ``layer`` where every layer loses that fraction, ``global`` where all layers compete.
        zeroed_weights: Fraction of the remaining weights set to zero, in [0, 1).
        zero_pattern: ``free``, or ``n:m`` where of every m weights in a row at most n are not zero.
        zeroing: ``gradual`` while recovering, or ``one_shot`` afterwards, the other weights making good the error.
        weight_bits: 2 to 8, 16 for float16, or 32 for float32; under ``budget`` the mean.
        bit_allocation: How these bits are spread over the layers.
        group_bits: Under ``groups``, the bits of each run of layers.
        activation_bits: 8, or 32 for float32.
        bit_training: ``post``, or ``aware`` where the rounded network is trained.
        exit_depth: Share of the multiply-adds before an early exit, in (0, 1); 0 for no exit.
        exit_threshold: Confidence above which the exit is taken, in (0, 1).
        epochs_factor: How many times the study's epochs each of its trainings takes: 1 while the study is searched,
            more where the front is trained anew at its end.
        further: What axes of other packages chose, name and value each, in the order of the names.
    """

    architecture: Architecture = field(default_factory=Baseline)
    removed_channels: float = 0.0
    channel_importance: ChannelImportance = "magnitude"
    channel_scope: ChannelScope = "layer"
    zeroed_weights: float = 0.0
    zero_pattern: ZeroPattern = "free"
    zeroing: ZeroingTime = "gradual"
    weight_bits: float = FLOAT_BITS
    bit_allocation: BitAllocation = "uniform"
    group_bits: tuple[int, ...] = ()
    activation_bits: int = FLOAT_BITS
    bit_training: BitTraining = "post"
    exit_depth: float = 0.0
    exit_threshold: float = 0.0
    epochs_factor: int = 1
    further: tuple[tuple[str, Plain], ...] = ()

    def chosen(self, name: str, default: Plain = "") -> Plain:
        """Return what an axis of another package chose under a name; the default where it chose nothing."""
        return dict(self.further).get(name, default)

    def choosing(self, name: str, value: Plain | None) -> Self:
        """Return the candidate for which an axis of another package chose this; None for nothing."""
        others = {known: chosen for known, chosen in self.further if known != name}
        return replace(self, further=tuple(sorted((others if value is None else {**others, name: value}).items())))

    def canonical(self) -> Candidate:
        """Return the one representative of all candidates that mean the same file.

        What a choice does not touch takes its default, what means the same is written the same: each axis says so of
        its own. What is not trained is trained for no more epochs either.
        """
        candidate: Candidate = self
        for axis in AXES.all.values():
            candidate = axis.canonical(candidate)
        if candidate.epochs_factor != 1 and not candidate.is_trained:
            candidate = replace(candidate, epochs_factor=1)
        return candidate

    def through(self, stage: BuildStage) -> Candidate:
        """Return the canonical candidate that has been made once a stage is over: what is chosen for later is undone.

        Its key tells what the stages so far make from what they make of others.
        """
        candidate: Candidate = self
        for axis in AXES.all.values():
            candidate = axis.through(candidate, stage)
        return candidate.canonical()

    def starting_from(self, other: Candidate) -> Candidate:
        """Return the candidate with the network that another one starts from, before any training."""
        candidate: Candidate = replace(self, architecture=other.architecture)
        for axis in AXES.all.values():
            candidate = axis.starting_from(candidate, other)
        return candidate

    @property
    def is_trained(self) -> bool:
        """Whether its file takes any training: all do but those of the baseline's own weights."""
        once = replace(self, epochs_factor=1)
        return network_of(once) != Candidate() or any(axis.trains(once) for axis in AXES.all.values())

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, equal for candidates that mean the same file."""
        text = json.dumps(self.canonical().to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        defaults = {each.name: each.default for each in fields(self) if each.name not in _ALWAYS_WRITTEN}
        plain = {name: value for name, value in vars(self).items() if name not in defaults or value != defaults[name]}
        plain["architecture"] = {"kind": self.architecture.kind, **self.architecture.to_dict()}
        if "further" in plain:
            plain["further"] = dict(self.further)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Candidate:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: On an unknown kind of architecture, or another value
                than such a candidate has.
        """
        others = dict(plain)
        architecture = others.pop("architecture")
        if "group_bits" in others:
            others["group_bits"] = tuple(others["group_bits"])
        if "further" in others:
            others["further"] = _read_further(others["further"])
        found = cls(architecture=_read_architecture(architecture), **others)
        for each in fields(found):
            value, expected = getattr(found, each.name), _KINDS.get(type(each.default))
            if expected is not None and (isinstance(value, bool) or not isinstance(value, expected)):
                raise ValueError(f"{each.name}: {value!r} is none that a candidate has")
        if not all(isinstance(bits, int) for bits in found.group_bits):
            raise ValueError(f"group_bits: {found.group_bits!r} are no bits")
        return found

    def describe(self) -> str:
        """Return a short text for tables and plots, such as ``baseline, -50 % channels, w4 a8``."""
        words = [word for axis in AXES.all.values() for word in axis.describe(self)]
        longer = [f"{self.epochs_factor}x epochs"] if self.epochs_factor != 1 else []
        return ", ".join([self.architecture.describe(), *words, *longer])

    def as_made(self, notes: Sequence[str]) -> Candidate:
        """Return what came of it, told by the notes of how it was made: to be described, not to be made again."""
        candidate: Candidate = self
        for axis in AXES.all.values():
            candidate = axis.as_made(candidate, notes)
        return candidate

    def describe_made(self, notes: Sequence[str]) -> str:
        """Return a short text of what came of it, and of what was asked for where that is something else."""
        asked, made = (each.describe().split(", ") for each in (self, self.as_made(notes)))
        others = [words for words in asked if words not in made]
        return ", ".join(made) + (f" (asked: {', '.join(others)})" if others else "")


def network_of(candidate: Candidate) -> Candidate:
    """Return the candidate whose file is the trained network itself: not rounded, zeroed or left early afterwards."""
    return candidate.through(BuildStage.TRAINING)


_ALWAYS_WRITTEN = frozenset({"architecture", "removed_channels", "zeroed_weights", "weight_bits", "activation_bits"})
"""Fields that :meth:`Candidate.to_dict` never leaves out: the others came later, and left out at their defaults they
keep the keys of results from before."""


def _read_architecture(plain: dict[str, Any]) -> Architecture:
    others = dict(plain)
    kind = others.pop("kind")
    if kind == Baseline.kind:
        return Baseline()
    for axis in AXES.all.values():
        if getattr(axis, "kind", None) == kind:
            found: Architecture = axis.read(others)
            return found
    raise ValueError(f"unknown kind of architecture: {kind!r}")


def _read_further(plain: dict[str, Any]) -> tuple[tuple[str, Plain], ...]:
    for name, value in plain.items():
        if not isinstance(value, Plain):
            raise ValueError(f"{name}: {value!r} is nothing that an axis chooses")
    return tuple(sorted(plain.items()))
