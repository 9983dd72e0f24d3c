"""The layers of a network whose weights can be rounded, as far as rounding has to know of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_AND_LAST_BITS = 8
"""Bits of the first and the last layer where all others are alike."""


@dataclass(frozen=True)
class Layer:
    """One layer, a convolution or a matrix product, whose weight is a constant of float32.

    Args:
        node_name: Name of the layer, unique in the network.
        weight_name: Name of its weight, which several may read.
        channel_axis: Axis of the weight that numbers the outputs.
    """

    node_name: str
    weight_name: str
    channel_axis: int


def readers_of(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Return the layers that read each weight, by its name."""
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        readers[layer.weight_name].append(layer)
    return dict(readers)
