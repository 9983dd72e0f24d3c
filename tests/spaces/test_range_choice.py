"""Ranges of activations chosen by the error of a network's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from karui.spaces.artifact import file_digest
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import run_in_batches
from karui.spaces.formats.onnx.quantization.activation_ranges import RULES
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.formats.onnx.quantization.range_choice import squared_error
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.settings import ActivationRanges, QuantizationSettings


def rounded(folder: Path, source: Path, inputs: np.ndarray, how: ActivationRanges) -> Path:
    settings = QuantizationSettings(activation_ranges=how, rounding="nearest", sensitivity_samples=len(inputs))
    quantize(source, folder / f"{how}.onnx", BitChoice(7, 8), calibration=inputs, settings=settings)
    return folder / f"{how}.onnx"


@pytest.fixture
def network_and_inputs(request: pytest.FixtureRequest) -> tuple[nn.Module, np.ndarray]:
    """Return a network whose best rule is known, and calibration inputs."""
    chance = np.random.default_rng(0)
    torch.manual_seed(0)
    first = nn.Linear(16, 32)
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    inputs = chance.uniform(-1, 1, (96, 16)).astype(np.float32)
    if request.param == "outliers":  # a few values that are 200 times as large, and that the network does not read
        inputs[::24, 0] = 200.0
        with torch.no_grad():
            first.weight[:, 0] = 0.0
    return network, inputs


@pytest.mark.parametrize("network_and_inputs", ["even", "outliers"], indirect=True)
def test_the_file_is_that_of_the_rule_whose_outputs_are_nearest(
    network_and_inputs: tuple[nn.Module, np.ndarray], tmp_path: Path
) -> None:
    network, inputs = network_and_inputs
    source = tmp_path / "float.onnx"
    export_onnx(network, torch.from_numpy(inputs[:4]), source)
    wanted = run_in_batches(onnx.load(source), inputs, 32)
    errors, digests = {}, {}
    for how in RULES:
        file = rounded(tmp_path, source, inputs, how)
        errors[how] = squared_error([wanted], [run_in_batches(onnx.load(file), inputs, 32)])
        digests[how] = file_digest(file)
    chosen = file_digest(rounded(tmp_path, source, inputs, "auto"))
    if inputs.max() > 1:  # one scale for outliers that nothing reads is far too coarse, or has to be spared
        assert chosen in {digests[how] for how in RULES if how != "minmax"}
    else:
        best = min(errors, key=lambda how: errors[how])
        assert chosen == digests[best if errors[best] < 0.794 * errors["minmax"] else "minmax"]  # a decibel


def test_the_error_is_relative_to_the_variance_and_summed_over_outputs() -> None:
    first, second = np.array([[1.0, -1.0]]), np.array([[10.0, -10.0]])
    assert squared_error([first, second], [first + 0.5, second + 1.0]) == pytest.approx(0.25 / 1 + 1.0 / 100)
    assert squared_error([first], [np.array([[np.nan, 0.0]])]) == np.inf
    assert squared_error([np.ones(3)], [np.full(3, 1.5)]) == pytest.approx(0.25)
