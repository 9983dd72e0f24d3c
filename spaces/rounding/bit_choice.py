"""The bits of one candidate, as quantization takes them."""

from __future__ import annotations

from dataclasses import dataclass

from ..bit_names import FEWEST_BITS, FLOAT_BITS, MOST_BITS, MOST_BITS_BESIDE_INT8, BitAllocation


@dataclass(frozen=True)
class BitChoice:
    """The bits of one candidate.

    Args:
        weight_bits: 2 to 8; under ``budget`` the mean, which need not be whole.
        activation_bits: 8 for uint8 activations in QDQ form, 32 to leave them float32. Under uint8 activations no
            weight takes more than 7 bits, the last of 8 being lost to saturation on many processors.
        allocation: How these bits are spread over the layers.
        group_bits: Under ``groups``, the bits of each run of layers.

    Raises:
        ValueError: Where the bits have no meaning.
    """

    weight_bits: float
    activation_bits: int = FLOAT_BITS
    allocation: BitAllocation = "uniform"
    group_bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.group_bits):
            if not FEWEST_BITS <= bits <= MOST_BITS:
                raise ValueError(f"weight_bits must be within {FEWEST_BITS}..{MOST_BITS}, got {bits}")
        if self.activation_bits not in (8, FLOAT_BITS):
            raise ValueError(f"activation_bits must be 8 or 32, got {self.activation_bits}")
        if self.allocation != "budget" and self.weight_bits != int(self.weight_bits):
            raise ValueError(f"weight_bits must be whole unless they are a budget, got {self.weight_bits}")
        if (self.allocation == "groups") != bool(self.group_bits):
            raise ValueError(f"group_bits go with the allocation 'groups', got {self.group_bits}, {self.allocation!r}")

    @property
    def most_bits(self) -> int:
        """Most bits that a weight may take beside these activations."""
        return MOST_BITS_BESIDE_INT8 if self.activation_bits == MOST_BITS else MOST_BITS
