"""The ONNX nodes that unpack weights; ONNX Runtime folds all of them when it loads the file.

What it does not fold, and what is therefore not used: ``NonZero``, ``ScatterElements``, ``DequantizeLinear``.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from . import bit_shifts, lookups
from .bits import padded_length
from .chain import Chain

FEWEST_LOOKUP_ELEMENTS = 2_000_000
"""From here on tables are worth their bytes, at most 2.5 KB: they halve the time and the memory that a load takes."""


def add_dense(chain: Chain, tensors: dict[str, np.ndarray], bits: int) -> None:
    """Store int8 tensors in so many bits each, and add the nodes that give them back under their names.

    Args:
        chain: Where nodes and initializers go.
        tensors: By the name that the rest of the graph knows them by; of any shape that is not empty.
        bits: 1 to 8, enough for every value.
    """
    values = _flat(tensors)
    unpack = lookups.unpack_signed if _by_lookup(chain, len(values)) else bit_shifts.unpack_signed
    _distribute(chain, unpack(chain, values, bits), padded_length(len(values), bits), tensors)


def add_sparse(chain: Chain, tensors: dict[str, np.ndarray], bits: int) -> None:
    """Store int8, float16 or float32 tensors as one bit of mask each and non-zeros; see :func:`add_dense`.

    Of float16, no value may be NaN: the runtime puts values in place as float32, which tells not all of those apart.
    """
    values = _flat(tensors)
    mask = nonzero_mask(values)
    # The zero in front is what every masked element points at where weights are unpacked by shifts.
    stored = np.concatenate([np.zeros(1, dtype=values.dtype), values[mask]])
    by_lookup = _by_lookup(chain, len(values))
    if values.dtype != np.int8 or bits == 8:
        found, length = chain.constant(stored), len(stored)
        if values.dtype == np.float16:
            found = chain.add("Cast", found, to=TensorProto.FLOAT)
    else:
        unpack = lookups.unpack_signed if by_lookup else bit_shifts.unpack_signed
        found, length = chain.reshape(unpack(chain, stored, bits), -1), padded_length(len(stored), bits)
    unpacked = lookups.spread(chain, found, length, mask) if by_lookup else bit_shifts.spread(chain, found, mask)
    if values.dtype == np.float16:
        unpacked = chain.add("Cast", unpacked, to=TensorProto.FLOAT16)
    _distribute(chain, unpacked, padded_length(len(values), 1), tensors)


def nonzero_mask(values: np.ndarray) -> np.ndarray:
    """Return where values differ, bit for bit, from zero; -0.0 counts as different, for packing loses nothing."""
    mask: np.ndarray = values.view(f"i{values.itemsize}") != 0
    return mask


def _flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    flat = [tensor.ravel() for tensor in tensors.values()]
    return np.concatenate(flat) if len(flat) > 1 else flat[0]


def _by_lookup(chain: Chain, elements: int) -> bool:
    return elements >= FEWEST_LOOKUP_ELEMENTS or not chain.bitwise


def _distribute(chain: Chain, unpacked: str, length: int, tensors: dict[str, np.ndarray]) -> None:
    """Cut an unpacked tensor, in rows or flat, into the named ones, shape by shape; what is left over is padding."""
    sizes = [tensor.size for tensor in tensors.values()]
    if length > sum(sizes):
        sizes.append(length - sum(sizes))
    parts = [unpacked]
    if len(sizes) > 1:
        parts = [chain.fresh_name() for _ in sizes]
        for position, (name, tensor) in enumerate(tensors.items()):
            parts[position] = name if tensor.ndim == 1 else parts[position]
        flat, lengths = chain.reshape(unpacked, -1), chain.constant(np.array(sizes, dtype=np.int64))
        chain.nodes.append(helper.make_node("Split", [flat, lengths], parts, axis=0))
    for part, (name, tensor) in zip(parts, tensors.items(), strict=False):
        if part != name:
            chain.reshape(part, *tensor.shape, output=name)
