"""The steps of a recipe that round a file and zero its weights; for a file that only is timed, the cheap way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...rounding.bit_choice import BitChoice
from ...rounding.joint_zeroing import Zeroing
from ...rounding.settings import QuantizationSettings
from ...step import UNTRAINED_SAMPLES, FileWork, Step


def round_file(source: Path, destination: Path, step: Step, work: FileWork) -> None:
    """Write the file with its weights rounded, and zeroed where that is to be done in the same go."""
    if not step.settings:
        work.format.store_in_half(source, destination)
        return
    inputs, settings = _how(work)
    choice, table = bit_choice(step.settings), work.sensitivity
    if work.is_untrained and choice.allocation == "budget":
        table = work.folder / "even.sensitivity.json"
        table.write_text(work.format.even_table(source, inputs, settings).to_json(), encoding="utf-8")
    work.format.round(
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
    work.format.zero(source, destination, _zeroing(step.settings), calibration=inputs, settings=settings)


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
