"""Where the training begins: at the integers and biases that rounding after training gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from ...formats.onnx.quantization.activation_ranges import activation_grids, function_limits
from ...formats.onnx.quantization.bias_correction import correct_biases
from ...formats.onnx.quantization.graph_rounding import replace_weights, round_layers
from ...rounding.rounded_weights import RoundedWeight
from ...rounding.settings import ActivationRanges, QuantizationSettings
from .matching import Exported, along
from .rounded_network import InputGroup, QuantizedModule, around, module_of


def round_after_training(
    folded: nn.Module,
    exported: Exported,
    bits: Mapping[str, int],
    calibration: np.ndarray,
    settings: QuantizationSettings,
) -> dict[str, tuple[RoundedWeight, int]]:
    """Return integers and scales of the modules' weights, and their bits.

    Biases are corrected in place, and so is the exported model: its weights become the rounded ones.
    """
    readers = {name: layers for name, layers in exported.readers.items() if name in bits}
    read = {layer.node_name for layers in readers.values() for layer in layers}
    bits_of_weight: dict[str, int] = {}
    for name, layers in readers.items():
        for layer in layers:
            bits_of_weight[layer.weight_name] = max(bits[name], bits_of_weight.get(layer.weight_name, 0))
    reached = [layer for layer in exported.layers if layer.node_name in read]
    rounded, shifts = round_layers(exported.model, reached, bits_of_weight, settings=settings, calibration=calibration)
    replace_weights(exported.model, rounded)
    if settings.bias_correction == "on":
        correct_biases(exported.model, shifts)
        for name, layers in readers.items():
            found = [shifts[layer.node_name] for layer in layers if layer.node_name in shifts]
            _shift_bias(module_of(folded, name), found)
    return {
        name: (along(rounded[layers[0].weight_name], layers[0]), bits_of_weight[layers[0].weight_name])
        for name, layers in readers.items()
    }


def _shift_bias(module: QuantizedModule, shifts: list[np.ndarray]) -> None:
    """Add to a bias, where there is one, what rounding takes from the mean output, on average over all readers."""
    if shifts and isinstance(module.bias, nn.Parameter):
        with torch.no_grad():
            module.bias.add_(torch.from_numpy(np.mean(shifts, axis=0)).to(module.bias.dtype))


def input_groups(
    exported: Exported, names: Iterable[str], calibration: np.ndarray, how: ActivationRanges
) -> list[InputGroup]:
    """Return which modules share a grid for what they read, where it begins, and how far it may reach.

    Args:
        exported: The network, as :func:`round_after_training` leaves it.
        names: The modules whose inputs are rounded.
        calibration: float32, shape (n, *input_shape).
        how: How ranges are found; training begins where rounding after training leaves them, and with the extremes
            where these are chosen by the outputs of a file that there is not yet.
    """
    tensors = {name: exported.tensors_read(name) for name in names}
    rule = "minmax" if how == "auto" else how
    grids, functions = activation_grids(exported.model, calibration, rule), function_limits(exported.model)
    groups = []
    for members in grouped_by_input(tensors):
        read = set().union(*(tensors[name] for name in members))
        ends = [grids[tensor].ends for tensor in sorted(read) if tensor in grids]
        limits = [functions[tensor] for tensor in read if tensor in functions]
        lower = max((each[0] for each in limits), default=-math.inf)
        upper = min((each[1] for each in limits), default=math.inf)
        groups.append(InputGroup(tuple(members), around(ends) if ends else None, (lower, upper)))
    return groups


def grouped_by_input(tensors: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the modules in groups of those that read a tensor in common, directly or through others."""
    groups: list[tuple[list[str], set[str]]] = []
    for name, read in tensors.items():
        touched = [group for group in groups if group[1] & read]
        names = [member for group in touched for member in group[0]]
        groups = [group for group in groups if group not in touched]
        groups.append(([*names, name], read.union(*(group[1] for group in touched))))
    return [names for names, _ in groups]
