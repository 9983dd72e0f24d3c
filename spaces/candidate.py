"""One point of the search space: frozen data, JSON-able, with a canonical key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from .architectures import (
    Architecture,
    Baseline,
    CellNetwork,
    Student,
    describe_architecture,
    plain_architecture,
    read_architecture,
)
from .sparsity.names import ChannelImportance, ChannelScope, ZeroingTime, ZeroPattern

__all__ = [
    "FLOAT_BITS",
    "MOST_BITS_BESIDE_INT8",
    "Architecture",
    "Baseline",
    "BitAllocation",
    "BitTraining",
    "Candidate",
    "CellNetwork",
    "Student",
]

FLOAT_BITS = 32
"""The bit-width that stands for "left in float32"."""

HALF_BITS = 16
"""The bit-width that stands for weights stored as float16, which compute as float32."""

FLOATING_BITS = (HALF_BITS, FLOAT_BITS)
"""Bit-widths of weights that stay floating: nothing is rounded to integers."""

BitAllocation = Literal["uniform", "budget", "groups"]
"""How bits are spread over the layers; see :class:`~karui.spaces.quantization.axis.BitsAxis`."""

BitTraining = Literal["post", "aware"]
"""Whether weights are rounded after training, or training goes on with rounded weights."""

MOST_BITS_BESIDE_INT8 = 7
"""Most bits of a weight beside 8-bit activations, so that every processor computes the same.

