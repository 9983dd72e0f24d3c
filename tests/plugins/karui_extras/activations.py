"""An axis from outside: another activation function in the place of ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from karui.spaces.axes.axis import Axis, Suggester
from karui.spaces.candidate import BuildStage, Candidate
from karui.spaces.section import Choices
from karui.spaces.step import NetworkMaterials, Step

Function = Literal["relu", "hardswish", "silu"]
_LAYERS: dict[str, type[nn.Module]] = {"hardswish": nn.Hardswish, "silu": nn.SiLU}


class ActivationsAxis(Axis):
    """Activation functions: ReLU stays, or all of them become another one.

    Args:
        functions: What may be chosen.
    """

    prefix: ClassVar[str] = "activation."
    uses: ClassVar[Mapping[str, str]] = {"activations": "other activation functions"}

    functions: Choices[Function] = ("relu", "hardswish")

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Choose one function for all layers."""
        chosen = trial.suggest_categorical("activation.function", self.functions)
        return candidate.choosing("activation", None if chosen == "relu" else chosen)

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return the function."""
        return {"activation.function": candidate.chosen("activation", "relu")}

    @classmethod
    def add_steps(cls, candidate: Candidate, steps: Sequence[Step]) -> Sequence[Step]:
        """Swap the functions once the network is made."""
        function = candidate.chosen("activation")
        if not function:
            return steps
        return [*steps, Step("architecture", BuildStage.NETWORK, "activations", {"function": function})]

    @classmethod
    def change_network(cls, network: nn.Module, step: Step, materials: NetworkMaterials) -> nn.Module:
        """Put the other function wherever a layer is ReLU."""
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.ReLU):
                    setattr(parent, name, _LAYERS[step.settings["function"]]())
        return network

    @classmethod
    def describe(cls, candidate: Candidate) -> Sequence[str]:
        """Return the function where it is another one."""
        return [str(candidate.chosen("activation"))] if candidate.chosen("activation") else []

    @classmethod
    def configuration(cls, candidate: Candidate) -> Sequence[tuple[str, str]]:
        """Return it in words."""
        return [("Activation functions", str(candidate.chosen("activation", "as they were")))]

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:
        """Say whether a trial swaps functions."""
        return bool(chosen.get("activation.function", "relu") != "relu")
