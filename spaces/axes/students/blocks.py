"""Blocks of a network that repeat, of which some can be passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from .trial_run import output_shape

Shapes = dict[nn.Module, bool]
"""For every module that ran: whether each of its calls mapped its first input to one tensor of the same shape."""

Containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""What holds blocks in an order: run one after the other, or walked by a loop in the code."""

_Run = list[tuple[str, nn.Module]]
"""Names and modules of children of one class that follow each other."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one class that follow each other at one shape; ``droppable`` names those that keep it, in order."""

    parent: str
    blocks: int
    droppable: tuple[str, ...]
    whole_blocks: bool

    def dropped(self, depth: float) -> tuple[str, ...]:
        """Return the names of those that are not kept at a depth: the last ones."""
        kept = max(1, round(depth * self.blocks))
        return self.droppable[max(0, len(self.droppable) - (self.blocks - kept)) :]


def find_stages(network: nn.Module, example: Tensor) -> list[Stage]:
    """Return the runs of blocks of one class in every container, cut where the shape changes."""
    names = {module: name for name, module in network.named_modules()}
    return _search(network, _trace(network, example), names)


def pass_over(network: nn.Module, parent: str, blocks: Sequence[str]) -> None:
    """Remove blocks from a container, in place; those of a list are numbered anew, as the code counts on."""
    container = network.get_submodule(parent)
    if isinstance(container, nn.ModuleList):
        for number in sorted(map(int, blocks), reverse=True):
            del container[number]
    else:
        for name in blocks:
            delattr(container, name)


def make_identities(network: nn.Module, parent: str, blocks: Sequence[str]) -> None:
    """Let blocks return their first input, in place."""
    for name in blocks:
        block = network.get_submodule(f"{parent}.{name}" if parent else name)
        block.forward = _first


def _first(inputs: Tensor, *_others: object, **_more: object) -> Tensor:
    return inputs


def _search(module: nn.Module, keeps_shape: Shapes, names: dict[nn.Module, str]) -> list[Stage]:
    """Return the stages in a module; of a stage within a block of another stage only one counts.

    The inner one does where it is a stage of whole blocks, or where the outer block is a mere container; otherwise
    (a depthwise convolution within an inverted residual, say) the outer one does.
    """
    inner = {child: _search(child, keeps_shape, names) for child in module.children()}
    own: list[Stage] = []
    for run in _runs(module, keeps_shape):
        nested = any(stage.whole_blocks or isinstance(child, Containers) for _, child in run for stage in inner[child])
        if not nested:
            inner |= {child: [] for _, child in run}
            own += _cut(names[module], run, keeps_shape)
    return own + [stage for stages in inner.values() for stage in stages]


def _runs(module: nn.Module, keeps_shape: Shapes) -> list[_Run]:
    if not isinstance(module, Containers):
        return []
    children = [(name, child) for name, child in module.named_children() if child in keeps_shape]
    runs = [list(run) for _, run in groupby(children, key=lambda item: type(item[1]))]
    return [run for run in runs if len(run) > 1 and _weighted_layers(run[-1][1])]


def _cut(parent: str, run: _Run, keeps_shape: Shapes) -> list[Stage]:
    parts: list[_Run] = [[]]
    for name, block in run:
        if not keeps_shape[block] and parts[-1]:
            parts.append([])
        parts[-1].append((name, block))
    stages = []
    for part in parts:
        droppable = tuple(name for name, block in part if keeps_shape[block])
        if len(part) > 1:
            stages.append(Stage(parent, len(part), droppable, whole_blocks=_weighted_layers(part[-1][1]) > 1))
    return stages


def _weighted_layers(block: nn.Module) -> int:
    return sum(isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) for layer in block.modules())


def _trace(network: nn.Module, example: Tensor) -> Shapes:
    keeps_shape: Shapes = {}

    def record(module: nn.Module, inputs: tuple[object, ...], outputs: object) -> None:
        same = (
            len(inputs) > 0
            and isinstance(inputs[0], Tensor)
            and isinstance(outputs, Tensor)
            and inputs[0].shape == outputs.shape
        )
        keeps_shape[module] = same and keeps_shape.get(module, True)

    handles = [module.register_forward_hook(record) for module in network.modules()]
    output_shape(network, example)
    for handle in handles:
        handle.remove()
    return keeps_shape
