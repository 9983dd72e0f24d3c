"""One set of weights for every network of an axis, and each network cut out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from ....errors import OutputError
from ...networks.weights_file import save_weights
from .networks import Choice, SharedNetworks

MOST_SKELETONS = 64
"""How many networks without weights are kept: one takes a hundredth of a second to make."""


class Supernet(nn.Module, Generic[Choice]):
    """The weights of all networks of an axis; what a network takes of them is a part of each tensor it needs.

    Batch normalization's statistics are shared alike, which fits no network well: estimate them anew before a network
    is judged (see :mod:`karui.spaces.training.batch_statistics`).

    Args:
        networks: The networks that must fit, and where each finds its weights.
    """

    def __init__(self, networks: SharedNetworks[Choice]) -> None:
        super().__init__()
        self.networks = networks
        self.shared = networks.build_shared()
        self._skeletons: dict[Choice, _Skeleton] = {}
        self.set(networks.largest())

    def set(self, choice: Choice) -> None:
        """Choose the network that :meth:`forward` runs.

        Raises:
            ValueError: Where the choice does not fit into the supernet, or is no network.
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
            own.training, own.momentum = shared.training, shared.momentum
        # Not in torch's channels-last layout, though depthwise convolutions train twice as fast in it: on a CPU, torch
        # 2.14 writes beyond its memory in their backward pass where channels are few.
        state = self._cut(self._active)
        outputs: Tensor = functional_call(self._active.network, state, (inputs,), tie_weights=False, strict=True)
        return outputs

    def extract(self, choice: Choice) -> nn.Module:
        """Return a network of its own, in evaluation mode, that starts from the shared weights and statistics.

        Raises:
            ValueError: Where the choice does not fit into the supernet, or is no network.
        """
        skeleton = self._skeleton(choice)
        parts = self._cut(skeleton)
        state = {name: part.detach().clone() for name, part in parts.items()}
        skeleton.network.load_state_dict(state, assign=True)
        return skeleton.network.eval()

    def _skeleton(self, choice: Choice) -> _Skeleton:
        with torch.device("meta"):
            network = self.networks.build(choice)
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        origins = self.networks.origins(choice, shapes)
        shared = self.shared.state_dict()
        for name, shape in shapes.items():
            origin = origins[name]
            if origin not in shared or any(map(int.__gt__, shape, shared[origin].shape)):
                raise ValueError(
                    f"{choice.describe()} does not fit into the supernet of "
                    f"{self.networks.largest().describe()}: "
                    f"no weights for {origin} of shape {tuple(shape)}"
                )
        return _Skeleton(network, shapes, origins, self._twins(network, origins))

    def _twins(self, network: nn.Module, origins: dict[str, str]) -> list[tuple[nn.BatchNorm2d, nn.BatchNorm2d]]:
        twins = []
        for name, own in network.named_modules():
            if isinstance(own, nn.BatchNorm2d):
                shared = self.shared.get_submodule(origins[f"{name}.weight"].removesuffix(".weight"))
                if isinstance(shared, nn.BatchNorm2d):
                    twins.append((own, shared))
        return twins

    def _cut(self, skeleton: _Skeleton) -> dict[str, Tensor]:
        shared = self.shared.state_dict(keep_vars=True)
        parts = {name: shared_part(shared[skeleton.origins[name]], shape) for name, shape in skeleton.shapes.items()}
        # statistics stay views, so that they can be updated
        return {name: part.contiguous() if part.ndim == 4 else part for name, part in parts.items()}


@dataclass(frozen=True)
class _Skeleton:
    """A network without weights; no module, so that the supernet's own weights are all that it holds.

    Args:
        network: On torch's device without memory.
        shapes: Shapes of its parameters and buffers.
        origins: For each of these, the name of the shared tensor it is a part of.
        twins: Each of its batch normalizations with the shared one.
    """

    network: nn.Module
    shapes: dict[str, torch.Size]
    origins: dict[str, str]
    twins: list[tuple[nn.BatchNorm2d, nn.BatchNorm2d]]


def shared_part(shared: Tensor, shape: torch.Size) -> Tensor:
    """Return a view of the leading channels and, for convolutions, of the kernel's centre.

    Args:
        shared: The supernet's tensor.
        shape: Shape of the part, no axis longer than the shared one; kernels odd.
    """
    part = shared
    for axis, length in enumerate(shape):
        start = (shared.shape[axis] - length) // 2 if axis >= 2 else 0
        part = part.narrow(axis, start, length)
    return part


def save_supernet(supernet: Supernet[Choice], path: Path) -> None:
    """Write the shared weights as one safetensors file, whole or not at all."""
    save_weights(supernet.shared, path)


def load_supernet(path: Path, networks: SharedNetworks[Choice]) -> Supernet[Choice]:
    """Read what :func:`save_supernet` wrote for the same networks.

    Raises:
        OutputError: Where the file cannot be read, or holds the weights of another supernet.
    """
    with torch.device("meta"):
        supernet = Supernet(networks)
    try:
        supernet.shared.load_state_dict(load_file(str(path)), assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise OutputError(
            "the kept weights of the supernet cannot be read",
            where=str(path),
            got=str(error),
            remedy="delete that file; the supernet is then trained again",
        ) from error
    return supernet.eval()
