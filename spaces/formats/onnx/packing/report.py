"""What packing did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackedTensor:
    """One weight that is stored packed.

    Args:
        name: Its name in the unpacked file.
        bits: Bits of each stored value; 16 for float16 values, 32 for float32 ones.
        sparse: Whether it is stored as a mask and its non-zeros.
        elements: How many elements it has, zeros included.
    """

    name: str
    bits: int
    sparse: bool
    elements: int


@dataclass(frozen=True)
class PackingReport:
    """How much smaller a file became.

    Args:
        bytes_before: Size of the source file.
        bytes_after: Size of the written file, never larger.
        tensors: The packed weights; empty where packing would not have made the file smaller.
        unpacked_because: Why no weight could be packed, where the file's form and not its size forbade it; else empty.
    """

    bytes_before: int
    bytes_after: int
    tensors: tuple[PackedTensor, ...]
    unpacked_because: str = ""
