"""Running a network once, to see what it does, without leaving a trace in it."""

from __future__ import annotations

import torch
from torch import nn

from ...data.batches import Inputs
from ...data.named import Shapes, whole_shapes_of
from ...networks.running import outputs_of


def output_shape(network: nn.Module, example: Inputs) -> Shapes:
    """Return the shape of a network's output, or of each of several by name, run in evaluation mode.

    Statistics of normalization layers and training flags stay as they are.

    Args:
        network: Any network that returns one tensor.
        example: A batch of inputs, shape (n, *input_shape).
    """
    was_training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return whole_shapes_of(outputs_of(network, example))
    finally:
        for module, training in was_training.items():
            module.training = training
