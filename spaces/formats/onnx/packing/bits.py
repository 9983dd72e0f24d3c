"""Integers of 1 to 8 bits packed into bytes, as bit planes whose widths divide a byte."""

from __future__ import annotations

import numpy as np

_CHUNK_ELEMENTS = 1 << 20

PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""Widths of the planes of each bit-width, most significant first."""


def fewest_bits(values: np.ndarray) -> int:
    """Return the fewest bits, 1 to 8, whose two's complement range holds every int8 value."""
    smallest, largest = int(values.min(initial=0)), int(values.max(initial=0))
    return next(bits for bits in range(1, 9) if -(1 << (bits - 1)) <= smallest and largest < 1 << (bits - 1))


def padded_length(length: int, bits: int) -> int:
    """Return the length at which every plane fills whole bytes."""
    multiple = 8 // min(PLANES[bits])
    return -(-length // multiple) * multiple


def pack_planes(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """Pack unsigned codes into one uint8 array per plane, most significant plane first.

    Element i of a plane of k bits lies in byte i * k // 8, at bits (i * k) % 8 and above.

    Args:
        codes: uint8, shape (n,), each below 2**bits; padded with zeros to ``padded_length(n, bits)``.
        bits: 1 to 8.

    Returns:
        Per plane, shape (padded n * k // 8,).
    """
    length = padded_length(len(codes), bits)
    planes = [np.empty(length * width // 8, dtype=np.uint8) for width in PLANES[bits]]
    # Chunk by chunk, or the temporaries of a large weight would take several times its own memory.
    for begin in range(0, len(codes), _CHUNK_ELEMENTS):
        chunk = codes[begin : begin + _CHUNK_ELEMENTS]
        padded = np.zeros(padded_length(len(chunk), bits), dtype=np.uint8)
        padded[: len(chunk)] = chunk
        low = bits
        for width, plane in zip(PLANES[bits], planes, strict=True):
            low -= width
            part = (padded >> low) & ((1 << width) - 1)
            lanes = part.reshape(-1, 8 // width) << plane_shifts(width)
            first = begin * width // 8
            plane[first : first + len(lanes)] = np.bitwise_or.reduce(lanes, axis=1)
    return planes


def plane_shifts(width: int) -> np.ndarray:
    """Return by how many bits each element of a byte is shifted, uint8, shape (8 // width,)."""
    return np.arange(0, 8, width, dtype=np.uint8)
