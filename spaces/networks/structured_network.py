"""A user's network of several inputs or outputs, behind the one call that everything here makes of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..data.named import Named
from ..data.structures import Structure, named


class StructuredNetwork(nn.Module):
    """A network that takes one batch, a tensor or named tensors, and gives a tensor or named tensors.

    Where it is traced, as an exporter does, it takes and gives the tensors themselves, in their order.

    Args:
        network: The user's, as it is.
        inputs: The structure of its inputs: a dict, given by keyword, or a tuple, given in order. None for one tensor.
    """

    def __init__(self, network: nn.Module, inputs: Structure | None) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs

    def forward(self, *given: Any) -> Any:
        """Return what the network gives for a batch."""
        outputs = named(self.answer(*given), taken=() if self.inputs is None else self.inputs.names)
        return outputs.tensors if isinstance(outputs, Named) and torch._C._get_tracing_state() is not None else outputs

    def answer(self, *given: Any) -> Any:
        """Return what the network gives, in its own structure."""
        if self.inputs is None:
            return self.network(*given)
        if len(given) == 1 and isinstance(given[0], Named):
            value = self.inputs.restore(given[0].parts)
        else:
            value = self.inputs.restore(dict(zip(self.inputs.names, given, strict=True)))
        return self.network(**value) if isinstance(value, Mapping) else self.network(*value)


def own_network(model: nn.Module) -> nn.Module:
    """Return the user's network itself, out of what puts it behind the call of one batch."""
    return model.network if isinstance(model, StructuredNetwork) else model
