"""Taking places of parameters out of a network, or setting them to zero where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...networks.running import copy_network
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
        if tied.renamed != "nowhere" and removed:
            for module, key, number in followed(smaller, tied, removed):
                setattr(module, key, number)
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
_WIDTHS = ("dim", "channel", "feature", "width", "hidden", "planes", "size", "filters", "inner", "emb", "groups")
_WIDTHS_OF_HEADS = ("d_", "dh", "dhead")


def followed(network: nn.Module, tied: TiedChannels, removed: Sequence[int]) -> list[tuple[nn.Module, str, int]]:
    """Return what numbers among the attributes of modules become: of heads, and of widths."""
    widths = _narrowed_widths(tied, removed)
    units, kept = len(tied.units), len(tied.units) - len(removed)
    found: list[tuple[nn.Module, str, int]] = []
    for module in _holders(network, tied):
        for key, value in vars(module).items():
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            name = key.lower()
            is_width = any(word in name for word in _WIDTHS) or name.startswith(_WIDTHS_OF_HEADS)
            if _HEADS in name and not is_width and value and value % units == 0:
                # of several heads of queries for each of the keys, as many go
                found.append((module, key, value // units * kept))
            elif is_width and value in widths:
                found.append((module, key, widths[value]))
    return found


def _narrowed_widths(tied: TiedChannels, removed: Sequence[int]) -> dict[int, int]:
    """Return what widths become of those along the axes that lose channels, where that is one number."""
    widths: dict[int, set[int]] = {}
    for place, gone in positions_of([(tied, removed)]).items():
        widths.setdefault(place.length, set()).add(place.length - len(gone))
    return {before: after.pop() for before, after in widths.items() if len(after) == 1}


def _holders(network: nn.Module, tied: TiedChannels) -> list[nn.Module]:
    """Return the user's modules that hold the layers, and those below them where numbers follow there."""
    holders = {id(holder): holder for holder in (_holder(network, name) for name in tied.layers)}
    if tied.renamed == "below":
        holders = {id(module): module for holder in holders.values() for module in holder.modules()}
    return [module for module in holders.values() if not _is_of_torch(module)]


def _holder(network: nn.Module, name: str) -> nn.Module:
    """Return the nearest module above a layer that is no container of torch."""
    while name and _is_of_torch(network.get_submodule(name)):
        name = name.rpartition(".")[0]
    return network.get_submodule(name)


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
