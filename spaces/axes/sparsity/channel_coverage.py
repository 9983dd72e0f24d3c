"""How much of a network the removal of channels reaches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .channels import removable_channels


@dataclass(frozen=True)
class ChannelCoverage:
    """Of how many convolutions and linear layers channels can be removed.

    Args:
        reached: Layers that can lose channels of their own.
        total: All of them.
        reasons: For each of the others, its name and why it keeps its channels: ``head: makes the output``. Layers
            that make the output always do.
    """

    reached: int
    total: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.reached} of {self.total} layers"


def channel_coverage(network: nn.Module, example: Tensor) -> ChannelCoverage:
    """Return how much of the network :func:`~.channels.remove_channels` reaches.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.

    Raises:
        CandidateFailure: Where the network cannot be traced, or does not run with fewer channels in any layer.
    """
    found = removable_channels(network, example)
    reasons = tuple(f"{name}: {found.reasons[name]}" for name in found.layers if name in found.reasons)
    return ChannelCoverage(len(found.layers) - len(reasons), len(found.layers), reasons)
