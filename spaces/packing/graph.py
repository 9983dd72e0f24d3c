"""The ONNX nodes that unpack weights; ONNX Runtime folds all of them when it loads the file.

What it does not fold, and what is therefore not used: ``NonZero``, ``ScatterElements``, ``DequantizeLinear``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .bits import PLANES, pack_planes, padded_length, plane_shifts


@dataclass
class Chain:
    """Nodes and initializers under construction; their names begin with ``prefix``, which nothing else may use."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    names: int = 0

    def fresh_name(self) -> str:
        """Return a name that was not given before."""
        self.names += 1
        return f"{self.prefix}{self.names}"

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        output = output or self.fresh_name()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Append an initializer and return its name; equal ones are merged when the file is stripped."""
        name = self.fresh_name()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name


def add_dense(chain: Chain, tensors: dict[str, np.ndarray], bits: int) -> None:
    """Store int8 tensors in so many bits each, and add the nodes that give them back under their names."""
    values = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    flat = _unpack_signed(chain, values, bits)
    _distribute(chain, flat, padded_length(len(values), bits), tensors)


def add_sparse(chain: Chain, tensors: dict[str, np.ndarray], bits: int) -> None:
    """Store int8 or float32 tensors as one bit of mask each and non-zeros of so many bits; see :func:`add_dense`."""
    values = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    mask = nonzero_mask(values)
    # The zero in front is what every masked element points at.
    table = np.concatenate([np.zeros(1, dtype=values.dtype), values[mask]])
    narrow = values.dtype == np.int8 and bits < 8
    lookup = _unpack_signed(chain, table, bits) if narrow else chain.constant(table)
    ones = chain.add("Cast", _unpack_codes(chain, mask.astype(np.uint8), 1), to=onnx.TensorProto.INT32)
    count = chain.add("CumSum", ones, chain.constant(np.array(0, dtype=np.int64)))
    flat = chain.add("Gather", lookup, chain.add("Mul", count, ones))
    _distribute(chain, flat, padded_length(len(values), 1), tensors)


def nonzero_mask(values: np.ndarray) -> np.ndarray:
    """Return where values differ, bit for bit, from zero; -0.0 counts as different, for packing loses nothing."""
    mask: np.ndarray = values.view(np.int32 if values.dtype == np.float32 else np.int8) != 0
    return mask


def _unpack_signed(chain: Chain, values: np.ndarray, bits: int) -> str:
    """Add int8 values of so many bits, flat and padded.

    They are stored with an offset that makes them unsigned. It is taken away in int32, whose subtraction every
    version of the runtime has; a sign extension in uint8 takes three times the nodes and twice the time.
    """
    offset = 1 << (bits - 1)
    codes = (values.astype(np.int16) + offset).astype(np.uint8)
    wide = chain.add("Cast", _unpack_codes(chain, codes, bits), to=onnx.TensorProto.INT32)
    shifted = chain.add("Sub", wide, chain.constant(np.array(offset, dtype=np.int32)))
    return chain.add("Cast", shifted, to=onnx.TensorProto.INT8)


def _unpack_codes(chain: Chain, codes: np.ndarray, bits: int) -> str:
    """Add uint8 codes below 2**bits, flat and padded: each byte is spread over a row, then the planes are joined."""
    joined = ""
    low = bits
    for width, packed in zip(PLANES[bits], pack_planes(codes, bits), strict=True):
        low -= width
        column = chain.constant(packed.reshape(-1, 1))
        spread = chain.add("BitShift", column, chain.constant(plane_shifts(width)), direction="RIGHT")
        lanes = chain.add("BitwiseAnd", spread, chain.constant(np.array((1 << width) - 1, dtype=np.uint8)))
        plane = chain.add("Reshape", lanes, chain.constant(np.array([-1], dtype=np.int64)))
        if low:
            plane = chain.add("BitShift", plane, chain.constant(np.array(low, dtype=np.uint8)), direction="LEFT")
        joined = chain.add("BitwiseOr", joined, plane) if joined else plane
    return joined


def _distribute(chain: Chain, flat: str, length: int, tensors: dict[str, np.ndarray]) -> None:
    """Cut a flat tensor into the named ones, shape by shape; what is left over is padding."""
    sizes = [tensor.size for tensor in tensors.values()]
    if length > sum(sizes):
        sizes.append(length - sum(sizes))
    parts = [flat]
    if len(sizes) > 1:
        parts = [chain.fresh_name() for _ in sizes]
        for position, (name, tensor) in enumerate(tensors.items()):
            parts[position] = name if tensor.ndim == 1 else parts[position]
        lengths = chain.constant(np.array(sizes, dtype=np.int64))
        chain.nodes.append(helper.make_node("Split", [flat, lengths], parts, axis=0))
    for part, (name, tensor) in zip(parts, tensors.items(), strict=False):
        if part != name:
            chain.add("Reshape", part, chain.constant(np.array(tensor.shape, dtype=np.int64)), output=name)
