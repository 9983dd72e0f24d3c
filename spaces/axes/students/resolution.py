"""A network that computes at a fraction of the height and width of its images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....errors import CandidateFailure
from .names import RESOLUTIONS
from .trial_run import output_shape


def coarsen(network: nn.Module, example: Tensor, resolution: float) -> None:
    """Let the convolutions that read the input take wider strides, in place; weights keep their shapes and values.

    All that follows computes on ``resolution`` times the height and width, so that multiply-adds and activations fall
    with its square while every weight stays: scaling by resolution (Tan & Le, EfficientNet, ICML 2019, section 3.2),
    with the first layer, instead of an interpolation before it, as what scales.

    Args:
        network: Changed in place.
        example: A batch of inputs, shape (n, *input_shape).
        resolution: One of :data:`~karui.spaces.axes.students.names.RESOLUTIONS`.

    Raises:
        ValueError: Where there is no such resolution.
        CandidateFailure: Where no convolution reads the input.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution: expected one of {', '.join(map(str, RESOLUTIONS))}, got {resolution}")
    if resolution == 1.0:
        return
    for layer in _entries(network, example):
        layer.stride = tuple(step * round(1.0 / resolution) for step in layer.stride)


def _entries(network: nn.Module, example: Tensor) -> list[nn.modules.conv._ConvNd]:
    """Return the convolution that runs first, and all others that read the very same tensor."""
    calls: list[tuple[nn.modules.conv._ConvNd, Any]] = []

    def record(module: nn.modules.conv._ConvNd, inputs: tuple[Any, ...]) -> None:
        calls.append((module, inputs[0]))

    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        output_shape(network, example)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise CandidateFailure("architecture", "no convolution reads the input, so its resolution cannot be reduced")
    return list(dict.fromkeys(layer for layer, read in calls if read is calls[0][1]))
