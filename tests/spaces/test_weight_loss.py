"""Weights that even many bits do not hold stay float32: by brute force, and by files against the network itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.lost_weights import LEAST_WEIGHT_DB, lost_weights
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.input_covariance import InputCovariance
from karui.spaces.rounding.weight_loss import signal_to_noise_db


class Unlike(nn.Module):
    """A product whose inputs are of unlike size, its weights making up for that."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.small, self.large, self.last = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 4, bias=False)
        self.factor = factor
        with torch.no_grad():
            self.last.weight[:, 6:] /= factor

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(torch.cat([self.small(inputs), self.factor * self.large(inputs)], 1))
        return found


def test_the_ratio_is_that_of_the_variances_of_all_outputs() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.normal(3.0, 1.0, (500, 6))
    before = chance.normal(size=(5, 6)).astype(np.float32)
    after = (before + 0.01 * chance.normal(size=before.shape)).astype(np.float32)
    right, error = inputs @ before.T, inputs @ (before - after).T
    moments = InputCovariance((inputs.T @ inputs)[None], inputs.mean(axis=0)[None], count=len(inputs))
    expected = 10 * np.log10(right.var(axis=0).sum() / error.var(axis=0).sum())
    assert signal_to_noise_db(before, after, 0, [moments]) == pytest.approx(expected, abs=1e-4)
    assert signal_to_noise_db(before, before, 0, [moments]) == np.inf
    assert signal_to_noise_db(before, after, 0, []) == np.inf


def test_only_weights_of_many_bits_are_judged() -> None:
    low, high = LEAST_WEIGHT_DB - 1, LEAST_WEIGHT_DB + 1
    losses = {"few": low, "many": low, "good": high}
    assert lost_weights(losses, {"few": 4, "many": 7, "good": 8}) == {"many": low}


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_a_layer_of_unlike_inputs_keeps_its_weight(factor: float, activation_bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Unlike(factor).eval(), torch.randn(64, 8)
    notes: list[str] = []
    export_onnx(network, inputs[:4], tmp_path / "float.onnx")
    coverage = quantize(
        tmp_path / "float.onnx", tmp_path / "q.onnx", BitChoice(4, activation_bits), calibration=inputs.numpy(),
        note=notes.append,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        right = network(inputs).numpy()
    is_kept = any("weights left float32" in note for note in notes)
    assert is_kept == (factor > 1)
    assert coverage.quantized_layers == 3 - is_kept
    held = [each.data_type for each in onnx.load(tmp_path / "q.onnx").graph.initializer if list(each.dims) == [4, 12]]
    held += [each.data_type for each in onnx.load(tmp_path / "q.onnx").graph.initializer if list(each.dims) == [12, 4]]
    assert (onnx.TensorProto.FLOAT in held) == is_kept
    assert np.abs(answer - right).mean() < 0.25 * np.abs(right - right.mean(axis=0)).mean()
