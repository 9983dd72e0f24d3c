"""The moving average of a network's weights over a training: a second candidate that costs no second training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the weights after each step (Polyak & Juditsky, SIAM J. Control Optim. 1992).

    Short trainings end before a slow average has forgotten where it began, so the decay of step t, counted from 1, is
    the smaller of ``decay`` and (1 + t) / (10 + t). Running statistics and other buffers of floats are averaged as
    well, counters are taken as they are. The averages are kept beside the network rather than in a copy of it, since
    not every module can be copied once it has run.

    Args:
        network: The network that is trained; its weights now are the first average.
        decay: Share of the old average that a step keeps, in [0, 1).

    Raises:
        ValueError: Where ``decay`` lies outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay of the weights' average: expected 0 <= decay < 1, got {decay}")
        self._network = network
        self._decay = decay
        self._steps = 0
        self._averages = _copied(network)

    def update(self) -> None:
        """Take the network's weights into the average, after one more step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, current in self._network.state_dict().items():
                average = self._averages[name]
                if average.is_floating_point() or average.is_complex():
                    average.lerp_(current, 1.0 - decay)
                else:
                    average.copy_(current)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the averages in the network's place for the while; what happens to them there leaves no trace."""
        current = _copied(self._network)
        self._network.load_state_dict(self._averages)
        try:
            yield
        finally:
            self._network.load_state_dict(current)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
