"""The axis of inverted-residual stages as data: which networks may be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...candidate import Candidate
from ...data.images import check_images
from ...section import Choices
from ...step import NetworkMaterials
from ..axis import NetworkAxis, Suggester
from .choice import Stage, StageNetwork

if TYPE_CHECKING:
    from torch import nn

    from ...task import Task
    from ..supernet.networks import SharedNetworks

Kernel = Literal[3, 5, 7]
Expansion = Literal[1, 3, 6]
Presence = Literal["no", "yes"]
Count = Annotated[int, Field(ge=1, le=65_536)]

PRESENT: Presence = "yes"


class StagesAxis(NetworkAxis):
    """Networks of inverted-residual stages; kernel, expansion, gate and depth are chosen for each stage by itself.

    This is the factorized space of MnasNet (Tan et al., CVPR 2019, arXiv:1807.11626), without its other kinds of block.

    Args:
        stages: Number of stages.
        channels: Channels of the first stage; each later stage doubles them.
        kernels: Height and width of a stage's depthwise convolutions.
        expansions: Channels of the depthwise convolution per input channel of its block.
        squeeze_excite: Whether a stage has squeeze-and-excitation gates, ``no`` or ``yes``.
        depths: Blocks of a stage.
    """

    kind: ClassVar[str] = StageNetwork.kind
    label: ClassVar[str] = "NAS stages"
    prefix: ClassVar[str] = "stages."
    uses: ClassVar[Mapping[str, str]] = {"stages": "inverted-residual stages"}

    stages: Annotated[int, Field(ge=1, le=6)] = 3
    channels: Choices[Count] = (16,)
    kernels: Choices[Kernel] = (3, 5, 7)
    expansions: Choices[Expansion] = (1, 3, 6)
    squeeze_excite: Choices[Presence] = ("no", "yes")
    depths: Choices[Count] = (1, 2)

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Choose a network of stages."""
        return replace(candidate, architecture=self.suggest_network(trial))

    def suggest_network(self, trial: Suggester) -> StageNetwork:
        """Choose the channels, then every stage."""
        channels = trial.suggest_categorical("stages.channels", self.channels)
        return StageNetwork(channels, tuple(self._suggest_stage(trial, position) for position in range(self.stages)))

    def _suggest_stage(self, trial: Suggester, position: int) -> Stage:
        prefix = f"stages.{position}"
        return Stage(
            kernel=trial.suggest_categorical(f"{prefix}.kernel", self.kernels),
            expansion=trial.suggest_categorical(f"{prefix}.expansion", self.expansions),
            squeeze_excite=trial.suggest_categorical(f"{prefix}.squeeze_excite", self.squeeze_excite) == PRESENT,
            depth=trial.suggest_categorical(f"{prefix}.depth", self.depths),
        )

    def largest(self) -> StageNetwork:
        """Return the network that has the most of everything; every other one fits into it."""
        stage = Stage(max(self.kernels), max(self.expansions), PRESENT in self.squeeze_excite, max(self.depths))
        return StageNetwork(max(self.channels), (stage,) * self.stages)

    def smallest(self) -> StageNetwork:
        """Return the network that has the least of everything."""
        stage = Stage(min(self.kernels), min(self.expansions), "no" not in self.squeeze_excite, min(self.depths))
        return StageNetwork(min(self.channels), (stage,) * self.stages)

    def check(self, task: Task, output_shape: tuple[int, ...]) -> None:
        """Check that the task is one of images and classes."""
        check_images("stages", task.input_shape, output_shape)

    @classmethod
    def start(cls, architecture: StageNetwork, materials: NetworkMaterials) -> nn.Module:
        """Return an untrained network of stages."""
        from .stage_network import build_stage_network

        return build_stage_network(architecture, materials.input_shape, materials.outputs)

    @property
    def shares_weights(self) -> bool:
        """Whether its networks take their weights from one supernet: always."""
        return True

    def shared_networks(self, input_shape: tuple[int, ...], outputs: int) -> SharedNetworks[Any]:
        """Return its networks as a supernet needs them."""
        from .shared_stages import StageNetworks

        return StageNetworks(self, input_shape, outputs)

    @classmethod
    def read(cls, plain: dict[str, Any]) -> StageNetwork:
        """Read a network of stages."""
        return StageNetwork.from_dict(plain)
