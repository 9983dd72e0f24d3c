"""Running and copying a user's network without a trace in what it is given."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from ...errors import TaskError

Network = TypeVar("Network", bound=nn.Module)


def outputs_of(network: nn.Module, inputs: Any) -> Any:
    """Return what a network makes of a batch, whatever it does to the batch itself: it is given a copy.

    Args:
        network: Runs in the mode it is in.
        inputs: A batch that is still needed as it is, shape (n, *input_shape).
    """
    return network(inputs.detach().clone())


def copy_network(network: Network) -> Network:
    """Return a copy of a network; what cannot be copied of it, such as a lock or an open file, is shared.

    Tensors that were computed from parameters, which torch does not copy, lose what they were computed from.

    Raises:
        TaskError: Where it cannot be copied all the same.
    """
    try:
        return copy.deepcopy(network)
    except Exception:  # whatever an attribute raises: most say TypeError, others RuntimeError or their own
        memo: dict[int, Any] = {}
        for module in network.modules():
            _note_uncopyable(module, memo)
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:
        raise TaskError(
            "the network cannot be copied",
            where=f"Task(model={type(network).__name__})",
            expected="a module that copy.deepcopy copies, locks, files and generators among its attributes aside",
            got=f"{type(error).__name__}: {error}",
            remedy="make what cannot be copied where it is used, instead of keeping it in the module",
        ) from error


def _note_uncopyable(module: nn.Module, memo: dict[int, Any]) -> None:
    """Enter in a memo of deepcopy what stands for those attributes of a module that cannot be copied."""
    own = (module._parameters, module._buffers, module._modules)
    for value in (*module.__dict__.values(), *module._buffers.values()):
        if isinstance(value, nn.Module) or value is None or any(value is each for each in own):
            continue
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
            continue
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            memo[id(value)] = value
