"""How the bits of a candidate are spread over the layers of its network."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import numpy as np

from .bit_choice import BitChoice
from .layers import FIRST_AND_LAST_BITS, Layer
from .sensitivity import SensitivityTable

MOST_STATES = 2**14
"""Partial assignments that are kept from one weight to the next. While there are no more, the result is exact; else one
is kept of those whose bits differ by less than this part of all, so that each weight wastes no more than that."""

_TOLERANCE = 1e-6


def uniform_bits(layers: list[Layer], weight_bits: int, *, most_bits: int) -> dict[str, int]:
    """Return the bits of each weight by name: 8 for the first and the last layer, none more than ``most_bits``."""
    return {name: int(bits) for name, bits in _with_ends(layers, weight_bits, most_bits).items()}


def grouped_bits(layers: list[Layer], group_bits: Sequence[int], *, most_bits: int) -> dict[str, int]:
    """Return the bits of each weight by name, where every run of layers has bits of its own.

    Layer i of n belongs to run ``i * len(group_bits) // n``, so that the runs are as equal as can be. A weight that
    several layers read takes the most bits of theirs. There is no rule of its own for the first and the last layer:
    whoever chooses bits layer by layer chooses theirs as well.
    """
    bits: dict[str, int] = {}
    for index, layer in enumerate(layers):
        wanted = min(group_bits[index * len(group_bits) // len(layers)], most_bits)
        bits[layer.weight_name] = max(wanted, bits.get(layer.weight_name, 0))
    return bits


def budget_bits(table: SensitivityTable, layers: list[Layer], mean_bits: float, *, most_bits: int) -> dict[str, int]:
    """Return the bits of each weight by name that add least to the loss and take no more in all than uniform ones do.

    Uniform ones are those of :func:`uniform_bits`, with 8 bits for the first and the last layer; where ``mean_bits`` is
    not whole, what so many bits of every other weight would come to. The increases of the table are added up, and the
    least sum is found weight by weight: of all assignments of bits to the weights so far, only those are kept that no
    other one beats in both bits and loss ("ZeroQ", Cai et al., CVPR 2020, section 3.2). Increases that rise with more
    bits are noise: such bits are taken to be as good as the fewer ones. Of equally good assignments, that of the fewest
    bits is taken. A weight that several layers read counts once.

    Args:
        table: What each weight adds to the loss at which bits; it may hold weights of other layers as well.
        layers: The layers whose weights share the budget, at least one.
        mean_bits: 2 to 8.
        most_bits: Most bits of a weight.
    """
    names = list(dict.fromkeys(layer.weight_name for layer in layers))
    rows = [table.names.index(name) for name in names]
    sizes = np.array(table.sizes)[rows]
    uniform = np.array([_with_ends(layers, mean_bits, most_bits)[name] for name in names])
    options = np.array([bits for bits in table.bits if bits <= most_bits])
    losses = np.minimum.accumulate(np.array(table.loss_increases)[rows, : len(options)], axis=1)
    most_in_all = float(sizes @ uniform) + _TOLERANCE
    chosen = options[_best(sizes, options, losses, most_in_all)]
    below = np.searchsorted(options, np.floor(uniform + _TOLERANCE), side="right") - 1
    places = np.arange(len(names))
    if losses[places, below].sum() < losses[places, np.searchsorted(options, chosen)].sum():
        chosen = options[below]
    return dict(zip(names, chosen.tolist(), strict=True))


def _best(sizes: np.ndarray, options: np.ndarray, losses: np.ndarray, most_in_all: float) -> np.ndarray:
    """Return the index of each weight's bits in the best assignment that is kept.

    Args:
        sizes: Elements of each weight, shape (weights,).
        options: Bits to choose from, ascending, shape (options,).
        losses: What each choice adds, falling along the options, shape (weights, options).
        most_in_all: Most bits of all weights together.
    """
    width = float(sizes.sum() * options[-1]) / MOST_STATES
    bits, loss = np.zeros(1, dtype=np.int64), np.zeros(1)
    origins = []
    for size, row in zip(sizes, losses, strict=True):
        all_bits = (bits[:, None] + size * options).reshape(-1)
        all_losses = (loss[:, None] + row).reshape(-1)
        order = np.lexsort((all_losses, all_bits))
        before = np.minimum.accumulate(np.append(np.inf, all_losses[order][:-1]))
        kept = order[(all_losses[order] < before) | (np.arange(len(order)) == 0)]
        if len(kept) > MOST_STATES:
            # The one of the fewest bits, whatever the budget: a larger one never does worse.
            kept = kept[np.unique(all_bits[kept] // width, return_index=True)[1]]
        bits, loss = all_bits[kept], all_losses[kept]
        origins.append(kept)
    state = int(np.searchsorted(bits, most_in_all, side="right")) - 1
    chosen = []
    for kept in reversed(origins):
        state, option = divmod(int(kept[state]), len(options))
        chosen.append(option)
    return np.array(chosen[::-1])


def _with_ends(layers: list[Layer], weight_bits: float, most_bits: int) -> dict[str, float]:
    bits = {layer.weight_name: weight_bits for layer in layers}
    for layer in (layers[0], layers[-1]):
        bits[layer.weight_name] = max(weight_bits, FIRST_AND_LAST_BITS)
    return {name: min(wanted, most_bits) for name, wanted in bits.items()}


def spread_bits(
    reached: list[Layer], choice: BitChoice, table: Callable[[], SensitivityTable], given: Set[str] = frozenset()
) -> dict[str, int]:
    """Return the bits of each weight that is reached, by name.

    Args:
        reached: The layers that are rounded.
        choice: How many bits, and how they are spread.
        table: Returns the table that a budget is spread by, and is called for no other.
        given: Weights that training has rounded already; they have no part in a budget.
    """
    if not reached:
        return {}
    if choice.allocation == "budget" and choice.weight_bits >= choice.most_bits:
        return uniform_bits(reached, choice.most_bits, most_bits=choice.most_bits)  # enough for all: nothing to spread
    if choice.allocation == "groups":
        return grouped_bits(reached, choice.group_bits, most_bits=choice.most_bits)
    if choice.allocation == "budget":
        bits = {layer.weight_name: choice.most_bits for layer in reached}
        if sharing := [layer for layer in reached if layer.weight_name not in given]:
            bits |= budget_bits(table(), sharing, choice.weight_bits, most_bits=choice.most_bits)
        return bits
    return uniform_bits(reached, int(choice.weight_bits), most_bits=choice.most_bits)
