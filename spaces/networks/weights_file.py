"""Weights of a network in one safetensors file, written whole or not at all."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn


def save_weights(network: nn.Module, path: Path, *, described: str | None = None) -> None:
    """Write a network's weights beside their final place, then move them there.

    Args:
        network: Left as it is.
        path: Where the file goes.
        described: What the weights are, kept in the file's metadata under that name.

    Raises:
        OSError: Where it cannot be written; the old file, if any, is then still whole.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        save_model(network, str(unfinished), metadata=None if described is None else {"described": described})
        unfinished.replace(path)
    except SafetensorError as error:
        unfinished.unlink(missing_ok=True)
        # The library's own error hides that of the system in its text.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error
