"""Unpacking by tables of what each of the 256 bytes holds: for large weights, and where no bitwise operator exists.

A table takes up to 2 KB of the file. At load, temporaries take about 4 bytes per element of 4 bits, and 15 per element
of sparse weights. All of them live until every constant is folded: cutting weights would not make them fewer.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .bits import PLANES, pack_planes, plane_shifts
from .chain import Chain


def unpack_signed(chain: Chain, values: np.ndarray, bits: int) -> str:
    """Add int8 values of so many bits, in two's complement, and return their name, flat or in rows, padded."""
    codes = values.view(np.uint8) & np.uint8((1 << bits) - 1)
    # Planes are joined by "or" where int8 knows it; else by addition, which int32 knows in every version.
    joins = "BitwiseOr" if chain.bitwise else "Add"
    several = len(PLANES[bits]) > 1
    joined = ""
    low = bits
    # Indices in int32 take half the memory of those in int64, and ``Gather`` knows both.
    for width, packed in zip(PLANES[bits], pack_planes(codes, bits), strict=True):
        low -= width
        table = chain.constant(plane_table(width, low, signed=low + width == bits))
        if several and not chain.bitwise:
            table = chain.add("Cast", table, to=TensorProto.INT32)
        plane = chain.add("Gather", table, chain.add("Cast", chain.constant(packed), to=TensorProto.INT32))
        if several:
            plane = chain.reshape(plane, -1)
        joined = chain.add(joins, joined, plane) if joined else plane
    return joined if chain.bitwise or not several else chain.add("Cast", joined, to=TensorProto.INT8)


def spread(chain: Chain, stored: str, length: int, mask: np.ndarray) -> str:
    """Add a mask that says where the stored values go, and return the name of the result, in rows of 8, padded.

    The rank of a non-zero is the count of non-zeros in the bytes before, which a sum over an eighth of the elements
    gives, and its rank within its byte, which a table gives. For a zero, the table gives what leads behind the stored
    values, where there are only zeros: nothing of the size of the weights need be multiplied by the mask.

    Args:
        chain: Where nodes and initializers go.
        stored: Name of a zero followed by the non-zeros, flat.
        length: Its length, padding included.
        mask: bool, shape (n,).
    """
    (packed,) = pack_planes(mask.view(np.uint8), 1)
    indices = chain.add("Cast", chain.constant(packed), to=TensorProto.INT32)
    ranks = chain.constant(rank_table())
    counts = chain.add("Gather", chain.constant(rank_table().max(axis=1, keepdims=True)), indices)
    start = chain.constant(np.array(0, dtype=np.int64))
    before = chain.add("CumSum", chain.add("Cast", counts, to=TensorProto.INT32), start, exclusive=1)
    nonzero, wide = (chain.add("Cast", ranks, to=to) for to in (TensorProto.BOOL, TensorProto.INT32))
    table = chain.add("Where", nonzero, wide, chain.constant(np.array(length, dtype=np.int32)))
    rank = chain.add("Add", before, chain.add("Gather", table, indices))
    pads = chain.constant(np.array([0, np.count_nonzero(mask) + 1], dtype=np.int64))
    # ``GatherElements`` would be faster, but needs the ranks flat: another 4 bytes per element.
    return chain.add("Gather", chain.add("Pad", stored, pads), rank)


def plane_table(width: int, low: int, *, signed: bool) -> np.ndarray:
    """Return what the elements of a plane in each byte are worth, int8, shape (256, 8 // width).

    Args:
        width: Bits of an element of the plane.
        low: Bits of the planes below it.
        signed: Whether its highest bit is the sign.
    """
    codes = (np.arange(256)[:, None] >> plane_shifts(width)) & ((1 << width) - 1)
    if signed:
        codes = np.where(codes >> (width - 1), codes - (1 << width), codes)
    table: np.ndarray = (codes << low).astype(np.int8)
    return table


def rank_table() -> np.ndarray:
    """Return the rank, from 1, of each bit of each byte among those that are set, or 0, int8, shape (256, 8)."""
    bits = (np.arange(256)[:, None] >> plane_shifts(1)) & 1
    table: np.ndarray = (np.cumsum(bits, axis=1) * bits).astype(np.int8)
    return table
