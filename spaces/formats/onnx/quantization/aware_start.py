"""What training with rounded weights begins with, and what it has found, in the terms of an ONNX file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from .....errors import CandidateFailure
from ....bit_names import FEWEST_BITS, FLOAT_BITS, MOST_BITS, MOST_BITS_BESIDE_INT8
from ....rounding.bit_choice import BitChoice
from ....rounding.learned import LearnedGrids
from ....rounding.rounded_weights import RoundedWeight
from ....rounding.settings import ActivationRanges, QuantizationSettings
from ....training.qat.folding import FOLDING_SAMPLES, fold_batch_norm
from ....training.qat.qat_training import AwareResult
from ....training.qat.rounded_network import STAGE, AwareStart, InputGroup, around
from .activation_ranges import activation_grids, function_limits
from .bias_correction import correct_biases
from .graph_rounding import replace_weights, round_layers, spread_over_layers
from .module_matching import Exported, along, export_folded, read_layers, readers_of


def bits_of_modules(
    network: nn.Module, choice: BitChoice, calibration: Tensor, settings: QuantizationSettings, sensitivity: Path | None
) -> dict[str, int]:
    """Return bits by module name, spread as they are over the layers of the network's file.

    Args:
        network: Left as it is.
        choice: The bits; beside 8-bit activations, layers that have no int8 kernel have none.
        calibration: Inputs, shape (n, *input_shape).
        settings: How weights are rounded, for a budget.
        sensitivity: Where the table that a budget is spread by is kept; None to keep it nowhere.

    Raises:
        CandidateFailure: Where the network cannot be exported.
    """
    folded = fold_batch_norm(network, calibration[:FOLDING_SAMPLES])
    exported = export_folded(folded, calibration, choice.activation_bits)
    layers = exported.layers
    bits = spread_over_layers(exported.model, layers, layers, choice, calibration.numpy(), settings, sensitivity)
    return {name: max(bits[layer.weight_name] for layer in readers) for name, readers in exported.readers.items()}


def aware_start(
    folded: nn.Module,
    bits: Mapping[str, int],
    activation_bits: int,
    calibration: Tensor,
    settings: QuantizationSettings,
) -> AwareStart:
    """Return where the training of a network begins.

    Args:
        folded: The network, its normalization folded; left as it is.
        bits: Bits of the weights by module name, 2 to 8, as :func:`bits_of_modules` gives them; others stay float32.
        activation_bits: 8 to round what the layers read as well, 32 to leave it.
        calibration: Inputs by which weights are rounded and ranges of activations found, shape (n, *input_shape).
        settings: How weights are rounded.

    Raises:
        CandidateFailure: Where the network cannot be exported.
        ValueError: Where the bits have no meaning.
    """
    _check_bits(bits, activation_bits)
    calibration = calibration.detach().cpu()
    exported = export_folded(folded, calibration, activation_bits)
    inputs = calibration.numpy()
    start = _round_after_training(exported, bits, inputs, settings)
    if activation_bits == FLOAT_BITS or not start.weights:
        return start
    groups = input_groups(exported, start.weights, inputs, settings.activation_ranges)
    return AwareStart(start.weights, start.shifts, tuple(groups))


def _round_after_training(
    exported: Exported, bits: Mapping[str, int], calibration: np.ndarray, settings: QuantizationSettings
) -> AwareStart:
    """Round as after training; the exported model's weights become the rounded ones, and its biases are corrected."""
    readers = {name: layers for name, layers in exported.readers.items() if name in bits}
    read = {layer.node_name for layers in readers.values() for layer in layers}
    bits_of_weight: dict[str, int] = {}
    for name, layers in readers.items():
        for layer in layers:
            bits_of_weight[layer.weight_name] = max(bits[name], bits_of_weight.get(layer.weight_name, 0))
    reached = [layer for layer in exported.layers if layer.node_name in read]
    rounded, lost = round_layers(exported.model, reached, bits_of_weight, settings=settings, calibration=calibration)
    replace_weights(exported.model, rounded)
    shifts = {}
    if settings.bias_correction == "on":
        correct_biases(exported.model, lost)
        for name, layers in readers.items():
            if found := [lost[layer.node_name] for layer in layers if layer.node_name in lost]:
                shifts[name] = np.mean(found, axis=0)  # on average over all readers
    weights: dict[str, tuple[RoundedWeight, int]] = {
        name: (along(rounded[layers[0].weight_name], layers[0]), bits_of_weight[layers[0].weight_name])
        for name, layers in readers.items()
    }
    return AwareStart(weights, shifts)


def input_groups(
    exported: Exported, names: Iterable[str], calibration: np.ndarray, how: ActivationRanges
) -> list[InputGroup]:
    """Return which modules share a grid for what they read, where it begins, and how far it may reach.

    Args:
        exported: The network, its weights rounded and its biases corrected.
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


def learned_grids(result: AwareResult, path: Path) -> LearnedGrids:
    """Return what training found, in the terms of the float32 file that the trained network was exported to.

    Args:
        result: What training gave.
        path: The file that ``result.network`` was exported to.

    Raises:
        CandidateFailure: Where the file does not hold the weights as they were trained.
    """
    model, layers = read_layers(path)
    values = {name: weight.values for name, weight in result.weights.items()}
    exported = Exported(model, layers, readers_of(values, model, layers))
    missing = sorted(set(result.weights) - set(exported.readers))
    if missing:
        raise CandidateFailure(STAGE, f"{path.name} does not hold the weights of {', '.join(missing)} as trained")
    weights = {
        layer.weight_name: along(result.weights[name], layer)
        for name, readers in exported.readers.items()
        for layer in readers
    }
    activations = {
        tensor: grid for name, grid in result.activations.items() for tensor in sorted(exported.tensors_read(name))
    }
    return LearnedGrids(weights=weights, activations=activations)


def _check_bits(bits: Mapping[str, int], activation_bits: int) -> None:
    if activation_bits not in (MOST_BITS, FLOAT_BITS):
        raise ValueError(f"activation_bits must be 8 or 32, got {activation_bits}")
    most = MOST_BITS if activation_bits == FLOAT_BITS else MOST_BITS_BESIDE_INT8
    for name, wanted in bits.items():
        if not FEWEST_BITS <= wanted <= most:
            raise ValueError(
                f"bits of {name} must be within {FEWEST_BITS}..{most} beside activations of {activation_bits} bits, "
                f"got {wanted}"
            )
