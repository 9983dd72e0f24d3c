"""Hints: the student's features are compared with the teacher's where both networks work at the same resolution."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..networks.running import outputs_of
from ..prediction import evaluation_mode, place_of

Resolution = tuple[int, int]
Maps = Mapping[Resolution, Tensor]
"""Attention maps of a batch by resolution, shape (n, height * width) each."""
_Hook = Callable[[nn.Module, object, object], None]


def attention_map(features: Tensor) -> Tensor:
    """Return where a layer is active: the mean square over channels, each sample's map scaled to length 1.

    Source: Zagoruyko & Komodakis, Paying More Attention to Attention (ICLR 2017), section 3.1, F^2 and Q / ||Q||.

    Args:
        features: Shape (n, channels, height, width).

    Returns:
        Shape (n, height * width).
    """
    return nn.functional.normalize(features.float().square().mean(dim=1).flatten(1), dim=1)


def map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of two attention maps, averaged over the samples: a scalar in [0, 2].

    Args:
        student: Shape (n, height * width).
        teacher: The same.
    """
    return (student - teacher).square().sum(dim=1).mean()


class AttentionHints:
    """Compares the features of the student's latest run with what the teacher attended to in the same batch.

    Args:
        student: What the student's hooks fill: the latest features by resolution.
        resolutions: Those that are compared.
    """

    def __init__(self, student: dict[Resolution, Tensor], resolutions: tuple[Resolution, ...]) -> None:
        self._student = student
        self.resolutions = resolutions

    def loss(self, maps: Maps) -> Tensor:
        """Return the sum of the distances over the resolutions, a scalar.

        Args:
            maps: The teacher's, of the same batch, for these resolutions at least.
        """
        distances = [map_distance(attention_map(self._student[place]), maps[place]) for place in self.resolutions]
        # let go of the graph behind the features
        self._student.clear()
        return torch.stack(distances).sum()


@contextmanager
def attention_transfer_loss(
    student: nn.Module, resolutions: Collection[Resolution], inputs: Tensor
) -> Iterator[AttentionHints | None]:
    """Hook the student and yield what compares its features; None where it has none of these resolutions.

    Compared is the last output of a module at each resolution (height, width) above 1 x 1 that both networks have:
    where the one network halves height and width, and so does the other. The number of channels may differ.

    Args:
        student: Hooked for the while.
        resolutions: Those of the teacher's :func:`last_modules`.
        inputs: A batch by which the modules are found, shape (n, *input_shape).
    """
    modules = {place: module for place, module in last_modules(student, inputs).items() if place in resolutions}
    if not modules:
        yield None
        return
    with features_of(modules) as features:
        yield AttentionHints(features, tuple(modules))


@contextmanager
def features_of(modules: Mapping[Resolution, nn.Module]) -> Iterator[dict[Resolution, Tensor]]:
    """Yield what fills with the outputs of these modules by resolution, in each run of their network meanwhile."""
    features: dict[Resolution, Tensor] = {}
    # a module that runs at several resolutions is hooked once
    handles = [module.register_forward_hook(_keeper(features)) for module in set(modules.values())]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def last_modules(network: nn.Module, inputs: Tensor) -> dict[Resolution, nn.Module]:
    """Return, by resolution, the part of the network whose output is the last of that resolution."""
    last: dict[Resolution, nn.Module] = {}

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if (place := _resolution(output)) is not None:
            last[place] = module

    # a container's hook runs after those of its parts, so that of a block is the sum with its shortcut
    handles = [module.register_forward_hook(note) for module in network.modules() if module is not network]
    try:
        with evaluation_mode(network):
            outputs_of(network, inputs.to(place_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    return last


def _keeper(features: dict[Resolution, Tensor]) -> _Hook:
    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and (place := _resolution(output)) is not None:
            features[place] = output

    return keep


def _resolution(output: object) -> Resolution | None:
    """Return height and width of features (n, channels, height, width); None where there is no place to attend to."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] * output.shape[3] == 1:
        return None
    return int(output.shape[2]), int(output.shape[3])
