"""Unpacking by shifts: the fewest bytes of nodes, for weights whose temporaries at load do not matter.

It needs ``BitwiseAnd``, and at load a dozen bytes of temporaries per element, twenty where weights are sparse.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .bits import PLANES, pack_planes, plane_shifts
from .chain import Chain


def unpack_signed(chain: Chain, values: np.ndarray, bits: int) -> str:
    """Add int8 values of so many bits, flat or in rows, padded, and return their name.

    They are stored with an offset that makes them unsigned. It is taken away in int32, whose subtraction every
    version of the runtime has; a sign extension in uint8 takes three times the nodes and twice the time.
    """
    offset = 1 << (bits - 1)
    codes = values.view(np.uint8) + np.uint8(offset)
    wide = chain.add("Cast", _unpack_codes(chain, codes, bits), to=TensorProto.INT32)
    shifted = chain.add("Sub", wide, chain.constant(np.array(offset, dtype=np.int32)))
    return chain.add("Cast", shifted, to=TensorProto.INT8)


def spread(chain: Chain, stored: str, mask: np.ndarray) -> str:
    """Add a mask that says where the stored values go, and return the name of the result, flat and padded.

    The index of an element is its rank among the non-zeros, or 0: CumSum(mask) * mask.

    Args:
        chain: Where nodes and initializers go.
        stored: Name of a zero followed by the non-zeros, flat.
        mask: bool, shape (n,).
    """
    codes = chain.reshape(_unpack_codes(chain, mask.view(np.uint8), 1), -1)
    ones = chain.add("Cast", codes, to=TensorProto.INT32)
    count = chain.add("CumSum", ones, chain.constant(np.array(0, dtype=np.int64)))
    # Of single values, ``GatherElements`` takes a seventh of the time of ``Gather``.
    return chain.add("GatherElements", stored, chain.add("Mul", count, ones))


def _unpack_codes(chain: Chain, codes: np.ndarray, bits: int) -> str:
    """Add uint8 codes below 2**bits: each byte is spread over a row, then the planes, if several, are joined flat."""
    joined = ""
    low = bits
    for width, packed in zip(PLANES[bits], pack_planes(codes, bits), strict=True):
        low -= width
        column = chain.constant(packed.reshape(-1, 1))
        spread_bits = chain.add("BitShift", column, chain.constant(plane_shifts(width)), direction="RIGHT")
        plane = chain.add("BitwiseAnd", spread_bits, chain.constant(np.array((1 << width) - 1, dtype=np.uint8)))
        if len(PLANES[bits]) > 1:
            plane = chain.reshape(plane, -1)
        if low:
            plane = chain.add("BitShift", plane, chain.constant(np.array(low, dtype=np.uint8)), direction="LEFT")
        joined = chain.add("BitwiseOr", joined, plane) if joined else plane
    return joined