Without VNNI instructions, x86 adds two products of uint8 and int8 in 16 bits, saturating: 255 * (64 + 64) fits,
255 * (127 + 127) does not. Weights of 8 bits made a small network's outputs wrong by 20 %, those of 7 bits by 3 %
and exactly as the float computation of the same graph."""


_KINDS: dict[type, type | tuple[type, ...]] = {float: (int, float), int: (int, float), str: str}
"""What a field may hold, by what it holds where it is left out."""


@dataclass(frozen=True)
class Candidate:
    """One combination of architecture, sparsity, bit-width and early exit.

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

    def canonical(self) -> Candidate:
        """Return the one representative of all candidates that mean the same file.

        What a choice does not touch takes its default: how bits are spread and trained where weights stay floating, how
        channels or zeros are chosen where there are none, when an exit is taken where there is none. Beside 8-bit
        activations weights have at most :data:`MOST_BITS_BESIDE_INT8` bits, and where all have the most that they can,
        none are spread; where rounded weights are trained, zeros come gradually; a "shallower" student of full depth
        and resolution is the baseline with its channels removed, unless more channels are removed from it afterwards; a
        cell is its normal form (see :meth:`CellGenotype.canonical`). What is not trained is trained for no more epochs
        either. Whole numbers given for fractions become floats, and bits become whole where they are, since JSON tells
        them apart.
        """
        return _plain_epochs(_plain_exit(_plain_sparsity(_plain_bits(_plain_architecture(self)))))

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, equal for candidates that mean the same file."""
        text = json.dumps(self.canonical().to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        defaults = {each.name: each.default for each in fields(self) if each.name in _LEFT_OUT_BY_DEFAULT}
        plain = {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}
        plain["architecture"] = plain_architecture(self.architecture)
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
        found = cls(architecture=read_architecture(architecture), **others)
        for each in fields(found):
            value, expected = getattr(found, each.name), _KINDS.get(type(each.default))
            if expected is not None and (isinstance(value, bool) or not isinstance(value, expected)):
                raise ValueError(f"{each.name}: {value!r} is none that a candidate has")
        if not all(isinstance(bits, int) for bits in found.group_bits):
            raise ValueError(f"group_bits: {found.group_bits!r} are no bits")
        return found

    def describe(self) -> str:
        """Return a short text for tables and plots, such as ``baseline, -50 % channels, w4 a8``."""
        return ", ".join([describe_architecture(self.architecture), *self._describe_compression()])

    def _describe_compression(self) -> list[str]:
        words = []
        if self.removed_channels:
            how: list[str] = [self.channel_importance] if self.channel_importance != "magnitude" else []
            how += ["global"] if self.channel_scope == "global" else []
            words.append(" ".join([f"-{self.removed_channels:.0%} channels", *how]))
        if self.zeroed_weights:
            pattern = [] if self.zero_pattern == "free" else [self.zero_pattern]
            once = ["one-shot"] if self.zeroing == "one_shot" else []
            words.append(" ".join([f"{self.zeroed_weights:.0%} zeros", *pattern, *once]))
        early = [f"exit {self.exit_depth:g} > {self.exit_threshold:g}"] if self.exit_depth else []
        longer = [f"{self.epochs_factor}x epochs"] if self.epochs_factor != 1 else []
        return [*words, self._describe_bits(), *early, *longer]

    def _describe_bits(self) -> str:
        if self.weight_bits == FLOAT_BITS:
            return "float32"
        if self.weight_bits == HALF_BITS:
            return "float16"
        bits = "w" + "-".join(map(str, self.group_bits)) if self.group_bits else f"w{self.weight_bits:g}"
        how = " budget" if self.bit_allocation == "budget" else ""
        trained = " aware" if self.bit_training == "aware" else ""
        return f"{bits}{how} a{self.activation_bits}{trained}"


def network_of(candidate: Candidate) -> Candidate:
    """Return the candidate whose file is the trained network itself: not rounded, zeroed or left early afterwards."""
    return replace(
        candidate,
        zeroed_weights=candidate.zeroed_weights if candidate.zeroing == "gradual" else 0.0,
        weight_bits=FLOAT_BITS,
        bit_training="post",
        exit_depth=0.0,
    ).canonical()


_LEFT_OUT_BY_DEFAULT = frozenset(
    {
        "channel_importance",
        "channel_scope",
        "zero_pattern",
        "zeroing",
        "bit_allocation",
        "group_bits",
        "bit_training",
        "exit_depth",
        "exit_threshold",
        "epochs_factor",
    }
)
"""Fields that :meth:`Candidate.to_dict` leaves out at their defaults: results from before they existed keep keys."""


def _plain_architecture(candidate: Candidate) -> Candidate:
    candidate = replace(candidate, removed_channels=float(candidate.removed_channels))
    architecture = candidate.architecture
    if isinstance(architecture, Student):
        architecture = architecture.in_floats()
        candidate = replace(candidate, architecture=architecture)
        is_whole = architecture.depth == 1.0 and architecture.resolution == 1.0
        if architecture.family == "shallower" and is_whole and not candidate.removed_channels:
            removed = round(1.0 - architecture.width, 6)
            candidate = replace(candidate, architecture=Baseline(), removed_channels=removed)
    elif isinstance(architecture, CellNetwork):
        canonical_cell = replace(architecture, genotype=architecture.genotype.canonical())
        candidate = replace(candidate, architecture=canonical_cell)
    return candidate


def _plain_sparsity(candidate: Candidate) -> Candidate:
    candidate = replace(candidate, zeroed_weights=float(candidate.zeroed_weights))
    if not candidate.removed_channels:
        candidate = replace(candidate, channel_importance="magnitude", channel_scope="layer")
    if not candidate.zeroed_weights:
        candidate = replace(candidate, zero_pattern="free", zeroing="gradual")
    if candidate.bit_training == "aware":
        candidate = replace(candidate, zeroing="gradual")
    return candidate


def _plain_bits(candidate: Candidate) -> Candidate:
    if candidate.weight_bits in FLOATING_BITS:
        return replace(
            candidate,
            weight_bits=int(candidate.weight_bits),
            bit_allocation="uniform",
            group_bits=(),
            activation_bits=FLOAT_BITS,
            bit_training="post",
        )
    most = MOST_BITS_BESIDE_INT8 if candidate.activation_bits != FLOAT_BITS else 8
    groups = tuple(min(bits, most) for bits in candidate.group_bits)
    bits = max(groups) if groups else min(candidate.weight_bits, most)
    bits = int(bits) if bits == int(bits) else bits
    if bits == most and set(groups) <= {most}:
        # Nothing is left to spread: every layer has as many as there can be.
        return replace(candidate, weight_bits=bits, bit_allocation="uniform", group_bits=())
    return replace(candidate, weight_bits=bits, group_bits=groups)


def _plain_exit(candidate: Candidate) -> Candidate:
    depth = float(candidate.exit_depth)
    return replace(candidate, exit_depth=depth, exit_threshold=float(candidate.exit_threshold) if depth else 0.0)


def _plain_epochs(candidate: Candidate) -> Candidate:
    if candidate.epochs_factor == 1 or candidate.bit_training == "aware":
        return candidate
    is_trained = network_of(replace(candidate, epochs_factor=1)) != Candidate()
    return candidate if is_trained else replace(candidate, epochs_factor=1)
