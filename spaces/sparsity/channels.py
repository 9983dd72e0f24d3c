"""Structured sparsity: channels removed for good, through the dependency graph of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from ...errors import CandidateFailure
from ..notes import Note, untold
from .channel_blocks import settle
from .channel_choice import keep_by_layer, keep_globally, kept_channels, rank_channels
from .channel_graph import ChannelGraph, output_shapes, trace_channels
from .importance import channel_scores
from .names import ChannelImportance, ChannelScope

__all__ = ["breaking_layers", "kept_channels", "narrowed", "remove_channels", "traced_or_failed"]


def remove_channels(
    network: nn.Module,
    example: Tensor,
    fraction: float,
    *,
    multiple: int = 1,
    importance: ChannelImportance = "magnitude",
    scope: ChannelScope = "layer",
    gradient: Callable[[nn.Module], None] | None = None,
    note: Note = untold,  # noqa: ARG001
) -> nn.Module:
    """Return a copy of the network without the given fraction of its channels.

    Layers that a sum, a depthwise convolution or the like ties together lose the same channels (Fang et al., CVPR
    2023, arXiv:2301.12900). Every layer keeps at least one channel, a grouped layer one in each group, an attention
    one in each head; layers that produce the output keep all of theirs.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.
        fraction: Fraction removed, in [0, 1).
        multiple: Channel counts that are kept come as near to the fraction as a multiple of this allows, the lower of
            two that are as near: kernels are fast at counts that fill their vectors. Layers with fewer channels than
            this go by the fraction alone.
        importance: By what channels are ranked: see :func:`~.importance.channel_scores`.
        scope: Whether every layer loses that fraction, or the layers compete and it is that of all channels: see
            :func:`~.channel_choice.keep_globally`. Layers tied together count as one.
        gradient: Fills ``grad`` of the parameters of the network it is given, a copy in evaluation mode, by running
            ``backward`` on some batches; needed for, and only called for, the importance ``taylor``.
        note: Is told what was spared, and why.

    Raises:
        ValueError: Where an argument has no meaning, or ``gradient`` is missing or leaves no gradient.
        CandidateFailure: Where the network cannot be traced, no layer can lose channels, or it does not run without
            those channels.
    """
    _check_arguments(fraction, multiple, importance, scope, gradient)
    if fraction == 0.0:
        return copy.deepcopy(network)
    gradients = _gradients(network, gradient) if importance == "taylor" and gradient is not None else None

    def choose(traced: ChannelGraph) -> list[list[int]]:
        return _choose(traced, fraction, multiple, importance, scope)

    try:
        return narrowed(network, example, choose, gradients=gradients)
    except CandidateFailure:
        breaking = breaking_layers(network, example)
        if not breaking:
            raise
        return narrowed(network, example, choose, gradients=gradients, spared=breaking)


def narrowed(
    network: nn.Module,
    example: Tensor,
    choose: Callable[[ChannelGraph], list[list[int]]],
    *,
    gradients: list[Tensor | None] | None = None,
    spared: Collection[str] = (),
) -> nn.Module:
    """Return a copy of the network without the channels chosen in each group of tied layers.

    Layers that share a parameter still do where they keep the same of it.

    Args:
        network: Left as it is.
        example: As in :func:`remove_channels`.
        choose: Returns the channels to remove of each tied group of the graph.
        gradients: What ``grad`` of each parameter of the copy is when ``choose`` is called.
        spared: Names of layers that keep their channels, and with them those tied to them.

    Raises:
        CandidateFailure: As in :func:`remove_channels`.
    """
    narrower = copy.deepcopy(network).eval()
    named = list(narrower.named_parameters(remove_duplicate=False))
    trainable = {name: parameter.requires_grad for name, parameter in named}
    shared = _names_of_shared(named)
    if gradients is not None:
        for parameter, found in zip(narrower.parameters(), gradients, strict=True):
            parameter.grad = None if found is None else found.to(parameter.device)
    traced = traced_or_failed(narrower, example)
    traced = replace(traced, tied=tuple(tied for tied in traced.tied if not set(tied.layers) & set(spared)))
    with _failing_as_candidate("channels cannot be removed from this network"):
        before = _shapes(narrower, example)
        chosen = choose(traced)
        if not any(chosen):
            # as where the multiple rounds every layer up to the channels that it has: the network as it was
            return copy.deepcopy(network)
        _prune(traced, chosen)
        settle(narrower)
        _share_again(narrower, shared)
    with _failing_as_candidate("the network does not run without some of its channels"):
        after = _shapes(narrower, example)
    if after != before:
        reason = f"removing channels changed the output's shape from {before[0]} to {after[0]}"
        raise CandidateFailure("sparsity", reason)
    narrower.zero_grad(set_to_none=True)
    for name, parameter in narrower.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    return narrower.train(network.training)


def breaking_layers(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Return the layers without one channel of which the network does not run, and the reason.

    Such a layer's channels are counted on by something that the graph does not show, like a fixed shape in ``view``.
    Each group of tied layers is tried on its own; none is where the network runs with all of them narrowed at once.

    Raises:
        CandidateFailure: Where the network cannot be traced, or runs without no channel at all.
    """
    traced = traced_or_failed(copy.deepcopy(network), example)
    if not traced.tied:
        return {}
    failure = _failure_without(network, example, range(len(traced.tied)))
    if failure is None:
        return {}
    breaking: dict[str, str] = {}
    for number, tied in enumerate(traced.tied):
        alone = _failure_without(network, example, [number])
        if alone is not None:
            breaking.update(dict.fromkeys(tied.layers, alone.reason))
    if all(set(tied.layers) <= set(breaking) for tied in traced.tied):
        raise failure
    return breaking


