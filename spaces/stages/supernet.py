"""One set of weights for every network of the axis: each network is cut out of the largest one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import OutputError
from ..weights_file import save_weights
from .axis import StagesAxis
from .choice import StageNetwork
from .network import InvertedResidual, build_stage_network

MOST_SKELETONS = 64
"""How many networks without weights are kept: one takes a hundredth of a second to make."""


class Supernet(nn.Module):
    """The weights of the axis' largest network, and every other network within them.

    A smaller network takes the leading blocks of each stage, the leading channels of each tensor and the centre of
    each depthwise kernel (Cai et al., Once-for-all, arXiv:1908.09791, without its kernel transformations), and
    leaves out what it has no gate or expansion for. Batch normalization's statistics are shared alike, which fits no
    network well: estimate them anew before a network is judged (see :mod:`karui.spaces.normalization`).

    Args:
        axis: The networks that must fit.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.
    """

    def __init__(self, axis: StagesAxis, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.axis = axis
        self._input_shape, self._outputs = input_shape, outputs
        self.largest = build_stage_network(axis.largest(), input_shape, outputs)
        start_as_identities(self.largest)
        self._skeletons: dict[StageNetwork, _Skeleton] = {}
        self.set(axis.largest())

    def set(self, choice: StageNetwork) -> None:
        """Choose the network that :meth:`forward` runs.

        Raises:
            ValueError: Where the choice does not fit into the largest network.
        """
        if choice not in self._skeletons:
            if len(self._skeletons) == MOST_SKELETONS:
                self._skeletons.clear()
            self._skeletons[choice] = self._skeleton(choice)
        self._active = self._skeletons[choice]

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the chosen network, (n, channels, height, width) to (n, outputs).

        Gradients reach the shared weights it is cut from, and in training mode its batches' statistics the shared
        ones.
        """
        for own, shared in self._active.twins:
            own.training = shared.training
            if isinstance(own, nn.BatchNorm2d) and isinstance(shared, nn.BatchNorm2d):
                own.momentum = shared.momentum
        # Not in torch's channels-last layout, though depthwise convolutions train twice as fast in it: on a CPU, torch
        # 2.14 writes beyond its memory in their backward pass where channels are few.
        state = self._cut(self._active)
        outputs: Tensor = functional_call(self._active.network, state, (inputs,), tie_weights=False, strict=True)
        return outputs

    def extract(self, choice: StageNetwork) -> nn.Module:
        """Return a network of its own, in evaluation mode, that starts from the shared weights and statistics.

        Raises:
            ValueError: Where the choice does not fit into the largest network.
        """
        skeleton = self._skeleton(choice)
        parts = self._cut(skeleton)
        state = {name: part.detach().clone() for name, part in parts.items()}
        skeleton.network.load_state_dict(state, assign=True)
        return skeleton.network.eval()

    def _skeleton(self, choice: StageNetwork) -> _Skeleton:
        with torch.device("meta"):
            network = build_stage_network(choice, self._input_shape, self._outputs)
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        shared = self.largest.state_dict()
        for name, shape in shapes.items():
            if name not in shared or any(map(int.__gt__, shape, shared[name].shape)):
                raise ValueError(
                    f"{choice.describe()} does not fit into the supernet of {self.axis.largest().describe()}: "
                    f"no weights for {name} of shape {tuple(shape)}"
                )
        modules = dict(self.largest.named_modules())
        twins = [(module, modules[name]) for name, module in network.named_modules()]
        return _Skeleton(network, shapes, twins)

    def _cut(self, skeleton: _Skeleton) -> dict[str, Tensor]:
        shared = self.largest.state_dict(keep_vars=True)
        parts = {name: shared_part(shared[name], shape) for name, shape in skeleton.shapes.items()}
        # statistics stay views, so that they can be updated
        return {name: part.contiguous() if part.ndim == 4 else part for name, part in parts.items()}


@dataclass(frozen=True)
class _Skeleton:
    """A network without weights; no module, so that the supernet's own weights are all that it holds.

    Args:
        network: On torch's device without memory.
        shapes: Shapes of its parameters and buffers.
        twins: Each of its modules with the largest network's module of the same name.
    """

    network: nn.Module
    shapes: dict[str, torch.Size]
    twins: list[tuple[nn.Module, nn.Module]]


def start_as_identities(network: nn.Module) -> None:
    """Let every residual block begin as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1).

    BigNAS (Yu et al., arXiv:2003.11142) trains its networks so: those with more blocks and those with fewer then
    begin alike. On digits, after ten epochs, ten networks of one supernet had a mean accuracy of 58 % with it and of
    49 % without.
    """
    for block in network.modules():
        if isinstance(block, InvertedResidual) and block.is_residual:
            nn.init.zeros_(block.normalization.weight)


def shared_part(shared: Tensor, shape: torch.Size) -> Tensor:
    """Return a view of the leading channels and, for convolutions, of the kernel's centre.

    Args:
        shared: The largest network's tensor.
        shape: Shape of the part, no axis longer than the shared one; kernels odd.
    """
    part = shared
    for axis, length in enumerate(shape):
        start = (shared.shape[axis] - length) // 2 if axis >= 2 else 0
        part = part.narrow(axis, start, length)
    return part


def save_supernet(supernet: Supernet, path: Path) -> None:
    """Write the shared weights as one safetensors file, whole or not at all."""
    save_weights(supernet.largest, path)


def load_supernet(path: Path, axis: StagesAxis, input_shape: tuple[int, ...], outputs: int) -> Supernet:
    """Read what :func:`save_supernet` wrote for the same axis, inputs and outputs.

    Raises:
        OutputError: Where the file cannot be read, or holds the weights of another supernet.
    """
    with torch.device("meta"):
        supernet = Supernet(axis, input_shape, outputs)
    try:
        supernet.largest.load_state_dict(load_file(str(path)), assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise OutputError(
            "the kept weights of the supernet cannot be read",
            where=str(path),
            got=str(error),
            remedy="delete that file; the supernet is then trained again",
        ) from error
    return supernet.eval()
