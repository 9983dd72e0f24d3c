"""The student that is the baseline itself, with its trained weights, fewer blocks and channels, on fewer pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from ...errors import CandidateFailure
from ..notes import Note, untold
from ..running import copy_network
from ..sparsity.channels import remove_channels
from .resolution import coarsen
from .trial_run import output_shape

Shapes = dict[nn.Module, bool]
"""For every module that ran: whether each of its calls mapped one tensor to one of the same shape."""

_Run = list[tuple[str, nn.Module]]
"""Names and modules of children of one class that follow each other."""


@dataclass(frozen=True)
class _Stage:
    """Blocks of one class that follow each other at one shape; ``droppable`` names those that keep it, in order."""

    parent: nn.Module
    blocks: int
    droppable: tuple[str, ...]
    whole_blocks: bool

    def dropped(self, depth: float) -> tuple[str, ...]:
        """Return the names of those that are not kept at a depth: the last ones."""
        kept = max(1, round(depth * self.blocks))
        return self.droppable[max(0, len(self.droppable) - (self.blocks - kept)) :]


def shallower(
    baseline: nn.Module,
    example: Tensor,
    *,
    width: float,
    depth: float,
    resolution: float = 1.0,
    channel_multiple: int = 1,
    note: Note = untold,
) -> nn.Module:
    """Return a copy of the baseline with its weights, of whose blocks, channels and pixels only fractions are kept.

    The last blocks of each stage go. In a trained residual stage the change that a block makes to its input, by which
    Men et al. (2024, "ShortGPT", section 3) rank blocks, falls from the first to the last, so these are the same.

    Args:
        baseline: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        width: Fraction of channels kept, in (0, 1].
        depth: Fraction of the blocks of each stage kept, in (0, 1]; at least one is. No effect where no block repeats.
        resolution: Fraction of height and width; see :func:`~karui.spaces.students.resolution.coarsen`.
        channel_multiple: As ``multiple`` of :func:`~karui.spaces.sparsity.channels.remove_channels`.
        note: Is told what was spared, and why.

    Raises:
        ValueError: Where ``width`` or ``depth`` lies outside (0, 1], or there is no such resolution.
        CandidateFailure: Where the network does not run without those blocks or channels, or at that resolution.
    """
    for name, value in (("width", width), ("depth", depth)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} of a shallower student: expected 0 < {name} <= 1, got {value}")
    student = copy_network(baseline)
    dropped = 0
    for stage in _stages(student, example):
        for name in stage.dropped(depth):
            delattr(stage.parent, name)
            dropped += 1
    if dropped:
        _check(student, baseline, example, "without the dropped blocks")
    if resolution != 1.0:
        coarsen(student, example, resolution)
        _check(student, baseline, example, f"at resolution {resolution:g}")
    return remove_channels(student, example, round(1.0 - width, 6), multiple=channel_multiple, note=note)


def droppable_blocks(baseline: nn.Module, example: Tensor, depth: float = 0.0) -> int:
    """Return how many blocks a depth drops, over all stages; 0 where it has no effect.

    Args:
        baseline: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        depth: As in :func:`shallower`; at 0, as at the smallest one, every stage keeps one block.
    """
    return sum(len(stage.dropped(depth)) for stage in _stages(copy_network(baseline), example))


def _stages(network: nn.Module, example: Tensor) -> list[_Stage]:
    """Find the runs of blocks of one class in every ``nn.Sequential``, cut where the shape changes."""
    return _search(network, _trace(network, example))


def _search(module: nn.Module, keeps_shape: Shapes) -> list[_Stage]:
    """Return the stages in a module; of a stage within a block of another stage only one counts.

    The inner one does where it is a stage of whole blocks, or where the outer block is a mere container; otherwise
    (a depthwise convolution within an inverted residual, say) the outer one does.
    """
    inner = {child: _search(child, keeps_shape) for child in module.children()}
    own: list[_Stage] = []
    for run in _runs(module, keeps_shape):
        nested = any(
            stage.whole_blocks or isinstance(child, nn.Sequential) for _, child in run for stage in inner[child]
        )
        if not nested:
            inner |= {child: [] for _, child in run}
            own += _cut(module, run, keeps_shape)
    return own + [stage for stages in inner.values() for stage in stages]


def _runs(module: nn.Module, keeps_shape: Shapes) -> list[_Run]:
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return []
    children = [(name, child) for name, child in module.named_children() if child in keeps_shape]
    runs = [list(run) for _, run in groupby(children, key=lambda item: type(item[1]))]
    return [run for run in runs if len(run) > 1 and _weighted_layers(run[-1][1])]


def _cut(parent: nn.Module, run: _Run, keeps_shape: Shapes) -> list[_Stage]:
    parts: list[_Run] = [[]]
    for name, block in run:
        if not keeps_shape[block] and parts[-1]:
            parts.append([])
        parts[-1].append((name, block))
    stages = []
    for part in parts:
        droppable = tuple(name for name, block in part if keeps_shape[block])
        if len(part) > 1:
            stages.append(_Stage(parent, len(part), droppable, whole_blocks=_weighted_layers(part[-1][1]) > 1))
    return stages


def _weighted_layers(block: nn.Module) -> int:
    return sum(isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) for layer in block.modules())


def _trace(network: nn.Module, example: Tensor) -> Shapes:
    keeps_shape: Shapes = {}

    def record(module: nn.Module, inputs: tuple[object, ...], outputs: object) -> None:
        same = (
            len(inputs) == 1
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


def _check(student: nn.Module, baseline: nn.Module, example: Tensor, how: str) -> None:
    expected = output_shape(baseline, example)
    try:
        got = output_shape(student, example)
    except (RuntimeError, IndexError, KeyError, AttributeError, ValueError, TypeError) as error:
        reason = f"the network does not run {how}: {type(error).__name__}: {error}"
        raise CandidateFailure("architecture", reason) from error
    if got != expected:
        reason = f"the output's shape changed from {expected} to {got} {how}"
        raise CandidateFailure("architecture", reason)
