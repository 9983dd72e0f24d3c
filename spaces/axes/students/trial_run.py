"""Running a network once, to see what it does, without leaving a trace in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...networks.running import outputs_of


def output_shape(network: nn.Module, example: Tensor) -> tuple[int, ...]:
    """Return the shape of a network's output, run in evaluation mode.

    Statistics of normalization layers and training flags stay as they are.

    Args:
        network: Any network that returns one tensor.
        example: A batch of inputs, shape (n, *input_shape).
    """
    was_training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return tuple(outputs_of(network, example).shape)
    finally:
        for module, training in was_training.items():
            module.training = training
