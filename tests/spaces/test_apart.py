"""Weights of transposed convolutions and recurrent layers: rounded to nearest, whatever the activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from karui.errors import CandidateFailure
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantization_coverage, quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.joint_zeroing import Zeroing


class Upwards(nn.Module):
    """A grouped transposed convolution between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 4, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.up(self.first(inputs).relu()).relu())
        return found


class Recurrent(nn.Module):
    """A recurrent layer of two directions between two linear ones."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(24, 4)
        self.steps = kind(16, 12, batch_first=True, bidirectional=True)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.steps(self.first(inputs).relu())[0])
        return found


class Unrolled(nn.Module):
    """Recurrent layers and nothing else."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.steps = kind(16, 12, num_layers=2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.steps(inputs)[0]
        return found


def _run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def _file(network: nn.Module, inputs: Tensor, folder: Path) -> Path:
    export_onnx(network.eval(), inputs[:4], folder / "float.onnx")
    return folder / "float.onnx"


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("kind", [None, nn.LSTM, nn.GRU])
def test_files_compute_what_the_network_does(
    tmp_path: Path, activation_bits: int, kind: type[nn.LSTM] | type[nn.GRU] | None
) -> None:
    torch.manual_seed(0)
    network = Recurrent(kind) if kind else Upwards()
    inputs = torch.randn(48, 9, 16) if kind else torch.randn(48, 3, 9, 9)
    source = _file(network, inputs, tmp_path)
    coverage = quantize(source, tmp_path / "q.onnx", BitChoice(7, activation_bits), calibration=inputs.numpy())
    assert coverage == quantization_coverage(source, activation_bits)
    assert coverage.quantized_layers == coverage.all_layers
    with torch.no_grad():
        right = network(inputs).numpy()
    answer = _run(tmp_path / "q.onnx", inputs.numpy())
    assert np.square(answer - right).mean() < 0.01 * right.var()
    pack(tmp_path / "q.onnx", tmp_path / "packed.onnx")
    assert np.array_equal(_run(tmp_path / "packed.onnx", inputs.numpy()), answer)
    weights = [each for each in onnx.load(tmp_path / "q.onnx").graph.initializer if len(each.dims) > 2]
    assert all(each.data_type != onnx.TensorProto.FLOAT or max(each.dims) == np.prod(each.dims) for each in weights)


def test_the_filters_of_a_transposed_convolution_have_a_scale_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Upwards(), torch.randn(16, 3, 9, 9)
    with torch.no_grad():
        # One filter of each group is a thousand times as small: one scale for all would leave nothing of it.
        network.up.weight[:, 1] /= 1000
    quantize(_file(network, inputs, tmp_path), tmp_path / "q.onnx", BitChoice(4, 32), calibration=inputs.numpy())
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    (integers,) = (values for name, values in tensors.items() if name.endswith("#apart#integers"))
    (scales,) = (values for name, values in tensors.items() if name.endswith("#apart#scales"))
    weight = network.up.weight.detach().numpy()
    assert integers.min() >= -8
    assert integers.max() <= 7
    assert np.all(np.abs(integers * scales - weight).max(axis=(0, 2, 3)) < 0.2 * np.abs(weight).max(axis=(0, 2, 3)))


def test_a_prelu_of_one_slope_is_computed_in_int8_and_one_of_many_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(48, 3, 9, 9)
    for slopes, left in ((1, 0), (8, 1)):
        bent = nn.PReLU(slopes)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), bent, nn.Conv2d(8, 4, 1)).eval()
        with torch.no_grad():
            bent.weight.uniform_(-0.5, 1.5)
            right = network(inputs).numpy()
        source = _file(network, inputs, tmp_path)
        coverage = quantize(source, tmp_path / "q.onnx", BitChoice(7, 8), calibration=inputs.numpy())
        assert [text.partition(": ")[2] for text in coverage.left] == ["it has no int8 kernel"] * left
        kinds = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
        assert kinds.count("PRelu") == left
        assert np.square(_run(tmp_path / "q.onnx", inputs.numpy()) - right).mean() < 0.005 * right.var()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.ConvTranspose2d])
def test_networks_of_nothing_else_are_rounded_beside_float32_activations_alone(
    tmp_path: Path, kind: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    if kind is nn.ConvTranspose2d:
        network: nn.Module = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2), nn.ReLU(), nn.ConvTranspose2d(6, 2, 2, 2))
        inputs = torch.randn(32, 4, 5, 5)
    else:
        network, inputs = Unrolled(kind), torch.randn(32, 9, 16)
    source = _file(network, inputs, tmp_path)
    quantize(source, tmp_path / "q.onnx", BitChoice(8), calibration=inputs.numpy())
    with torch.no_grad():
        right = network(inputs).numpy()
    assert np.square(_run(tmp_path / "q.onnx", inputs.numpy()) - right).mean() < 0.01 * right.var()
    with pytest.raises(CandidateFailure, match="none of the layers has an int8 kernel"):
        quantize(source, tmp_path / "no.onnx", BitChoice(4, 8), calibration=inputs.numpy())
    with pytest.raises(CandidateFailure, match="none of the layers has an int8 kernel"):
        quantization_coverage(source, 8)
    with pytest.raises(CandidateFailure, match="zeroed in none"):
        quantize(source, tmp_path / "no.onnx", BitChoice(4), calibration=inputs.numpy(), zeroing=Zeroing(0.5))
    assert not (tmp_path / "no.onnx").exists()


def test_the_first_and_the_last_of_all_weights_keep_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = nn.Sequential(*(nn.ConvTranspose2d(4, 4, 3) for _ in range(4))), torch.randn(16, 4, 5, 5)
    source = _file(network, inputs, tmp_path)
    quantize(source, tmp_path / "q.onnx", BitChoice(4), calibration=inputs.numpy())
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    largest = [int(np.abs(held[f"{place}.weight#apart#integers"]).max()) for place in range(4)]
    assert min(largest[0], largest[3]) > 100
    assert max(largest[1:3]) <= 8


def test_a_network_without_weights_is_refused_in_plain_words(tmp_path: Path) -> None:
    inputs = torch.randn(8, 3, 6, 6)
    source = _file(nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(2)), inputs, tmp_path)
    for bits in (8, 32):
        with pytest.raises(CandidateFailure, match="the network has no weight that can be rounded"):
            quantize(source, tmp_path / "q.onnx", BitChoice(4, bits), calibration=inputs.numpy())
