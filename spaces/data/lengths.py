"""Batches of other lengths than a network was shown, by which it is told whether an axis of its file may vary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .batches import Inputs

Varying = Mapping[int, str]
"""Axes of the input whose length may vary, and what each is called."""

TOKENS: Varying = {1: "tokens"}
"""The axis of token ids, shape (n, length)."""


def own_varying(example: Inputs) -> Varying:
    """Return the axes of an input that vary by themselves where the network allows it: that of token ids.

    Of several inputs none does.
    """
    if not isinstance(example, Tensor):
        return {}
    kind = example.dtype
    are_ids = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    return TOKENS if are_ids and example.ndim == 2 else {}


def check_varying(varying: Varying, example: Inputs) -> None:
    """Check which axes a caller wants to vary.

    Raises:
        ValueError: Where there is no such axis, or two are called the same.
    """
    if not varying:
        return
    if not isinstance(example, Tensor):
        raise ValueError("varying: one input expected, got several")
    names = list(varying.values())
    axes = [axis for axis in varying if not (isinstance(axis, int) and 1 <= axis < example.ndim)]
    if axes or len(set(names)) < len(names) or not all(names) or "batch" in names:
        raise ValueError(
            f"varying: expected axes from 1 to {example.ndim - 1} of the input and a name of its own for each, other "
            f"than 'batch', got {dict(varying)}"
        )


def other_lengths(example: Inputs, varying: Varying) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield, for shorter and longer inputs, how they differ and batches to try in turn until the network takes one.

    Half and double come first, since strides and pairs of layers often want an even length; then one less and one more.
    Several axes are tried each by itself and all at once.

    Args:
        example: A batch of inputs, shape (n, *input_shape).
        varying: The axes.
    """
    together = [tuple(varying)] if len(varying) > 1 else []
    for axes in [*((axis,) for axis in varying), *together]:
        name = " and ".join(varying[axis] for axis in axes)
        lengths = {axis: example.shape[axis] for axis in axes}
        halved = {axis: length // 2 for axis, length in lengths.items()}
        one_less = {axis: length - 1 for axis, length in lengths.items()}
        shorter = [_cut(example, fewer) for fewer in (halved, one_less) if min(fewer.values()) >= 1]
        if shorter:
            yield f"fewer {name}", shorter
        yield f"more {name}", [_longer(example, axes, 2), _longer(example, axes, 1)]


def _cut(example: Tensor, lengths: Mapping[int, int]) -> Tensor:
    for axis, length in lengths.items():
        example = example.narrow(axis, 0, length)
    return example.contiguous()


def _longer(example: Tensor, axes: tuple[int, ...], times: int) -> Tensor:
    """Return the example twice as long, or by one longer."""
    for axis in axes:
        more = example if times == 2 else example.narrow(axis, 0, 1)
        example = torch.cat([example, more], dim=axis)
    return example
