"""Data whose inputs are read in float32, because the model computes in it and files are made from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from .batches import Pairs
from .named import parts_of
from .structured_split import StructuredSplit


def in_float32(split: Pairs, *, model_was_converted: bool) -> Pairs:
    """Return the split, or one with its inputs in float32 where the model cannot be given them as they are.

    Args:
        split: Pairs of input and target.
        model_was_converted: Whether the model was in another precision, so that its inputs follow it. Otherwise only
            bfloat16, which numpy and files do not know, is converted; what the model makes of the rest is its own.
    """
    if isinstance(split, StructuredSplit):
        kinds = {part.dtype for part in parts_of(split[0][0]).values() if part.is_floating_point()} - {torch.float32}
        if not (kinds if model_was_converted else kinds & {torch.bfloat16}):
            return split
        return split.in_float32("all" if model_was_converted else "bfloat16")
    kind = split[0][0].dtype
    if not kind.is_floating_point or kind == torch.float32:
        return split
    if not model_was_converted and kind != torch.bfloat16:
        return split
    if type(split) is TensorDataset:
        inputs, *others = split.tensors
        return TensorDataset(inputs.detach().float(), *others)
    return _InFloat32(split)


class _InFloat32(Dataset[tuple[Tensor, ...]]):
    """The pairs of another data set, inputs in float32."""

    def __init__(self, split: Pairs) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        inputs, target = self._split[index]
        return inputs.detach().float(), target
