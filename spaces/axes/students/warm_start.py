"""A student that starts from the weights of a wider or deeper baseline of its own family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...networks.running import copy_network, outputs_of
from .shared_channels import Axis, SharedChannels, shared_channels

LEAST_SHARE = 2 / 3
"""Share of the student's layers that the baseline must give; below it the two are no one family."""

TOLERANCE = 1e-2
"""Largest change of the output, relative to its spread over the samples, that counts as none: wrong wiring gives 1."""

ROUNDING = 1e-5
"""What rounding changes, relative to the largest output."""

Kept = dict[Axis, Tensor]
"""For axes of channels that are not taken over whole: the positions in the baseline that are taken, in order."""

_Pairs = dict[str, tuple[nn.Module, nn.Module]]
"""For names of layers: the student's and the baseline's."""


@dataclass(frozen=True)
class WarmStart:
    """How much of a student comes from the baseline.

    Args:
        copied_layers: Layers whose weights, biases and statistics are all slices of the baseline's.
        all_layers: Layers of the student that have parameters.
    """

    copied_layers: int
    all_layers: int


def warm_start(student: nn.Module, baseline: nn.Module, example: Tensor) -> WarmStart:
    """Copy the baseline's most important channels into a student of the same family, in place.

    A layer takes what the layer of the same name in the baseline has, where modules of the same classes hold both and
    it is nowhere larger; of a larger kernel it takes the centre. Which channels that are is decided once for all layers
    that share them, by their summed squared weights, as :func:`~karui.spaces.axes.sparsity.channels.remove_channels`
    does: a narrower network cut out of a wider one by importance (Cai et al., "Once-for-all", ICLR 2020, section 3.3).
    Blocks that the student lacks are left out.

    A student of other shapes stays as it is where the baseline's channels cannot be traced: ShuffleNet's, for example.

    Args:
        student: Changed in place.
        baseline: Left as it is.
        example: A batch of inputs of both, shape (n, *input_shape).
    """
    pairs = dict(_pairs(student, baseline))
    all_layers = sum(1 for _ in _layers(student))
    kept: Kept = {}
    strangers: set[str] = set()
    if any(_shapes(ours) != _shapes(theirs) for ours, theirs in pairs.values()):
        example = example.cpu()
        ours, theirs = (copy_network(network).cpu().eval() for network in (student, baseline))
        groups = shared_channels(theirs, example)
        if not groups or not _is_unchanged_by_order(theirs, groups, pairs, example):
            return WarmStart(0, all_layers)
        strangers = _tied_otherwise(groups, shared_channels(ours, example), set(pairs))
        kept = _choose(theirs, groups, pairs)
    copied: dict[str, dict[str, Tensor]] = {}
    for name in pairs.keys() - strangers:
        tensors = _slices(name, *pairs[name], kept)
        if tensors is not None:
            copied[name] = tensors
    if len(copied) < LEAST_SHARE * all_layers:
        return WarmStart(0, all_layers)
    for name, tensors in copied.items():
        _fill(pairs[name][0], tensors)
    return WarmStart(len(copied), all_layers)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (item for item in network.named_modules() if any(True for _ in item[1].parameters(recurse=False)))


def _own_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Return a layer's own parameters and buffers; those of its children are theirs."""
    return dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))


def _shapes(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in _own_tensors(layer).items()}


def _fill(layer: nn.Module, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for key, tensor in _own_tensors(layer).items():
            tensor.copy_(tensors[key])


def _pairs(student: nn.Module, baseline: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, nn.Module]]]:
    """Yield the layers of the student that the baseline has too, where all modules that hold them are of one kind."""
    ours, theirs = dict(student.named_modules()), dict(baseline.named_modules())
    for name, layer in _layers(student):
        parts = name.split(".") if name else []
        holders = [".".join(parts[:depth]) for depth in range(len(parts) + 1)]
        if all(holder in theirs and isinstance(theirs[holder], type(ours[holder])) for holder in holders):
            yield name, (layer, theirs[name])


def _tied_otherwise(ours: list[SharedChannels], theirs: list[SharedChannels], names: set[str]) -> set[str]:
    """Return those of the named layers whose channels are tied to other layers in one network than in the other.

    Where a narrow block adds its input to its output, which the wide one cannot as its shapes differ, channels that are
    chosen apart would be added.
    """
    ours_by_axes, theirs_by_axes = (
        {frozenset(axis for axis in group.places if axis[0] in names) for group in groups} for groups in (ours, theirs)
    )
    return {name for axes in ours_by_axes ^ theirs_by_axes for name, _ in axes}


