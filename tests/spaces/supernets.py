"""Supernets of either space, made up for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from karui.spaces.axes.supernet.networks import Choice, SharedNetworks
from karui.spaces.axes.supernet.weights import Supernet


def made_up_supernet(networks: SharedNetworks[Choice], seed: int = 0) -> Supernet[Choice]:
    """Return a supernet whose batch normalization does something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = Supernet(networks)
        for layer in supernet.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, 0.1, 0.5)
                layer.get_buffer("running_mean").uniform_(-0.2, 0.2)
                layer.get_buffer("running_var").uniform_(0.5, 1.5)
    return supernet.eval()


def run(supernet: Supernet[Choice], choice: Choice, inputs: Tensor) -> Tensor:
    """Return what the supernet answers as the network of a choice."""
    supernet.set(choice)
    with torch.no_grad():
        outputs: Tensor = supernet(inputs)
    return outputs
