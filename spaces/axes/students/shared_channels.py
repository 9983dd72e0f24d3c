"""Which channels of a network's layers belong together, and how important they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from ...networks.quiet import quiet
from ..sparsity.bounded_graph import BoundedGraph

_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)

Axis = tuple[str, bool]
"""A layer's name, and whether the channels that come in are meant (those that go out otherwise)."""


@dataclass(frozen=True)
class SharedChannels:
    """Channels that several layers share, because one feeds the other or their outputs are added.

    Args:
        importance: Mean over the layers of the squared weights of each channel, shape (channels,).
        places: For every axis of a layer that has them, the positions of each channel there, shape (channels,
            positions): several where a flattened image follows.
    """

    importance: Tensor
    places: dict[Axis, Tensor]


def shared_channels(network: nn.Module, example: Tensor) -> list[SharedChannels]:
    """Return all groups of channels that are tied together (Fang et al., CVPR 2023, arXiv:2301.12900).

    Channels of the output are left out. The list is empty where the network cannot be traced.

    Args:
        network: Put into evaluation mode; its parameters are made to require gradients.
        example: A batch of inputs, shape (n, *input_shape).
    """
    try:
        return _trace(network, example)
    except Exception:
        # torch-pruning promises no type of error for a network beyond it: ZeroDivisionError, AssertionError, ...
        return []


def _trace(network: nn.Module, example: Tensor) -> list[SharedChannels]:
    # tracing follows autograd, so a frozen network or a caller's no_grad would hide the graph
    with torch.enable_grad(), quiet():
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        graph = BoundedGraph()
        # a bare tensor would be tried as network(*example) first: one sample without its batch axis
        graph.build_dependency(network, example_inputs=(example.clone(),))
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        names = {module: name for name, module in network.named_modules()}
        groups = []
        for group, _ in graph.tied_groups(_ROOTS):
            if group is None:
                return []
            places = _places(graph, group, names)
            scores = importance(group)
            if scores is not None and any(comes_in for _, comes_in in places):
                groups.append(SharedChannels(scores.detach(), places))
    return groups


def _places(
    graph: torch_pruning.DependencyGraph, group: torch_pruning.Group, names: dict[nn.Module, str]
) -> dict[Axis, Tensor]:
    places: dict[Axis, Tensor] = {}
    channels = len(group[0].idxs)
    for position, (dependency, positions) in enumerate(group):
        layer = dependency.target.module
        if isinstance(layer, nn.Module) and layer in names and any(True for _ in layer.parameters(recurse=False)):
            comes_in = not graph.is_out_channel_pruning_fn(dependency.handler)
            by_channel = torch.argsort(torch.tensor(group[position].root_idxs), stable=True)
            places[names[layer], comes_in] = torch.tensor(positions)[by_channel].reshape(channels, -1)
    return places
