"""The steps of a recipe that round a file and zero its weights; for a file that only is timed, the cheap way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.onnx.onnx_file import read_model
from ...formats.onnx.quantization.half import store_in_half
from ...formats.onnx.quantization.preparation import STAGE, prepare_layers
from ...formats.onnx.quantization.quantize import quantize, zero_weights
from ...formats.onnx.quantization.sensitivity_probe import table_digest
from ...formats.onnx.quantization.weight_layers import read_weights
from ...rounding.bit_choice import BitChoice
from ...rounding.joint_zeroing import Zeroing
from ...rounding.sensitivity import ALL_BITS, SensitivityTable
from ...rounding.settings import QuantizationSettings
from ...step import UNTRAINED_SAMPLES, FileWork, Step


def round_file(source: Path, destination: Path, step: Step, work: FileWork) -> None:
    """Write the file with its weights rounded, and zeroed where that is to be done in the same go."""
    if not step.settings:
        store_in_half(source, destination)
        return
    inputs, settings = _how(work)
    choice, table = bit_choice(step.settings), work.sensitivity
    if work.is_untrained and choice.allocation == "budget":
        table = work.folder / "even.sensitivity.json"
        table.write_text(_even_table(source, inputs, settings).to_json(), encoding="utf-8")
    quantize(
        source,
        destination,
        choice,
        calibration=inputs,
        settings=settings,
        learned=work.learned,
        sensitivity=table,
        zeroing=_zeroing(step.settings["zeros"]) if "zeros" in step.settings else None,
        note=work.note,
        checked=work.is_checked,
    )


def zero_file(source: Path, destination: Path, step: Step, work: FileWork) -> None:
    """Write the file with some of its weights zeroed."""
    inputs, settings = _how(work)
    zero_weights(source, destination, _zeroing(step.settings), calibration=inputs, settings=settings)


def bit_choice(settings: Mapping[str, Any]) -> BitChoice:
    """Return the bits that a step asks for."""
    return BitChoice(**{name: value for name, value in settings.items() if name != "zeros"})


def _zeroing(settings: Mapping[str, Any]) -> Zeroing:
    return Zeroing(settings["zeroed_weights"], settings["zero_pattern"])


def _how(work: FileWork) -> tuple[np.ndarray, QuantizationSettings]:
    """Return the inputs on which rounding is decided, and how it is."""
    if not work.is_untrained:
        return work.calibration.numpy(), work.quantization
    cheap = {"rounding": "nearest", "bias_correction": "off", "activation_ranges": "minmax"}
    return work.calibration[:UNTRAINED_SAMPLES].numpy(), work.quantization.model_copy(update=cheap)


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
