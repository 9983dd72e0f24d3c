"""A first run of the user's model: what it gives for the user's data, and whether that has a place in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TaskError
from ..data.batches import Pairs, read_inputs
from ..data.named import describe_shapes
from ..data.structured_split import StructuredSplit
from ..data.structures import Structure, TakenApart, take_apart
from .memory_layout import channels_first
from .running import copy_network
from .structured_network import StructuredNetwork, own_network

_ROWS = 2


@dataclass(frozen=True)
class Wrapped:
    """The user's model behind the one call that is made of networks.

    Args:
        model: The model itself where it takes and gives one tensor.
        outputs: The structure of what the user's model gives; None where that is one tensor.
        told: What was left out, in words.
    """

    model: nn.Module
    outputs: Structure | None = None
    told: tuple[str, ...] = ()


def in_structure(model: nn.Module, split: Pairs) -> Wrapped:
    """Run a copy of a model on the first sample, and return it as everything works on it.

    A model of one input that fails is returned as it is: whoever checks a task with it says so.

    Raises:
        TaskError: Where a model of several inputs or outputs fails, or gives something that no file can.
    """
    own = own_network(model)
    inputs = split.structure if isinstance(split, StructuredSplit) else None
    batch = read_inputs(split, torch.zeros(_ROWS, dtype=torch.int64))
    try:
        answer = _answer(own, inputs, batch)
    except Exception as error:  # a user's forward may raise anything
        if inputs is None:
            return Wrapped(model)
        raise TaskError(
            "the task's model does not run on the task's data",
            where="Task(model=..., train=...)",
            expected=f"a model that takes {describe_shapes(batch)}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
        ) from error
    wrapped = StructuredNetwork(own, inputs)
    apart = take_apart(answer, taken=() if inputs is None else inputs.names)
    if isinstance(answer, Tensor) or not apart.parts:
        return Wrapped(model if inputs is None else wrapped)
    _check_outputs(apart)
    told = [f"{each} among the model's outputs is no tensor and left out of files" for each in apart.left_out]
    return Wrapped(wrapped, apart.structure, tuple(told))


def _answer(model: nn.Module, inputs: Structure | None, batch: Any) -> Any:
    copied = copy_network(model).cpu().eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return StructuredNetwork(copied, inputs).answer(channels_first(batch))


def _check_outputs(apart: TakenApart) -> None:
    for name, part in apart.parts.items():
        if part.ndim < 1 or len(part) != _ROWS:
            raise TaskError(
                "an output of the task's model is not a batch",
                where=f"Task(model=...): output {name}",
                expected=f"a tensor whose first axis is the batch of {_ROWS}",
                got=f"shape {tuple(part.shape)}",
                remedy="put a module around the model that brings the batch to the front, or leaves this output out",
            )
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            raise TaskError(
                "an output of the task's model is not finite",
                where=f"Task(model=...): output {name}",
                expected="finite numbers for the first sample of train",
                got="NaN or infinity",
            )
