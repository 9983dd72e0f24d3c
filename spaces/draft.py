"""The draft of a candidate: a file as large and as fast as its own will be, made before any training.

Size and latency hardly depend on what the weights are, only on how many there are, in how many bits, with how many
zeros. So the network is taken as it starts, what would be zeroed gradually is zeroed at once, and weights are rounded
to nearest. What the draft answers means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .candidate import HALF_BITS, Candidate
from .export import PARITY_SAMPLES, export_onnx
from .onnx_file import read_model
from .packing import pack
from .quantization.bit_choice import BitChoice
from .quantization.half import store_in_half
from .quantization.layers import read_weights
from .quantization.preparation import STAGE, prepare_layers
from .quantization.quantize import quantize, zero_weights
from .quantization.sensitivity import ALL_BITS, SensitivityTable, table_digest
from .quantization.settings import QuantizationSettings
from .quantization.zeroing import Zeroing
from .sparsity.weights import zero_weights as zero_network

CALIBRATION_SAMPLES = 16
"""Inputs that give a draft's activations some range; which one does not touch size or latency."""

DISTURBANCE = 0.01
"""Largest number added to what is constant in an untrained network."""


def write_draft(
    path: Path,
    candidate: Candidate,
    choice: BitChoice | None,
    *,
    kept: Path | None,
    start: Callable[[], nn.Module],
    inputs: Tensor,
    settings: QuantizationSettings,
    checked: bool = False,
) -> None:
    """Make the draft of a candidate.

    Args:
        path: Where it goes; files beside it are used on the way.
        candidate: Canonical.
        choice: Its bits; None where weights stay floating.
        kept: Float32 file of the candidate's trained network, where there is one.
        start: Returns the network that the candidate starts from; called where there is none.
        inputs: A batch, float32, shape (n, *input_shape).
        settings: How the study quantizes; here weights are rounded to nearest, and ranges are those of few inputs.
        checked: Whether operators that int8 gets wrong are found, and left float32: what the candidate's own file will
            be slower by.

    Raises:
        CandidateFailure: Where the network cannot be exported, quantized or packed.
    """
    source = kept
    if source is None:
        source = path.with_suffix(".float32.onnx")
        network = start()
        _disturb_constants(network)
        if candidate.zeroing == "gradual":
            zero_network(network, candidate.zeroed_weights, candidate.zero_pattern)
        export_onnx(network, inputs[:PARITY_SAMPLES], source)
    pack(_round(source, path, candidate, choice, inputs[:CALIBRATION_SAMPLES].numpy(), settings, checked), path)


def _disturb_constants(network: nn.Module) -> None:
    """Let no two elements of a tensor be equal only because nothing was learnt yet.

    Normalization begins with ones and zeros, which packing stores once for all layers: files of an untrained
    MobileNetV3 were 13 % too small.
    """
    chance = torch.Generator().manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        values = tensor.detach()
        if values.is_floating_point() and values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            # upwards, since variances are among them
            values += DISTURBANCE * torch.rand(values.shape, generator=chance, dtype=values.dtype)


def _round(
    source: Path,
    beside: Path,
    candidate: Candidate,
    choice: BitChoice | None,
    inputs: np.ndarray,
    settings: QuantizationSettings,
    checked: bool,
) -> Path:
    """Round and zero a float32 file the cheap way; return the file, the source itself where there is nothing to do."""
    rounded = beside.with_suffix(".rounded.onnx")
    cheap = settings.model_copy(update={"rounding": "nearest", "bias_correction": "off", "activation_ranges": "minmax"})
    zeroing = None
    if candidate.zeroed_weights and candidate.zeroing == "one_shot":
        zeroing = Zeroing(candidate.zeroed_weights, candidate.zero_pattern)
    if choice is not None:
        table = None
        if choice.allocation == "budget":
            table = beside.with_suffix(".sensitivity.json")
            table.write_text(_even_table(source, inputs, cheap).to_json(), encoding="utf-8")
        quantize(
            source, rounded, choice, calibration=inputs, settings=cheap, sensitivity=table, zeroing=zeroing,
            checked=checked,
        )  # fmt: skip
        return rounded
    if zeroing is not None:
        zero_weights(source, rounded, zeroing, calibration=inputs, settings=cheap)
        source = rounded
    if candidate.weight_bits == HALF_BITS:
        store_in_half(source, rounded, inputs)
        source = rounded
    return source


def _even_table(source: Path, inputs: np.ndarray, settings: QuantizationSettings) -> SensitivityTable:
    """Return a table by which every weight minds few bits alike, so that a budget of bits is spread evenly.

    Which layer gets more of the bits does not change their sum; measuring it would cost more than all else here.
    """
    model = read_model(source, STAGE)
    layers = prepare_layers(model, source.name)
    weights = read_weights(model, {layer.weight_name for layer in layers})
    sizes = tuple(int(weight.size) for weight in weights.values())
    # The squared error of rounding falls to a quarter with each bit.
    increases = tuple(tuple(float(size) * 0.25**bits for bits in ALL_BITS) for size in sizes)
    return SensitivityTable(table_digest(model, inputs, settings), tuple(weights), sizes, ALL_BITS, increases)
