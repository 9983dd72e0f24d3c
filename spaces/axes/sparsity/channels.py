"""Structured sparsity: channels removed for good, along what the network's operators tie together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from ....errors import CandidateFailure
from ...networks.parametrizations import fold_parametrizations
from ...networks.running import copy_network
from ...notes import Note, untold
from ...sparsity_names import ChannelImportance, ChannelScope, share_note
from .channel_choice import keep_by_layer, keep_globally, kept_channels, rank_channels
from .importance import ChannelScores
from .narrowing import Removal, narrowed
from .removable import Removable, find_removable, without_failing

MOST_NAMES = 4
"""Layers that a note names one by one; of more, the rest is counted."""

TOLD_FROM = 0.01
"""By how much the share that went may be another than asked for without a word."""

__all__ = ["kept_channels", "removable_channels", "remove_channels"]


def remove_channels(
    network: nn.Module,
    example: Tensor,
    fraction: float,
    *,
    multiple: int = 1,
    importance: ChannelImportance = "magnitude",
    scope: ChannelScope = "layer",
    gradient: Callable[[nn.Module], None] | None = None,
    note: Note = untold,
) -> nn.Module:
    """Return a copy of the network without the given fraction of its channels.

    Layers that a sum, a depthwise convolution or the like ties together lose the same channels (Fang et al., CVPR
    2023, arXiv:2301.12900). Every layer keeps at least one channel, a grouped layer one in each group; groups of a
    normalization and heads of an attention go whole; layers that produce the output keep all of theirs. In evaluation
    mode the copy computes what the network does with those channels masked, which is checked on the example: layers
    where it would not are spared.

    Args:
        network: Left as it is; of the copy, parametrizations are folded.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.
        fraction: Fraction removed, in [0, 1).
        multiple: Channel counts that are kept come as near to the fraction as a multiple of this allows: kernels are
            fast at counts that fill their vectors. Of two that are as near, the lower in those layers to which it
            matters least, until the fraction of all channels is reached. Layers with fewer channels than this go by
            the fraction alone.
        importance: By what channels are ranked: see :func:`~.importance.channel_scores`.
        scope: Whether every layer loses that fraction, or the layers compete and it is that of all channels: see
            :func:`~.channel_choice.keep_globally`. Layers tied together count as one.
        gradient: Fills ``grad`` of the parameters of the network it is given, a copy in evaluation mode, by running
            ``backward`` on some batches; needed for, and only called for, the importance ``taylor``.
        note: Is told which layers were spared and why, and what fraction went where it is another one.

    Raises:
        ValueError: Where an argument has no meaning, or ``gradient`` is missing or leaves no gradient.
        CandidateFailure: Where the network cannot be traced, or no layer can lose channels.
    """
    _check_arguments(fraction, multiple, importance, scope, gradient)
    wider = fold_parametrizations(network)
    if fraction == 0.0:
        return wider
    if importance == "taylor" and gradient is not None:
        _fill_gradients(wider, gradient)
    with _failing_as_candidate("which channels belong together cannot be told"):
        found = find_removable(wider, example)
    if not found.tied:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(found.reasons.items())[:3])
        why = reasons or "there is no convolution or linear layer"
        raise CandidateFailure("sparsity", f"no layer has channels that can be removed ({why})")
    scores = ChannelScores(wider, importance)
    ranked = [rank_channels(scores.of(tied), tied) for tied in found.tied]
    keep = keep_globally if scope == "global" else keep_by_layer
    kept = keep(ranked, fraction, multiple)
    chosen = [(tied, group.weakest(count)) for tied, group, count in zip(found.tied, ranked, kept, strict=True)]
    with _failing_as_candidate("channels cannot be removed from this network"):
        removals, spared = without_failing(found.verification, chosen)
        if not any(removed for _, removed in removals) and spared:
            name, reason = next(iter(spared.items()))
            raise CandidateFailure("sparsity", f"{name}: {reason}")
        smaller = narrowed(wider, removals)
    _tell(note, fraction, found, removals, spared)
    smaller.zero_grad(set_to_none=True)
    return smaller.train(network.training)


def _tell(note: Note, fraction: float, found: Removable, removals: Sequence[Removal], spared: dict[str, str]) -> None:
    """Say which layers were spared, and what fraction of the other channels went where it is not the one asked for."""
    for reason, names in _by_reason(found.spared() | spared).items():
        note(f"channels of {_listed(names)} were spared: {reason}")
    narrower = [tied for tied, _ in removals if spared.keys().isdisjoint(tied.layers)]
    for tied in [tied for tied in narrower if tied.held]:
        held = tied.channels - sum(tied.counts)
        note(f"{held} of {tied.channels} channels of {_listed(tied.layers)} were spared: {tied.held}")
    channels = sum(sum(tied.counts) for tied in narrower)
    gone = sum(tied.counts[number] for tied, removed in removals for number in removed)
    share = gone / channels if channels else 0.0
    if channels and abs(share - fraction) > TOLD_FROM:
        note(share_note(share, fraction))


def _by_reason(spared: dict[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in spared.items():
        names.setdefault(reason, []).append(name)
    return names


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


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


def _fill_gradients(network: nn.Module, gradient: Callable[[nn.Module], None]) -> None:
    """Put the gradients that the function finds into a network, whatever else it does to the one it is given."""
    scored = copy_network(network).eval().requires_grad_(True)
    with torch.enable_grad():
        gradient(scored)
    found = [None if parameter.grad is None else parameter.grad.detach() for parameter in scored.parameters()]
    if all(grad is None for grad in found):
        raise ValueError("gradient: expected it to fill grad of the network's parameters, got none on any")
    for parameter, grad in zip(network.parameters(), found, strict=True):
        parameter.grad = None if grad is None else grad.to(parameter.device)


@contextmanager
def _failing_as_candidate(what: str) -> Iterator[None]:
    """Let whatever goes wrong be the candidate's failure, for the reason that is told in these words."""
    try:
        yield
    except CandidateFailure:
        raise
    except Exception as error:  # a user's forward may raise anything
        reason = f"{what}: {type(error).__name__}: {error}"
        raise CandidateFailure("sparsity", reason) from error


def removable_channels(network: nn.Module, example: Tensor) -> Removable:
    """Return what of a network can be narrowed, each group of tied layers tried by removing half of its channels.

    Raises:
        CandidateFailure: Where the network cannot be traced.
    """
    with _failing_as_candidate("which channels belong together cannot be told"):
        return find_removable(fold_parametrizations(network), example).tried()
