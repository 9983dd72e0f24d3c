"""One point of the search space: frozen data, JSON-able, with a canonical key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .cells.genotype import CellGenotype

FLOAT_BITS = 32
"""The bit-width that stands for "left in float32"."""


MOST_BITS_BESIDE_INT8 = 7
"""Most bits of a weight beside 8-bit activations, so that every processor computes the same.

Without VNNI instructions, x86 adds two products of uint8 and int8 in 16 bits, saturating: 255 * (64 + 64) fits,
255 * (127 + 127) does not. Weights of 8 bits made a small network's outputs wrong by 20 %, those of 7 bits by 3 %
and exactly as the float computation of the same graph."""


@dataclass(frozen=True)
class Baseline:
    """The user's own network, as it came."""

    kind = "baseline"


@dataclass(frozen=True)
class Student:
    """A smaller network that learns from the baseline.

    Args:
        family: ``shallower`` (the baseline with fewer blocks and channels) or the name of a torchvision family.
        width: Fraction of the family's channels kept, in (0, 1] (torchvision's own multipliers may exceed 1).
        depth: Fraction of the repeated blocks of each stage kept, in (0, 1]; 1 for torchvision families.
    """

    family: str
    width: float
    depth: float = 1.0

    kind = "student"


@dataclass(frozen=True)
class CellNetwork:
    """A network stacked from one NAS cell.

    Args:
        genotype: The cell.
        channels: Channels of the first stage; each later stage doubles them.
        cells_per_stage: Cells stacked in each stage.
    """

    genotype: CellGenotype
    channels: int
    cells_per_stage: int

    kind = "cell"


Architecture = Baseline | Student | CellNetwork


@dataclass(frozen=True)
class Candidate:
    """One combination of architecture, sparsity and bit-width.

    Args:
        architecture: Which network is made.
        removed_channels: Fraction of channels removed for good, in [0, 1).
        zeroed_weights: Fraction of the remaining weights set to zero, in [0, 1).
        weight_bits: 1 to 8, or 32 for float32.
        activation_bits: 8, or 32 for float32.
    """

    architecture: Architecture = field(default_factory=Baseline)
    removed_channels: float = 0.0
    zeroed_weights: float = 0.0
    weight_bits: int = FLOAT_BITS
    activation_bits: int = FLOAT_BITS

    def canonical(self) -> Candidate:
        """Return the one representative of all candidates that mean the same file.

        Four rules: activations stay float32 where weights do; beside 8-bit activations weights have at most
        :data:`MOST_BITS_BESIDE_INT8` bits; a "shallower" student of full depth is the baseline
        with its channels removed, unless more channels are removed from it afterwards; a cell is its normal form (see
        :meth:`CellGenotype.canonical`). Whole numbers given for fractions become floats, which JSON tells apart.
        """
        candidate = replace(
            self, removed_channels=float(self.removed_channels), zeroed_weights=float(self.zeroed_weights)
        )
        if candidate.weight_bits == FLOAT_BITS:
            candidate = replace(candidate, activation_bits=FLOAT_BITS)
        elif candidate.activation_bits != FLOAT_BITS:
            candidate = replace(candidate, weight_bits=min(candidate.weight_bits, MOST_BITS_BESIDE_INT8))
        architecture = candidate.architecture
        if isinstance(architecture, Student):
            architecture = replace(architecture, width=float(architecture.width), depth=float(architecture.depth))
            candidate = replace(candidate, architecture=architecture)
            if architecture.family == "shallower" and architecture.depth == 1.0 and not candidate.removed_channels:
                removed = round(1.0 - architecture.width, 6)
                candidate = replace(candidate, architecture=Baseline(), removed_channels=removed)
        elif isinstance(architecture, CellNetwork):
            canonical_cell = replace(architecture, genotype=architecture.genotype.canonical())
            candidate = replace(candidate, architecture=canonical_cell)
        return candidate

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, equal for candidates that mean the same file."""
        text = json.dumps(self.canonical().to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        plain = asdict(self)
        plain["architecture"] = {"kind": self.architecture.kind, **plain["architecture"]}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Candidate:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: On an unknown kind of architecture.
        """
        fields = dict(plain)
        architecture = dict(fields.pop("architecture"))
        kind = architecture.pop("kind")
        if kind == Baseline.kind:
            return cls(architecture=Baseline(), **fields)
        if kind == Student.kind:
            return cls(architecture=Student(**architecture), **fields)
        if kind == CellNetwork.kind:
            genotype = CellGenotype.from_dict(architecture.pop("genotype"))
            return cls(architecture=CellNetwork(genotype=genotype, **architecture), **fields)
        raise ValueError(f"unknown kind of architecture: {kind!r}")

    def describe(self) -> str:
        """Return a short text for tables and plots, such as ``baseline, -50 % channels, w4 a8``."""
        return ", ".join([_describe_architecture(self.architecture), *self._describe_compression()])

    def _describe_compression(self) -> list[str]:
        words = []
        if self.removed_channels:
            words.append(f"-{self.removed_channels:.0%} channels")
        if self.zeroed_weights:
            words.append(f"{self.zeroed_weights:.0%} zeros")
        if self.weight_bits == FLOAT_BITS:
            words.append("float32")
        else:
            words.append(f"w{self.weight_bits} a{self.activation_bits}")
        return words


def _describe_architecture(architecture: Architecture) -> str:
    if isinstance(architecture, Student):
        words = f"{architecture.family} x{architecture.width:g}"
        return words if architecture.depth == 1.0 else f"{words}, depth {architecture.depth:g}"
    if isinstance(architecture, CellNetwork):
        return f"cell {architecture.channels}ch x{architecture.cells_per_stage} [{architecture.genotype.text()}]"
    return "baseline"
