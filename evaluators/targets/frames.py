"""Messages between karui and its agent on a device: JSON, and where there is any, a file behind it.

Part of what is sent to the device, so Python 3.8 and the standard library have to do.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

PROTOCOL = 1
"""Version of what the two sides say to each other."""

MARK = b"\0karui device agent\n"
"""Where the agent's messages begin: before it, a login script may have printed anything."""

MOST_JSON_BYTES = 2**24

_HEADER = struct.Struct("!IQ")


def write_frame(stream: BinaryIO, plain: Any, attached_bytes: int = 0) -> None:
    """Write one message; whoever calls writes so many bytes of a file behind it.

    Raises:
        OSError: Where the other side is gone.
    """
    content = json.dumps(plain).encode()
    stream.write(_HEADER.pack(len(content), attached_bytes) + content)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Any, int]:
    """Read one message, and return it with how many bytes of a file follow.

    Raises:
        EOFError: Where the other side is gone.
        ValueError: Where what comes is no message.
    """
    length, attached_bytes = _HEADER.unpack(read_exactly(stream, _HEADER.size))
    if length > MOST_JSON_BYTES:
        raise ValueError(f"what came is no message: it says to be {length} bytes long")
    return json.loads(read_exactly(stream, length).decode()), attached_bytes


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: Where the stream ends before.
    """
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise EOFError("the stream has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def skip_to_mark(stream: BinaryIO, most_bytes: int = 2**16) -> None:
    """Read up to the end of the mark.

    Raises:
        EOFError: Where the stream ends before.
        ValueError: Where it does not come within so many bytes.
    """
    seen = b""
    while not seen.endswith(MARK):
        seen += read_exactly(stream, 1)
        if len(seen) > most_bytes:
            raise ValueError(f"the device prints and prints before anything is asked: {seen[:80]!r}...")
