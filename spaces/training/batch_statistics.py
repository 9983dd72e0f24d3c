"""Running statistics of batch normalization, estimated anew for a network whose weights changed without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.batches import Inputs
from ..data.named import Named
from ..networks.running import outputs_of
from ..prediction import evaluation_mode, place_of
from ..task import Task, iterate

STATISTICS_SAMPLES = 1024
"""Samples from which statistics are estimated: a thousand are enough (Wu & Johnson 2021, section 3)."""
STATISTICS_BATCH = 128


def reestimate_normalization(network: nn.Module, inputs: Inputs | Iterable[Inputs]) -> int:
    """Estimate the running statistics of all batch normalization anew, and return of how many layers.

    Each statistic becomes the plain mean of its values in the batches, every batch counting the same, whatever the
    layer's momentum (Wu & Johnson 2021, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section 3). The layers
    before it normalize by the batch, as in training; dropout is off. Weights, flags, momenta and layers without
    running statistics stay as they are; without batch normalization nothing runs.

    Args:
        network: Changed in place.
        inputs: One batch of inputs, shape (n, *input_shape), or several; more than one value per channel in each.

    Raises:
        ValueError: Where there is no batch.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        return 0
    batches = iter((inputs,) if isinstance(inputs, (Tensor, Named)) else inputs)
    first = next(batches, None)
    if first is None:
        raise ValueError("inputs to estimate normalization from: expected one batch or more, got none")
    place = place_of(network)
    momenta = [layer.momentum for layer in layers]
    try:
        with evaluation_mode(network):
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
                layer.train()
            for batch in chain((first,), batches):
                outputs_of(network, batch.to(place))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return len(layers)


def statistics_inputs(task: Task, *, seed: int, samples: int = STATISTICS_SAMPLES) -> Iterator[Inputs]:
    """Yield batches of training inputs, drawn at random, from which statistics can be estimated.

    They are not augmented, because the network's inputs after training are not. A trailing batch of one sample is left
    out, because layers without a spatial extent cannot normalize by it.

    Args:
        task: Its ``train`` data.
        seed: Seed of the draw.
        samples: Samples drawn, at most and rounded up to whole batches.
    """
    order = torch.Generator().manual_seed(seed)
    batches = iterate(task.train, STATISTICS_BATCH, generator=order)
    for number, (inputs, _) in enumerate(islice(batches, -(-samples // STATISTICS_BATCH))):
        if len(inputs) > 1 or number == 0:
            yield inputs
