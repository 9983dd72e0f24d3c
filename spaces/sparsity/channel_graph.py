"""Which layers of a network are tied, so that a channel of one goes with those of the others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from .bounded_graph import BoundedGraph
from .channel_blocks import FixedChannels, block_pruners, traced_as_one

ROOTS = (nn.modules.conv._ConvNd, nn.Linear)

OUTPUT = "makes the output"
TIED_TO_OUTPUT = "tied to a layer that makes the output"
SHUFFLED = "tied to a channel shuffle"
ENDLESS = "tied to other layers without end, over axes that the network folds into each other"
ONE_CHANNEL = "one channel, or one in each group"
NOT_RUN = "not run on the example"
IN_BLOCK = "in an attention, not of its channels"


@dataclass(frozen=True)
class TiedChannels:
    """Layers whose channels go together.

    Args:
        group: What narrows them, over all of their channels.
        parts: Into how many equal parts the channels fall, because a grouped convolution, a grouped norm or the heads
            of an attention are among the layers.
        layers: Names of the convolutions and linear layers that lose channels of their own.
    """

    group: torch_pruning.Group
    parts: int
    layers: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels of the first of the layers."""
        return len(self.group[0].idxs)


@dataclass(frozen=True)
class ChannelGraph:
    """What of a network can be narrowed.

    Args:
        graph: The dependency graph (Fang et al., CVPR 2023, arXiv:2301.12900), through which it is.
        tied: The groups of layers that can lose channels.
        layers: Names of all convolutions and linear layers, in the network's order.
        fixed: Why the others of them keep all of theirs, by name.
    """

    graph: BoundedGraph
    tied: tuple[TiedChannels, ...]
    layers: tuple[str, ...]
    fixed: dict[str, str]


def trace_channels(network: nn.Module, example: Tensor) -> ChannelGraph:
    """Return what of a network can be narrowed; the network is left in evaluation mode, its parameters trainable.

    Args:
        network: As it runs; for one with further outputs in training, such as auxiliary heads, those count as well.
        example: A batch of inputs, shape (n, *input_shape), by which the network is traced.
    """
    network.eval()
    with_training_outputs = output_shapes(network, example) != output_shapes(network, example, as_in_training=True)
    # tracing follows autograd, so a frozen network or a caller's no_grad would hide the graph
    with torch.enable_grad(), warnings.catch_warnings(), traced_as_one(network):
        warnings.simplefilter("ignore")
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        graph = BoundedGraph()
        graph.build_dependency(
            network,
            # a bare tensor would be tried as network(*example) first: one sample without its batch axis
            example_inputs=(example,),
            forward_fn=lambda network, inputs: _run(network, inputs[0], with_training_outputs),
            customized_pruners=block_pruners(network),
        )
    return _sorted_out(network, graph)


def output_shapes(network: nn.Module, example: Tensor, *, as_in_training: bool = False) -> list[tuple[int, ...]]:
    """Return the shapes of all that the network returns, in evaluation mode or with its training's further outputs."""
    with torch.no_grad():
        return [tuple(output.shape) for output in _run(network, example, as_in_training)]


def _run(network: nn.Module, example: Tensor, as_in_training: bool) -> list[Tensor]:
    with _containers_in_training(network) if as_in_training else nullcontext():
        outputs = network(example)
    flat = torch.utils._pytree.tree_leaves(outputs)
    return [output for output in flat if isinstance(output, Tensor)]


@contextmanager
def _containers_in_training(network: nn.Module) -> Iterator[None]:
    """Put the modules that hold others into training mode: they choose the outputs, and no layer's statistics move."""
    containers = [module for module in network.modules() if any(True for _ in module.children())]
    with torch.random.fork_rng(devices=[]):
        for module in containers:
            module.training = True
        try:
            yield
        finally:
            for module in containers:
                module.training = False


def _sorted_out(network: nn.Module, graph: BoundedGraph) -> ChannelGraph:
    output_layers = _output_layers(graph)
    makers_of = _makers_of_channels(network, graph)
    fixed = {name: NOT_RUN if maker is not None else IN_BLOCK for name, maker in makers_of.items()}
    tied = []
    for group, makers in graph.tied_groups(ROOTS):
        layers = tuple(name for name, maker in makers_of.items() if maker in makers)
        reason: str | None = ENDLESS
        if group is not None:
            members = TiedChannels(group, _parts(graph, group), layers)
            reason = _why_fixed(members, not makers.isdisjoint(output_layers))
            if reason is None:
                tied.append(members)
        for name in layers:
            fixed[name] = OUTPUT if makers_of[name] in output_layers else reason or ""
    unmoved = {name: reason for name, reason in fixed.items() if reason}
    return ChannelGraph(graph, tuple(tied), tuple(makers_of), unmoved)


def _makers_of_channels(network: nn.Module, graph: torch_pruning.DependencyGraph) -> dict[str, nn.Module | None]:
    """Return, for each convolution and linear layer, what of the graph its channels are: itself, or its block.

    None where it lies deeper in a block, and has channels of its own that the block does not show.
    """
    modules = dict(network.named_modules())
    blocks = tuple(graph.CUSTOMIZED_PRUNERS)
    makers: dict[str, nn.Module | None] = {}
    for name, layer in modules.items():
        if isinstance(layer, ROOTS):
            holders = [modules[name[:end]] for end, letter in enumerate(name) if letter == "."]
            block = next((holder for holder in holders if isinstance(holder, blocks)), None)
            makers[name] = layer if block is None else block if block is holders[-1] else None
    return makers


def _why_fixed(members: TiedChannels, makes_output: bool) -> str | None:
    """Return why no channel of these layers may go, or None where some may."""
    if makes_output:
        return TIED_TO_OUTPUT
    operations = (str(getattr(dep.target.module, "_grad_fn", "")) for dep, _ in members.group)
    if any(FixedChannels.__name__ in operation for operation in operations):
        return SHUFFLED
    return ONE_CHANNEL if members.channels <= members.parts else None


def _parts(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> int:
    """Return into how many equal parts the channels fall."""
    parts = 1
    for dependency, _ in group:
        layer = dependency.target.module
        depthwise = isinstance(layer, ROOTS[0]) and layer.groups == layer.out_channels
        if isinstance(layer, nn.Module) and not depthwise:
            pruner = graph.get_pruner_of_module(layer)
            produces = graph.is_out_channel_pruning_fn(dependency.handler)
            count = pruner.get_out_channel_groups(layer) if produces else pruner.get_in_channel_groups(layer)
            parts = math.lcm(parts, count)
    return parts


def _output_layers(graph: torch_pruning.DependencyGraph) -> set[nn.Module]:
    """Return the layers whose channels are those of the network's outputs: the last ones on every way to them."""
    waiting = [node for node in graph.module2node.values() if not node.outputs]
    seen = set(waiting)
    layers: set[nn.Module] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node.module, ROOTS) or type(node.module) in graph.CUSTOMIZED_PRUNERS:
            layers.add(node.module)
            continue
        waiting += [before for before in node.inputs if before not in seen]
        seen.update(node.inputs)
    return layers
