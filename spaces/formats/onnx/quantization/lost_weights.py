"""Weights that stay float32, since even many bits do not hold what they do."""

from __future__ import annotations

from collections.abc import Mapping

from ....notes import Note
from ....rounding.layers import Layer
from ....rounding.mean_shift import Shifts
from ....rounding.rounded_weights import RoundedWeight

ENOUGH_BITS = 7
"""What a weight of fewer bits loses was asked for."""

LEAST_WEIGHT_DB = 22.0
"""Least signal to noise of a layer whose weight has :data:`ENOUGH_BITS`. Of a trained ResNet-20 the worst layer has
43 dB by 7 bits. Far less is left where small weights meet inputs many times as large as others: they become zero."""

_MOST_NAMED = 4


def lost_weights(losses_db: Mapping[str, float], bits: Mapping[str, int]) -> dict[str, float]:
    """Return which weights had better stay float32: they lose too much although their bits are many."""
    return {name: db for name, db in losses_db.items() if bits[name] >= ENOUGH_BITS and db < LEAST_WEIGHT_DB}


def leave_lost(
    layers: list[Layer], lost: Mapping[str, float], weights: dict[str, RoundedWeight], shifts: Shifts, note: Note
) -> list[Layer]:
    """Take lost weights out of the rounded ones, in place, and return the layers that read none of them.

    Args:
        layers: The layers that were rounded.
        lost: The weights, and the signal to noise that would be left, in dB.
        weights: The rounded weights by name.
        shifts: By node name.
        note: Is told which layers.
    """
    named = [layer.node_name for layer in layers if layer.weight_name in lost]
    if not named:
        return layers
    for name in lost:
        del weights[name]
    for name in named:
        shifts.pop(name, None)
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    note(
        f"weights left float32, since their rounding alone would leave {min(lost.values()):.0f} dB of signal to noise, "
        f"below {LEAST_WEIGHT_DB:.0f} dB: {', '.join(named[:_MOST_NAMED])}{more}"
    )
    return [layer for layer in layers if layer.weight_name not in lost]
