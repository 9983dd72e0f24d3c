"""Which layers of a network are tied, so that a channel of one goes with those of the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .heads import Heads
from .labels import Indices, Labels, Place
from .operators import follow
from .tracing import Split, Trace

ROOTS = (nn.modules.conv._ConvNd, nn.Linear)

OUTPUT = "makes the output"
ONE_CHANNEL = "one channel, or one in each group"
NOT_RUN = "not run on the example"

Renaming = Literal["nowhere", "holders", "below"]

Unit = dict[Place, Indices]
"""What goes at once: positions along axes of parameters and buffers."""


@dataclass(frozen=True)
class TiedChannels:
    """Layers whose channels go together.

    Args:
        layers: Names of the convolutions and linear layers that lose channels of their own.
        channels: Channels of the first of them.
        units: What can go, each at once; in the order of the first layer's channels.
        counts: How many channels of the first layer each unit has, shape (units,).
        held: Why some of the channels cannot go; empty where all can.
        is_split: Whether channels of theirs are split into parts somewhere, so that what goes together was a guess.
        renamed: How far numbers among the attributes of modules, such as the number of heads, follow what is removed:
            nowhere, in the modules that hold the layers, or below these as well.
    """

    layers: tuple[str, ...]
    channels: int
    units: tuple[Unit, ...]
    counts: tuple[int, ...]
    held: str = ""
    is_split: bool = False
    renamed: Renaming = "nowhere"

    def with_renaming(self, renamed: Renaming) -> TiedChannels:
        """Return the same layers, numbers among attributes following so far."""
        return replace(self, renamed=renamed)


@dataclass(frozen=True)
class ChannelGraph:
    """What of a network can be narrowed, as far as its operators tell.

    Args:
        tied: The groups of layers that can lose channels.
        layers: Names of all convolutions and linear layers, in the network's order.
        fixed: Why the others of them keep all of theirs, by name.
        has_splits: Whether any channels are split into parts.
        heads: The heads of its attentions, which are told where nothing is tied by a split.
    """

    tied: tuple[TiedChannels, ...]
    layers: tuple[str, ...]
    fixed: dict[str, str]
    has_splits: bool
    heads: Heads


def trace_channels(network: nn.Module, example: Tensor, split: Split = "places") -> ChannelGraph:
    """Return what of a network can be narrowed; the network is left in evaluation mode.

    Args:
        network: As it runs; for one with further outputs in training, such as auxiliary heads, those count as well.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.
        split: What goes together where channels are split into parts.
    """
    network.eval()
    labels = Labels(network)
    trace = Trace(labels, split, follow)
    _tie_attentions(network, trace)
    shapes = [shapes_of(network, example, as_in_training=in_training) for in_training in (False, True)]
    for in_training in (False, True)[: 2 if shapes[0] != shapes[1] else 1]:
        with torch.no_grad(), _every_operator_seen(), trace:
            outputs = outputs_of(network, example, as_in_training=in_training)
        trace.fix_all(outputs, OUTPUT)
    return _grouped(network, trace)


def outputs_of(network: nn.Module, example: Tensor, *, as_in_training: bool = False) -> list[Tensor]:
    """Return all that the network returns, in evaluation mode or with its training's further outputs."""
    with torch.random.fork_rng(devices=[]), _containers_in_training(network) if as_in_training else nullcontext():
        torch.manual_seed(0)
        outputs = network(example.detach().clone())  # which the network may change
    return [output for output in torch.utils._pytree.tree_leaves(outputs) if isinstance(output, Tensor)]


def shapes_of(network: nn.Module, example: Tensor, *, as_in_training: bool) -> list[tuple[int, ...]]:
    """Return the shapes of all that the network returns."""
    with torch.no_grad():
        return [tuple(output.shape) for output in outputs_of(network, example, as_in_training=as_in_training)]


@contextmanager
def _containers_in_training(network: nn.Module) -> Iterator[None]:
    """Put the modules that hold others into training mode: they choose the outputs, and no layer's statistics move."""
    containers = [module for module in network.modules() if any(True for _ in module.children())]
    # a normalization that holds its activation, as timm has them, is a layer and a container
    kept = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    containers = [module for module in containers if not isinstance(module, nn.modules.batchnorm._NormBase)]
    for module in containers:
        module.training = True
    try:
        yield
    finally:
        for module in containers:
            module.training = False
        with torch.no_grad():
            for buffer, values in kept:
                buffer.copy_(values)


