"""Whether a smaller network computes what the original does with exactly those channels masked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...data.named import floats_to
from ...networks.running import copy_network
from .channel_graph import outputs_of, shapes_of
from .narrowing import Removal, masked, narrowed, positions_of

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference that rounding explains, relative to the largest output; wrong wiring differs by about 1."""

SEEN = 100.0
"""How many times the tolerance the masked channels must move the output by, lest the comparison say nothing."""

SCALES = (1.0, 0.3, 3.0)
"""Sizes of the weights by which the comparison is made, one after the other until the channels are seen."""

UNSEEN = "their effect on the output cannot be seen, so that nothing can be checked"

ALL_OR_NONE = "all of its channels go together, or none"

Change = Callable[[nn.Module], nn.Module]
"""Returns a changed copy of a network."""


class Verification:
    """Compares a smaller network with its masked original, all weights drawn anew: trained ones may hide a mistake.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self._example = example
        self._drawn: dict[float, tuple[nn.Module, Tensor, list[Tensor]]] = {}
        self._shapes: list[tuple[int, ...]] = []

    def failure(self, removals: Sequence[Removal]) -> str | None:
        """Return why the network is not right without these units; None where it is."""
        if any(len(gone) == place.length for place, gone in positions_of(removals).items()):
            return ALL_OR_NONE
        return self.compared(
            lambda network: masked(network, removals),
            lambda network: narrowed(network, removals),
            "some of its channels",
        )

    def compared(self, mask: Change, remove: Change, without: str) -> str | None:
        """Return why a smaller network does not compute what the masked one does; None where it does.

        Args:
            mask: Returns a masked copy of a network.
            remove: Returns a smaller one.
            without: What goes, in words.
        """
        for scale in SCALES:
            network, example, before = self._network_at(scale)
            twin = answers(mask(network), example)
            try:
                smaller = remove(network)
                after = answers(smaller, example)
                in_training = shapes_of(smaller, example, as_in_training=True)
            except Exception as error:  # a user's forward may raise anything
                text = " ".join(str(error).split())[:300]
                return f"the network does not run without {without}: {type(error).__name__}: {text}"
            expected = [*(tuple(output.shape) for output in twin), *self._shapes]
            got = [*(tuple(output.shape) for output in after), *in_training]
            if got != expected:
                return f"the output's shape changes from {expected[0]} to {got[0]} without {without}"
            if not close(after, twin, 1.0):
                return f"the network computes something else without {without}"
            if not close(before, twin, SEEN):
                return None
        return UNSEEN

    def _network_at(self, scale: float) -> tuple[nn.Module, Tensor, list[Tensor]]:
        if scale not in self._drawn:
            kinds = (torch.float64, torch.float32)
            for kind in kinds:
                network = drawn_anew(self.network, scale, kind)
                example = floats_to(kind, self._example)
                try:
                    self._drawn[scale] = network, example, answers(network, example)
                    break
                except Exception:
                    # a constant of one precision in the forward; as the user's own, it has to run
                    if kind == kinds[-1]:
                        raise
            # outputs in training are compared by shape alone, as a dropout may be written into the forward
            self._shapes = shapes_of(network, example, as_in_training=True)
        return self._drawn[scale]


def answers(network: nn.Module, example: Tensor) -> list[Tensor]:
    """Return what a network returns in evaluation mode, in which it is left."""
    network.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outputs_of(network, example)


def drawn_anew(network: nn.Module, scale: float, kind: torch.dtype) -> nn.Module:
    """Return a copy of this precision whose weights and statistics are random, those of matrices of a size that keeps
    activations about as large as they are, times a scale."""
    drawn = copy_network(network).to(kind)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*drawn.parameters(), *(buffer for buffer in drawn.buffers() if _is_statistic(drawn, buffer))):
            if not tensor.is_floating_point():
                continue
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            if tensor.dim() > 1:
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                values *= scale * max(1, tensor[0].numel()) ** -0.5
            tensor.copy_(values)
    return drawn


def _is_statistic(network: nn.Module, buffer: Tensor) -> bool:
    """Say whether a buffer is a normalization's: others may be tables that the network's code counts on."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase))
    return any(buffer is own for module in norms for own in module.buffers(recurse=False))


def close(one: list[Tensor], other: list[Tensor], times: float) -> bool:
    """Say whether outputs differ by no more than so many times what rounding explains."""
    for left, right in zip(one, other, strict=True):
        if not left.is_floating_point():
            if not torch.equal(left, right):
                return False
            continue
        largest = float(right.abs().max()) if right.numel() else 0.0
        bound = times * TOLERANCE.get(left.dtype, TOLERANCE[torch.float32]) * largest
        if not bool(((left - right).abs() <= bound).all()):
            return False
    return True
