"""Structured sparsity: channels removed for good, through the dependency graph of the network."""

from __future__ import annotations

import copy
import math
import warnings

import torch
import torch_pruning
from torch import Tensor, nn

from ...errors import CandidateFailure

_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)


def remove_channels(network: nn.Module, example: Tensor, fraction: float, *, multiple: int = 1) -> nn.Module:
    """Return a copy of the network without the given fraction of the channels of every layer.

    Layers that a sum, a depthwise convolution or the like ties together lose the same channels: those of the smallest
    summed squared weights (Fang et al., CVPR 2023, arXiv:2301.12900). Every layer keeps at least one channel, a
    grouped layer one in each group; layers that produce the output keep all of theirs.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.
        fraction: Fraction removed, in [0, 1).
        multiple: Channel counts that are kept come as near to the fraction as a multiple of this allows, the lower of
            two that are as near: kernels are fast at counts that fill their vectors. Layers with fewer channels than
            this go by the fraction alone.

    Raises:
        ValueError: Where ``fraction`` lies outside [0, 1), or ``multiple`` is below 1.
        CandidateFailure: Where the network cannot be traced, or does not run without those channels.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction of channels to remove: expected 0 <= fraction < 1, got {fraction}")
    if multiple < 1:
        raise ValueError(f"multiple of channel counts: expected 1 or more, got {multiple}")
    narrower = copy.deepcopy(network)
    if fraction == 0.0:
        return narrower
    narrower.eval()
    shape_before = _output_shape(narrower, example)
    trainable = {name: parameter.requires_grad for name, parameter in narrower.named_parameters()}
    try:
        _prune(narrower, example, fraction, multiple)
        shape_after = _output_shape(narrower, example)
    except Exception as error:
        # torch-pruning promises no type of error for a network beyond it: ZeroDivisionError, AssertionError, ...
        reason = f"channels cannot be removed from this network: {type(error).__name__}: {error}"
        raise CandidateFailure("sparsity", reason) from error
    if shape_after != shape_before:
        reason = f"removing channels changed the output's shape from {shape_before} to {shape_after}"
        raise CandidateFailure("sparsity", reason)
    for name, parameter in narrower.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    return narrower.train(network.training)


def _prune(network: nn.Module, example: Tensor, fraction: float, multiple: int) -> None:
    """Remove channels in place, every group of tied layers ranked on its own."""
    # tracing follows autograd, so a frozen network or a caller's no_grad would hide the graph
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        graph = torch_pruning.DependencyGraph()
        # a bare tensor would be tried as network(*example) first: one sample without its batch axis
        graph.build_dependency(network, example_inputs=(example,))
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        ignored = _output_layers(graph)
        choices = []
        for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=_ROOTS):
            scores = importance(group)
            if scores is not None and len(scores) > 1:
                removed = _least_important(scores, _channel_groups(graph, group), fraction, multiple)
                choices.append((group[0].dep.target.module, group[0].dep.handler, removed))
        for layer, remove, removed in choices:
            group = graph.get_pruning_group(layer, remove, removed)
            if removed and graph.check_pruning_group(group):
                group.prune()


def _least_important(scores: Tensor, channel_groups: int, fraction: float, multiple: int) -> list[int]:
    """Return the channels to remove: the same positions in every one of the equal channel groups."""
    position_scores = scores.detach().cpu().reshape(channel_groups, -1).mean(dim=0)
    positions = len(position_scores)
    kept = kept_channels(positions, fraction, multiple // math.gcd(multiple, channel_groups))
    weakest = torch.argsort(position_scores, stable=True)[: positions - kept]
    return sorted(int(position) + start * positions for position in weakest for start in range(channel_groups))


def kept_channels(channels: int, fraction: float, multiple: int) -> int:
    """Return how many of the channels stay: see ``multiple`` of :func:`remove_channels`."""
    wanted = channels * (1.0 - fraction)
    if channels < multiple:
        return max(1, round(wanted))
    # half a step is rounded down, with room for what 1 - fraction loses in floating point
    steps = max(1, math.ceil(wanted / multiple - 0.5 - 1e-9)) if multiple > 1 else max(1, round(wanted))
    return min(channels, steps * multiple)


def _channel_groups(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> int:
    """Return into how many equal parts the channels fall, because a grouped convolution or norm is among the layers."""
    parts = 1
    for dependency, _ in group:
        layer = dependency.target.module
        depthwise = isinstance(layer, _ROOTS[0]) and layer.groups == layer.out_channels
        if isinstance(layer, nn.Module) and not depthwise:
            pruner = graph.get_pruner_of_module(layer)
            produces = graph.is_out_channel_pruning_fn(dependency.handler)
            count = pruner.get_out_channel_groups(layer) if produces else pruner.get_in_channel_groups(layer)
            parts = math.lcm(parts, count)
    return parts


def _output_layers(graph: torch_pruning.DependencyGraph) -> list[nn.Module]:
    """Return the layers whose channels are those of the network's output: the last ones on every way to it."""
    waiting = [node for node in graph.module2node.values() if not node.outputs]
    seen = set(waiting)
    layers: list[nn.Module] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node.module, _ROOTS):
            layers.append(node.module)
            continue
        waiting += [before for before in node.inputs if before not in seen]
        seen.update(node.inputs)
    return layers


def _output_shape(network: nn.Module, example: Tensor) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(network(example).shape)