@contextmanager
def _every_operator_seen() -> Iterator[None]:
    """Keep torch from running an attention as one operator of its own."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _tie_attentions(network: nn.Module, trace: Trace) -> None:
    """``nn.MultiheadAttention`` is as wide inside as the tokens that it reads; its heads go whole."""
    for attention in network.modules():
        if isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None:
            rows, columns = trace.labels.of_tensor(attention.in_proj_weight) or []
            inner, outer = trace.labels.of_tensor(attention.out_proj.weight) or []
            trace.tie_parts(columns.flatten(), 0, attention.num_heads, wholes=True)
            for part in rows.flatten().chunk(3):
                for other in (columns, inner, outer):
                    trace.labels.tie(part, other.flatten())


def _grouped(network: nn.Module, trace: Trace) -> ChannelGraph:
    labels = trace.labels
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(
        network.named_buffers(remove_duplicate=False)
    )
    places = {(id(tensors[place.name]), place.axis): place for place in labels.places}
    along = {place: labels.along(place) for place in labels.places}
    roots = {name: layer for name, layer in network.named_modules() if isinstance(layer, ROOTS)}
    made: dict[str, Place | None] = {}
    fixed: dict[str, str] = {}
    for name, layer in roots.items():
        if id(layer.weight) not in trace.read:
            fixed[name] = NOT_RUN
            continue
        made[name] = places.get((id(layer.weight), _made_axis(layer)))
    by_label = _positions(along)
    split = {int(label) for layer in trace.splits for label in np.unique(labels.found(layer).numpy())}
    tied = []
    for names in _components(made, along, labels):
        group = _tied(names, made, along, by_label, labels, split)
        if group is not None:
            tied.append(group)
    reached = {name for group in tied for name in group.layers}
    for name, place in made.items():
        if name not in reached:
            fixed[name] = _why_fixed(place, along, labels)
    ordered = {name: fixed[name] for name in roots if name in fixed}
    heads = Heads(labels.places, trace.heads)
    return ChannelGraph(tuple(tied), tuple(roots), ordered, bool(trace.splits), heads)


def _made_axis(layer: nn.Module) -> int:
    """Return along which axis of a layer's weight the channels lie that it makes; of a depthwise one the first."""
    is_depthwise = isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups == layer.in_channels
    return 1 if getattr(layer, "transposed", False) and not is_depthwise else 0


def _positions(along: dict[Place, Indices]) -> dict[int, Unit]:
    """Return, for each label, where it lies."""
    by_label: dict[int, Unit] = {}
    for place, labels in along.items():
        order = np.argsort(labels, kind="stable")
        unique, starts = np.unique(labels[order], return_index=True)
        for label, positions in zip(unique.tolist(), np.split(order, starts[1:]), strict=True):
            by_label.setdefault(label, {})[place] = positions
    return by_label


def _components(made: dict[str, Place | None], along: dict[Place, Indices], labels: Labels) -> list[list[str]]:
    """Return the names of layers that make channels of one label, those that share any together."""
    holders: dict[int, int] = {}
    groups: dict[int, list[str]] = {}
    for number, (name, place) in enumerate(made.items()):
        if place is None:
            continue
        own = [label for label in np.unique(along[place]).tolist() if labels.reason(label) is None]
        before = {holders[label] for label in own if label in holders}
        groups[number] = [*(each for other in sorted(before) for each in groups.pop(other)), name]
        holders |= dict.fromkeys(own, number)
        for label, holder in list(holders.items()) if before else ():
            if holder in before:
                holders[label] = number
    return sorted(groups.values(), key=lambda names: list(made).index(names[0]))


def _tied(
    names: list[str],
    made: dict[str, Place | None],
    along: dict[Place, Indices],
    by_label: dict[int, Unit],
    labels: Labels,
    split: set[int],
) -> TiedChannels | None:
    own = [along[place] for name in names if (place := made[name]) is not None]
    first = max(own, key=len)
    ordered = list(dict.fromkeys(label for each in (first, *own) for label in each.tolist()))
    free = [label for label in ordered if labels.reason(label) is None]
    if not free or (len(free) == 1 and any(np.isin(each, free).all() for each in own)):
        return None
    counts = tuple(int((first == label).sum()) for label in free)
    units = tuple(by_label[label] for label in free)
    held = next((reason for label in first.tolist() if (reason := labels.reason(label)) is not None), "")
    return TiedChannels(tuple(names), len(first), units, counts, held, is_split=not split.isdisjoint(ordered))


def _why_fixed(place: Place | None, along: dict[Place, Indices], labels: Labels) -> str:
    if place is None:
        return ONE_CHANNEL
    reasons = [labels.reason(label) for label in np.unique(along[place]).tolist()]
    told = [reason for reason in reasons if reason is not None]
    return told[0] if told else ONE_CHANNEL
