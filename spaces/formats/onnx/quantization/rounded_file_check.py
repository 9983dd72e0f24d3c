"""What the rounding of each tensor costs the outputs of the whole network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from ....data.named import Named
from ....rounding.learned import ActivationGrid
from ..onnx_file import open_session
from .emulation import EmulatedRounding
from .rounding_noise import Noise, noise_by_channel

LEAST_WHOLE_DB = 22.0
"""Least signal to noise of each channel of a rounded network's outputs: an error of a twelfth of what they vary by."""

MOST_TENSORS = 1000
"""Of networks with more 8-bit tensors it is only said how good the outputs are."""

MOST_INPUTS = 8
"""On so many inputs it is found out what each tensor costs."""

_FEW = 12
"""So many tensors may lose their grids, or a quarter of all: where more would have to, the error is everywhere, and
sparing would leave nothing of int8."""

_ENDLESS = 1e30

_MARGIN = 0.7
"""Share of the error allowed that the estimated one may take, since errors are not quite independent."""


def worst_output(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> Noise:
    """Return the noise of the output of a rounded network whose worst channel is worst.

    Args:
        model: The rounded network.
        tensors: The float32 network's inputs and outputs.
    """
    feeds = {value.name: tensors[value.name] for value in model.graph.input}
    session = open_session(model)
    names = [value.name for value in session.get_outputs()]
    answers = zip(names, session.run(None, feeds), strict=True)
    return min((noise_by_channel(tensors[name], np.asarray(answer)) for name, answer in answers), key=_worst)


def spare_for_outputs(
    network: onnx.ModelProto,
    model: onnx.ModelProto,
    grids: Mapping[str, ActivationGrid],
    tensors: Mapping[str, np.ndarray],
) -> frozenset[str]:
    """Return the tensors whose rounding costs the outputs most, so many that the rest costs no more than it may.

    Errors of single tensors are taken to add up. None are returned where the outputs are good, or where sparing a few
    tensors would not make them so.

    Args:
        network: The float32 network with its rounded weights.
        model: The network rounded.
        grids: Of its tensors.
        tensors: The float32 network's inputs, its outputs and these tensors.
    """
    if worst_output(model, tensors).worst_db >= LEAST_WHOLE_DB or not 0 < len(grids) <= MOST_TENSORS:
        return frozenset()
    names, runs = list(grids), _Runs(network, grids, tensors)
    most = max(_FEW, len(names) // 4)
    side = max(1, round(len(names) ** 0.5)) if len(names) > 2 * _FEW else 1
    groups = [frozenset(names[start : start + side]) for start in range(0, len(names), side)]
    costs = runs.costs(groups)
    chosen = _fewest(costs, most)
    if side > 1 and chosen:  # only within groups that cost much is it worth while to look at each tensor
        kept = [costs[index] for index in range(len(groups)) if index not in chosen]
        groups = [frozenset({name}) for index in chosen for name in groups[index]]
        chosen = _fewest(runs.costs(groups), most, besides=np.sum(kept, axis=0) if kept else 0.0)
    return frozenset().union(*(groups[index] for index in chosen))


def _fewest(costs: np.ndarray, most: int, besides: np.ndarray | float = 0.0) -> list[int]:
    """Return which rows to take away so that no column adds up to more than 1, none where that takes too many.

    Args:
        costs: Shape (rows, columns).
        most: Most rows that may go.
        besides: What is added to each column.
    """
    chosen: list[int] = []
    while (left := np.delete(costs, chosen, axis=0).sum(axis=0) + besides).max(initial=0.0) > 1 or not chosen:
        if len(chosen) == min(most, len(costs)):
            return []
        rest = costs[:, int(left.argmax())].copy()
        rest[chosen] = -1.0
        chosen.append(int(rest.argmax()))
    return chosen


class _Runs:
    """Runs of a float32 network with some of its tensors rounded."""

    def __init__(
        self, network: onnx.ModelProto, grids: Mapping[str, ActivationGrid], tensors: Mapping[str, np.ndarray]
    ) -> None:
        self._grids, self._tensors = grids, tensors
        self._inputs = Named({value.name: tensors[value.name][:MOST_INPUTS] for value in network.graph.input})
        self._rounding = EmulatedRounding(network, grids)

    def costs(self, groups: list[frozenset[str]]) -> np.ndarray:
        """Return the noise where only one group is rounded, as a share of what is allowed, shape (groups, channels)."""
        return np.stack([self._cost(group) for group in groups])

    def _cost(self, group: frozenset[str]) -> np.ndarray:
        answers = self._rounding.run(self._inputs, {name: self._grids[name] for name in group})
        found = []
        for name, answer in zip(self._rounding.outputs, answers, strict=True):
            noise = noise_by_channel(self._tensors[name][:MOST_INPUTS], answer)
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append(np.nan_to_num(noise.error / noise.signal, nan=0.0, posinf=_ENDLESS))
        return np.asarray(np.concatenate(found) / (_MARGIN * 10 ** (-LEAST_WHOLE_DB / 10)))


def _worst(noise: Noise) -> float:
    return noise.worst_db
