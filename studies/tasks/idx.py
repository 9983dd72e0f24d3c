"""Reader of IDX files, the format in which MNIST and its relatives come."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TaskError

_UNSIGNED_BYTE = 8
_REMEDY = "fetch the file again; it is damaged or is another file"


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    The format: two zero bytes, the type (8 for unsigned byte), the number of axes, the length of each axis as a
    big-endian 32-bit integer, then the data (LeCun, Cortes and Burges, The MNIST database, 1998).

    Args:
        path: The file; gzipped where its first two bytes say so, whatever its name.
        axes: How many axes are expected: 3 for images, 1 for classes.

    Raises:
        TaskError: Where the file cannot be unpacked, or its head or its length is not as expected.
    """
    content = _read_bytes(path)
    head_bytes = 4 + 4 * axes
    magic = bytes((0, 0, _UNSIGNED_BYTE, axes))
    if content[:4] != magic or len(content) < head_bytes:
        raise TaskError(
            "not an IDX file of the kind expected",
            where=str(path),
            expected=f"first bytes {magic.hex()} ({axes} axes of unsigned bytes)",
            got=content[:4].hex() or "an empty file",
            remedy=_REMEDY,
        )
    shape = struct.unpack(f">{axes}I", content[4:head_bytes])
    if len(content) - head_bytes != math.prod(shape):
        raise TaskError(
            "the IDX file's length does not agree with its head",
            where=str(path),
            expected=f"{math.prod(shape)} bytes of data for shape {shape}",
            got=f"{len(content) - head_bytes} bytes",
            remedy=_REMEDY,
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head_bytes).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise TaskError(
            "the gzipped file cannot be unpacked", where=str(path), got=str(error), remedy=_REMEDY
        ) from error
