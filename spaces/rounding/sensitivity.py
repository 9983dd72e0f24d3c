"""How sensitive each layer of a network is to few bits, as data: what a budget of bits is spread by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from pydantic import TypeAdapter

from ..bit_names import FEWEST_BITS, MOST_BITS

ALL_BITS = tuple(range(FEWEST_BITS, MOST_BITS + 1))


@dataclass(frozen=True)
class SensitivityTable:
    """What the network's loss gains where one weight alone is rounded to few bits.

    Args:
        digest: Of all that the table follows from, such as the network, the inputs, and how weights are rounded.
        names: The weights.
        sizes: Elements of each.
        bits: The bits tried, ascending.
        loss_increases: Not negative, infinite where the outputs are not finite; a row for each weight, a number for
            each of the bits; see :func:`loss_increase`.

    Raises:
        ValueError: Where the shapes do not agree.
    """

    digest: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    bits: tuple[int, ...]
    loss_increases: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sizes) == len(self.loss_increases):
            got = f"{len(self.names)}, {len(self.sizes)}, {len(self.loss_increases)}"
            raise ValueError(f"names, sizes and loss_increases must be equally long, got {got}")
        if any(len(row) != len(self.bits) for row in self.loss_increases):
            raise ValueError(f"loss_increases must have {len(self.bits)} numbers in each row, one for each of the bits")

    def to_json(self) -> str:
        """Return the table as JSON; infinity is written as Python's json does."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: Where the text is something else.
        """
        return TypeAdapter(cls).validate_json(text)


def even_table(digest: str, sizes: Mapping[str, int]) -> SensitivityTable:
    """Return a table by which every weight minds few bits alike, so that a budget of bits is spread evenly.

    Which layer gets more of the bits does not change their sum; measuring it costs more than all else of a file that
    only is timed.

    Args:
        digest: Of what the measured table would follow from.
        sizes: Elements of each weight, by name.
    """
    # The squared error of rounding falls to a quarter with each bit.
    increases = tuple(tuple(float(size) * 0.25**bits for bits in ALL_BITS) for size in sizes.values())
    return SensitivityTable(digest, tuple(sizes), tuple(sizes.values()), ALL_BITS, increases)


def loss_increase(before: np.ndarray, after: np.ndarray) -> float:
    """Return how far outputs have moved: 0 where they have not, infinity where they are not finite any more.

    For class scores, 2-D with at least two columns, that is the mean of KL(softmax(before) | softmax(after)) in nats;
    for others the mean squared difference relative to the variance of ``before``.

    Args:
        before: Outputs of the float network, finite, shape (n, ...).
        after: Outputs of the changed one, same shape.
    """
    if not np.isfinite(after).all():
        return math.inf
    before, after = before.astype(np.float64), after.astype(np.float64)
    if before.ndim == 2 and before.shape[1] >= 2:
        wanted, got = _log_softmax(before), _log_softmax(after)
        return max(0.0, float((np.exp(wanted) * (wanted - got)).sum(axis=1).mean()))
    return float(np.square(after - before).mean() / (before.var() or 1.0))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
