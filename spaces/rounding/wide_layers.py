"""Rounding outputs of so many weights that the second moments of their inputs would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .error_feedback import damped, round_with_feedback
from .scales import grid_limits

BLOCK_COLUMNS = 4_096
"""Columns that are rounded together."""


def round_in_blocks(weight: np.ndarray, scales: np.ndarray, inputs: np.ndarray, bits: int) -> np.ndarray:
    """Return integers q of the grid that keep a layer's outputs, block after block of columns.

    Within a block the errors are made good as :func:`~.error_feedback.round_with_feedback` does it. What a block leaves
    is known by the outputs of the inputs themselves, and the next block first moves its weights so as to make good for
    it: the same elimination as with all second moments at once, but with those of a block at a time. Weights of exactly
    zero stay zero.

    Args:
        weight: Shape (rows, columns), finite; a row holds all weights of one output.
        scales: Positive, shape (rows,).
        inputs: What the weights are multiplied with, shape (n, columns).
        bits: 2 to 8.

    Returns:
        int8, shape of ``weight``, within the grid of so many bits.
    """
    left = np.zeros((len(inputs), len(weight)))
    integers = np.empty(weight.shape, dtype=np.int8)
    for block in _blocks(weight.shape[1]):
        part, seen = weight[:, block].astype(np.float64), inputs[:, block].astype(np.float64)
        second = seen.T @ seen
        wanted = _made_good(part, seen, second, left)
        nearest = np.clip(np.rint(wanted / scales[:, None]), *grid_limits(bits))
        integers[:, block] = round_with_feedback(wanted[None], scales[None], second[None], nearest[None], bits)[0]
        left += seen @ (part - integers[:, block] * scales[:, None].astype(np.float64)).T
    return integers


def _made_good(part: np.ndarray, seen: np.ndarray, second: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return weights of a block whose outputs, added to what is left of those before, come next to the wanted ones."""
    mean = np.trace(second) / len(second)
    if not left.any() or mean <= 0 or (curvature := damped(second[None])) is None:
        return part
    moved = part + np.linalg.solve(curvature[0], seen.T @ left / mean).T
    return np.where(part == 0, 0.0, moved)


def _blocks(columns: int) -> Iterator[slice]:
    """Yield the columns in blocks as equal as can be."""
    count = -(-columns // BLOCK_COLUMNS)
    edges = np.linspace(0, columns, count + 1).round().astype(int)
    yield from (slice(int(first), int(last)) for first, last in pairwise(edges))