def _choose(baseline: nn.Module, groups: list[SharedChannels], pairs: _Pairs) -> Kept:
    """Return the positions of the most important channels, as many as the student has, for every axis."""
    masks: dict[Axis, Tensor] = {}
    for group in groups:
        by_importance = torch.argsort(group.importance, descending=True, stable=True)
        unwanted = by_importance[_wanted_channels(group, pairs) :]
        for axis, places in group.places.items():
            width = _width(baseline.get_submodule(axis[0]), axis)
            masks.setdefault(axis, torch.ones(width, dtype=torch.bool))[places[unwanted]] = False
    return {axis: mask.nonzero().flatten() for axis, mask in masks.items() if not mask.all()}


def _wanted_channels(group: SharedChannels, pairs: _Pairs) -> int:
    """Return how many of the channels the student has; all of them where its layers do not agree on fewer."""
    channels = len(group.importance)
    produced = set()
    for axis, places in group.places.items():
        if not axis[1] and axis[0] in pairs:
            ours, theirs = pairs[axis[0]]
            # of what is produced for several channels each, or for other groups as well, the size says nothing
            if places.numel() == channels == _width(theirs, axis):
                produced.add(_width(ours, axis))
    return min(channels, *produced) if len(produced) == 1 else channels


def _slices(name: str, ours: nn.Module, theirs: nn.Module, kept: Kept) -> dict[str, Tensor] | None:
    """Return the baseline's tensors cut to the shapes of the student's; None where that cannot be."""
    slices: dict[str, Tensor] = {}
    used: set[Axis] = set()
    sources = _own_tensors(theirs)
    for key, target in _own_tensors(ours).items():
        if key not in sources or sources[key].dim() != target.dim():
            return None
        source = sources[key].detach().cpu()
        for dimension, axis in enumerate(_axes(name, theirs, source)):
            used.add(axis)
            if axis in kept:
                source = source.index_select(dimension, kept[axis])
        source = _centre(source, target)
        if source.shape != target.shape:
            return None
        slices[key] = source
    # a convolution in groups has no axis of its own for the channels that come in
    return slices if {(name, False), (name, True)} & set(kept) <= used else None


def _axes(name: str, layer: nn.Module, tensor: Tensor) -> tuple[Axis, ...]:
    """Return which channels the first dimensions of one of a layer's tensors stand for."""
    goes_out, comes_in = (name, False), (name, True)
    if tensor.dim() == 1:
        return (goes_out,)
    if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        return ()
    if isinstance(layer, nn.Linear) or layer.groups == 1:
        return (comes_in, goes_out) if getattr(layer, "transposed", False) else (goes_out, comes_in)
    return (goes_out,)


def _centre(source: Tensor, target: Tensor) -> Tensor:
    """Cut a kernel, all dimensions behind the first two, to the size of another."""
    for dimension in range(2, source.dim()):
        surplus = source.shape[dimension] - target.shape[dimension]
        if surplus > 0:
            source = source.narrow(dimension, surplus // 2, target.shape[dimension])
    return source


def _is_unchanged_by_order(network: nn.Module, groups: list[SharedChannels], pairs: _Pairs, example: Tensor) -> bool:
    """Reorder those channels of a network of which the student has fewer, and say whether it computes the same.

    The tracing takes operations that it does not know for elementwise ones; only then would the output change.
    """
    generator = torch.Generator().manual_seed(0)
    order: Kept = {}
    for group in groups:
        channels = len(group.importance)
        if _wanted_channels(group, pairs) == channels:
            continue
        shuffled = torch.randperm(channels, generator=generator)
        for axis, places in group.places.items():
            layer = network.get_submodule(axis[0])
            whole = order.setdefault(axis, torch.arange(_width(layer, axis)))
            whole[places] = places[shuffled]
    reordered = copy_network(network)
    layers = dict(network.named_modules())
    for name in {name for name, _ in order}:
        layer = reordered.get_submodule(name)
        tensors = _slices(name, layer, layers[name], order)
        if tensors is None:
            return False
        _fill(layer, tensors)
    with torch.no_grad():
        expected, got = outputs_of(network, example), outputs_of(reordered, example)
    spread = (expected - expected.mean(dim=0)).abs().max() if len(expected) > 1 else expected.abs().max()
    return bool((got - expected).abs().max() <= TOLERANCE * spread + ROUNDING * expected.abs().max())


def _width(layer: nn.Module, axis: Axis) -> int:
    """Return how many channels an axis of a layer has."""
    comes_in = axis[1]
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.in_channels if comes_in else layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features if comes_in else layer.out_features
    return len(layer.get_parameter("weight"))
