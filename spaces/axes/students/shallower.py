"""The student that is the baseline itself, with its trained weights, fewer blocks and channels, on fewer pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ....errors import CandidateFailure
from ...networks.parametrizations import fold_parametrizations
from ...networks.running import copy_network
from ...notes import Note, untold
from ..sparsity.channels import remove_channels
from ..sparsity.verification import Verification
from .blocks import Stage, find_stages, make_identities, pass_over
from .resolution import coarsen
from .trial_run import output_shape


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
        resolution: Fraction of height and width; see :func:`~karui.spaces.axes.students.resolution.coarsen`.
        channel_multiple: As ``multiple`` of :func:`~karui.spaces.axes.sparsity.channels.remove_channels`.
        note: Is told what was spared, and why.

    Raises:
        ValueError: Where ``width`` or ``depth`` lies outside (0, 1], or there is no such resolution.
        CandidateFailure: Where the network does not run without those blocks or channels, or at that resolution.
    """
    for name, value in (("width", width), ("depth", depth)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} of a shallower student: expected 0 < {name} <= 1, got {value}")
    student = fold_parametrizations(baseline)
    stages, failures = _right(
        student, example, [stage for stage in find_stages(student, example) if stage.dropped(depth)], depth
    )
    if failures and not stages:
        raise CandidateFailure("architecture", next(iter(failures.values())))
    for name, reason in failures.items():
        note(f"all blocks of {name} were kept: {reason}")
    student = _without(student, stages, depth)
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
    network = fold_parametrizations(baseline)
    found = [stage for stage in find_stages(network, example) if stage.dropped(depth)]
    return sum(len(stage.dropped(depth)) for stage in _right(network, example, found, depth)[0])


def _without(network: nn.Module, stages: Sequence[Stage], depth: float) -> nn.Module:
    """Return a copy without the blocks that a depth drops; the last of a container first, as the others are renamed."""
    smaller = copy_network(network)
    for stage in reversed(stages):
        pass_over(smaller, stage.parent, stage.dropped(depth))
    return smaller


def _right(
    network: nn.Module, example: Tensor, stages: list[Stage], depth: float
) -> tuple[list[Stage], dict[str, str]]:
    """Return the stages without whose last blocks the network computes what it does with those as identities.

    And for the others, by the name of what holds them, why not.
    """
    verification = Verification(network, example)

    def failure(of: Sequence[Stage]) -> str | None:
        def masked(drawn: nn.Module) -> nn.Module:
            twin = copy_network(drawn)
            for stage in of:
                make_identities(twin, stage.parent, stage.dropped(depth))
            return twin

        return verification.compared(masked, lambda drawn: _without(drawn, of, depth), "the dropped blocks")

    if not stages or failure(stages) is None:
        return stages, {}
    right: list[Stage] = []
    failures: dict[str, str] = {}
    for stage in stages:
        reason = failure([*right, stage])
        if reason is None:
            right.append(stage)
        else:
            failures[stage.parent or "the network"] = reason
    return right, failures


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
