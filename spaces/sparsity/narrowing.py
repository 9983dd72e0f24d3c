"""Taking places of parameters out of a network, or setting them to zero where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..running import copy_network
from .channel_graph import TiedChannels, Unit
from .labels import Indices, Place

Removal = tuple[TiedChannels, Sequence[int]]
"""Tied layers, and the numbers of their units that go."""


def narrowed(network: nn.Module, removals: Iterable[Removal]) -> nn.Module:
    """Return a copy of a network without some of its units; parameters of several names stay shared."""
    removals = list(removals)
    smaller = copy_network(network)
    gone = positions_of(removals)
    widths = {id(module): _widths(module) for module in smaller.modules()}
    _replace(smaller, gone)
    for module in smaller.modules():
        _settle(module, widths[id(module)])
    for tied, removed in removals:
        if tied.renamed and removed:
            _rename(network, smaller, tied, len(removed))
    return smaller


def masked(network: nn.Module, removals: Iterable[Removal]) -> nn.Module:
    """Return a copy of a network in which some of its units are zero: what makes them, scales them and reads them."""
    twin = copy_network(network)
    tensors = dict(twin.named_parameters(remove_duplicate=False)) | dict(twin.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for place, positions in positions_of(removals).items():
            if not place.name.endswith("running_var"):
                tensors[place.name].index_fill_(place.axis, torch.from_numpy(positions), 0)
    return twin


def positions_of(removals: Iterable[Removal]) -> Unit:
    """Return all positions that go, along each axis that loses some."""
    gone: dict[Place, list[Indices]] = {}
    for tied, removed in removals:
        for number in removed:
            for place, positions in tied.units[number].items():
                gone.setdefault(place, []).append(positions)
    return {place: np.unique(np.concatenate(several)) for place, several in gone.items()}


def _replace(network: nn.Module, gone: Unit) -> None:
    by_name: dict[str, list[Place]] = {}
    for place in gone:
        by_name.setdefault(place.name, []).append(place)
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(
        network.named_buffers(remove_duplicate=False)
    )
    smaller = {id(tensors[name]): _without(tensors[name], places, gone) for name, places in by_name.items()}
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is not None and id(tensor) in smaller:
                    setattr(module, name, smaller[id(tensor)])  # recurrent layers keep a list of their own


def _without(tensor: Tensor, places: list[Place], gone: Unit) -> Tensor:
    kept, gradient = tensor.detach(), tensor.grad
    for place in places:
        left = torch.from_numpy(np.setdiff1d(np.arange(place.length), gone[place])).to(tensor.device)
        kept = kept.index_select(place.axis, left)
        gradient = None if gradient is None else gradient.index_select(place.axis, left)
    kept = kept.contiguous()
    if not isinstance(tensor, nn.Parameter):
        return kept
    parameter = nn.Parameter(kept, requires_grad=tensor.requires_grad)
    parameter.grad = gradient
    return parameter


def _widths(module: nn.Module) -> dict[str, int]:
    """Return the lengths of a module's own tensors along their first axes, by name and axis."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {f"{name}.{axis}": length for name, tensor in own for axis, length in enumerate(tensor.shape)}


def _settle(module: nn.Module, before: dict[str, int]) -> None:
    """Put right the widths that a layer of torch keeps as plain numbers."""
    after = _widths(module)
    if after == before:
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        made, read = (1, 0) if module.transposed else (0, 1)
        if module.groups > 1 and module.groups == module.in_channels:
            # depthwise: the first axis holds the channels that are made, or for a transposed one those that are read
            each = 1 if module.transposed else module.out_channels // module.in_channels
            module.groups = after["weight.0"] // each
        module.out_channels = after[f"weight.{made}"] * (module.groups if module.transposed else 1)
        module.in_channels = after[f"weight.{read}"] * (1 if module.transposed else module.groups)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = after["weight.0"], after["weight.1"]
    elif isinstance(module, nn.MultiheadAttention):
        _settle_attention(module)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * after["weight.0"] // before["weight.0"]
        module.num_channels = after["weight.0"]
    elif isinstance(module, (nn.modules.batchnorm._NormBase,)):
        module.num_features = next(length for name, length in after.items() if name.endswith(".0"))
    elif isinstance(module, nn.PReLU):
        module.num_parameters = after["weight.0"]
    elif isinstance(module, nn.RNNBase):
        module.input_size = after["weight_ih_l0.1"]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size = after["weight_ih.1"]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = after["weight.1"]


def _settle_attention(module: nn.MultiheadAttention) -> None:
    width = module.in_proj_weight.shape[1]
    module.num_heads = width // module.head_dim
    module.embed_dim = module.kdim = module.vdim = width


_HEADS = "head"
_WIDTHS = ("dim", "channel", "feature", "width", "hidden", "planes", "size", "filters", "inner")


def _rename(network: nn.Module, smaller: nn.Module, tied: TiedChannels, removed: int) -> None:
    """Let numbers among the attributes of the modules that hold the layers follow: of heads, and of widths."""
    for name in tied.layers:
        holder = name.rpartition(".")[0]
        before, after = network.get_submodule(name).weight, smaller.get_submodule(name).weight
        module = smaller.get_submodule(holder)
        numbers = {before.shape[axis]: after.shape[axis] for axis in (0, 1) if before.shape[axis] != after.shape[axis]}  # type: ignore[index]
        for key, value in list(vars(module).items()):
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            is_width = any(word in key.lower() for word in _WIDTHS)
            if _HEADS in key.lower() and not is_width and value == len(tied.units):
                setattr(module, key, value - removed)
            elif value in numbers and is_width:
                setattr(module, key, numbers[value])