def _failure_without(network: nn.Module, example: Tensor, numbers: Collection[int]) -> CandidateFailure | None:
    """Return why the network does not run where the groups of these numbers lose one channel of each part.

    Once it is the first, once the last: what reads some of the channels only misses one of them but not the other.
    """
    for place in (0, -1):

        def choose(traced: ChannelGraph, place: int = place) -> list[list[int]]:
            parts = [torch.arange(tied.channels).reshape(tied.parts, -1)[:, place].tolist() for tied in traced.tied]
            return [part if number in numbers else [] for number, part in enumerate(parts)]

        try:
            narrowed(network, example, choose)
        except CandidateFailure as failure:
            return failure
    return None


def _shapes(network: nn.Module, example: Tensor) -> list[list[tuple[int, ...]]]:
    return [output_shapes(network, example, as_in_training=in_training) for in_training in (False, True)]


def traced_or_failed(network: nn.Module, example: Tensor) -> ChannelGraph:
    """Return :func:`~.channel_graph.trace_channels` of the network; what it raises is the candidate's failure."""
    with _failing_as_candidate("which channels belong together cannot be told"):
        return trace_channels(network, example)


def _check_arguments(
    fraction: float,
    multiple: int,
    importance: ChannelImportance,
    scope: ChannelScope,
    gradient: Callable[[nn.Module], None] | None,
) -> None:
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction of channels to remove: expected 0 <= fraction < 1, got {fraction}")
    if multiple < 1:
        raise ValueError(f"multiple of channel counts: expected 1 or more, got {multiple}")
    if importance not in get_args(ChannelImportance):
        raise ValueError(f"importance of channels: expected one of {get_args(ChannelImportance)}, got {importance!r}")
    if scope not in get_args(ChannelScope):
        raise ValueError(f"scope of channels: expected one of {get_args(ChannelScope)}, got {scope!r}")
    if importance == "taylor" and gradient is None:
        raise ValueError("importance 'taylor': expected a gradient function, got None")


def _gradients(network: nn.Module, gradient: Callable[[nn.Module], None]) -> list[Tensor | None]:
    """Return the gradients that the function finds, whatever else it does to its network."""
    scored = copy.deepcopy(network).eval().requires_grad_(True)
    with torch.enable_grad():
        gradient(scored)
    found = [None if parameter.grad is None else parameter.grad.detach() for parameter in scored.parameters()]
    if all(grad is None for grad in found):
        raise ValueError("gradient: expected it to fill grad of the network's parameters, got none on any")
    return found


@contextmanager
def _failing_as_candidate(what: str) -> Iterator[None]:
    """Let whatever goes wrong be the candidate's failure, for the reason that is told in these words."""
    try:
        yield
    except CandidateFailure:
        raise
    except Exception as error:
        # torch-pruning promises no type of error for a network beyond it: ZeroDivisionError, AssertionError, ...
        reason = f"{what}: {type(error).__name__}: {error}"
        raise CandidateFailure("sparsity", reason) from error


def _choose(
    traced: ChannelGraph, fraction: float, multiple: int, importance: ChannelImportance, scope: ChannelScope
) -> list[list[int]]:
    """Return the channels to remove of each group of tied layers."""
    ranked = [rank_channels(channel_scores(tied.group, importance), tied.parts) for tied in traced.tied]
    if not ranked:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(traced.fixed.items())[:3])
        raise CandidateFailure("sparsity", f"no layer has channels that can be removed ({reasons})")
    keep = keep_globally if scope == "global" else keep_by_layer
    return [group.weakest(kept) for group, kept in zip(ranked, keep(ranked, fraction, multiple), strict=True)]


def _prune(traced: ChannelGraph, chosen: list[list[int]]) -> None:
    """Remove channels in place."""
    narrowed_any = False
    for tied, removed in zip(traced.tied, chosen, strict=True):
        first = tied.group[0].dep
        group = traced.graph.get_pruning_group(first.target.module, first.handler, removed)
        if removed and traced.graph.check_pruning_group(group):
            group.prune()
            narrowed_any = True
    if not narrowed_any:
        raise CandidateFailure("sparsity", "a layer would be left without channels")


def _names_of_shared(named: Iterable[tuple[str, nn.Parameter]]) -> list[list[str]]:
    """Return, for each parameter that several layers share, its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in named:
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _share_again(network: nn.Module, shared: list[list[str]]) -> None:
    """Make one parameter again of those that were one and are equal still: each layer was given its own part."""
    for names in shared:
        parts: list[nn.Parameter] = []
        for name in names:
            own = network.get_parameter(name)
            twin = next((part for part in parts if torch.equal(part, own)), None)
            if twin is None:
                parts.append(own)
            else:
                holder, _, attribute = name.rpartition(".")
                setattr(network.get_submodule(holder), attribute, twin)
