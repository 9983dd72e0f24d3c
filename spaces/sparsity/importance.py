"""How much each channel of a group of tied layers matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch_pruning
from torch import Tensor, nn

from ...errors import CandidateFailure
from .names import ChannelImportance


def channel_scores(group: torch_pruning.Group, importance: ChannelImportance) -> Tensor:
    """Return one score a channel of the group's first layer, shape (channels,), lowest for what goes first.

    - ``magnitude``: the squared weights of the rows that make a channel and of the columns that read it, summed (Fang
      et al., CVPR 2023, section 3.3).
    - ``batch_norm``: the size of the scales by which batch normalization multiplies it (Liu et al., ICCV 2017, section
      3); by magnitude where there is no such layer.
    - ``taylor``: (gradient * weight)^2 summed over the same weights as for magnitude, the change of the squared loss
      that the first-order expansion foretells (Molchanov et al., CVPR 2019, equation 8). Reads ``grad`` of the
      parameters, none counting as zero.
    - ``geometric_median``: the distances of its filter to the other filters of the layer, summed: one that the others
      can stand for scores low (He et al., CVPR 2019, section 3.3). By magnitude where no layer makes the channels.

    Raises:
        CandidateFailure: Where a score is not finite.
    """
    scores = _raw_scores(group, importance).detach().cpu()
    if not bool(torch.isfinite(scores).all()):
        raise CandidateFailure("sparsity", f"importance of channels by {importance} is not finite")
    return scores


def _raw_scores(group: torch_pruning.Group, importance: ChannelImportance) -> Tensor:
    scores: Tensor | None = None
    if importance == "batch_norm":
        scores = torch_pruning.importance.BNScaleImportance(normalizer=None)(group)
    elif importance == "geometric_median":
        scores = _distances_to_other_filters(group)
    elif importance == "taylor":
        with _weights_times_gradients(group):
            return _squared_weights(group)
    return _squared_weights(group) if scores is None else scores


def _squared_weights(group: torch_pruning.Group) -> Tensor:
    scores: Tensor | None = torch_pruning.importance.MagnitudeImportance(p=2, normalizer=None)(group)
    if scores is None:
        # a depthwise convolution that no layer reads: its own weights count elsewhere by what feeds it
        scores = group[0].dep.target.module.weight.flatten(1).square().sum(dim=1)
    return scores


@contextmanager
def _weights_times_gradients(group: torch_pruning.Group) -> Iterator[None]:
    """Put gradient * weight in the place of the weights of the group: their magnitude is the first-order score."""
    layers = {id(dependency.target.module): dependency.target.module for dependency, _ in group}.values()
    modules = (layer for layer in layers if isinstance(layer, nn.Module))
    parameters = list({id(p): p for layer in modules for p in layer.parameters(recurse=False)}.values())
    weights = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            gradient = parameter.grad
            parameter.data = torch.zeros_like(parameter) if gradient is None else parameter.data * gradient
        yield
    finally:
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.data = weight


@torch.no_grad()
def _distances_to_other_filters(group: torch_pruning.Group) -> Tensor | None:
    # torch-pruning's own measures the distances of squared weights, to which a filter and its negative are the same
    producers = (torch_pruning.prune_conv_out_channels, torch_pruning.prune_linear_out_channels)
    scores: Tensor | None = None
    for item in group:
        layer = item.dep.target.module
        if item.dep.handler not in producers:
            continue
        weight = layer.weight.transpose(0, 1) if getattr(layer, "transposed", False) else layer.weight
        filters = weight[item.idxs].flatten(1).float()
        distances = torch.cdist(filters, filters).fill_diagonal_(0.0).sum(dim=1)
        if scores is None:
            scores = distances.new_zeros(len(group[0].idxs))
        scores.index_add_(0, torch.tensor(item.root_idxs, device=distances.device), distances)
    return scores
