"""Probes: what they are built of, and that they compute what their layers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from karui.errors import CandidateFailure
from karui.spaces.building.probes.probe_layers import ProbedLayer, largest_layers
from karui.spaces.building.probes.probe_network import DEPTH, build_probe, probe_inputs, probe_shape, with_channels
from karui.spaces.building.probes.variants import VARIANTS, make_float, make_with_channels
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.sparsity_names import ZeroPattern

CONVOLUTION = ProbedLayer(8, (3, 3), (6, 5))
LAYERS = [
    CONVOLUTION,
    ProbedLayer(8, (3, 3), (6, 5), groups=8),
    ProbedLayer(8, (5, 5), (4, 4), groups=2),
    ProbedLayer(8, (2, 2), (4, 4)),
    ProbedLayer(8, (3,), (12,)),
    ProbedLayer(8, (), ()),
    ProbedLayer(8, (), (7,)),
]


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": inputs})
    return np.asarray(output)


def weights_of(path: Path) -> list[np.ndarray]:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return [tensors[f"weight{index}"] for index in range(DEPTH)]


def in_torch(layer: ProbedLayer, weights: list[np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """The same three layers by torch; an even side of a kernel has its larger half behind."""
    features = torch.from_numpy(inputs)
    for weight in map(torch.tensor, weights):
        if not layer.kernel:
            features = torch.relu(features @ weight)
            continue
        pads = [pad for side in reversed(layer.kernel) for pad in ((side - 1) // 2, side // 2)]
        convolve = functional.conv1d if len(layer.kernel) == 1 else functional.conv2d
        features = torch.relu(convolve(functional.pad(features, pads), weight, groups=layer.groups))
    return features.numpy()


class Mixed(nn.Module):
    """Layers whose multiply-adds are worked out by hand, for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)  # 64 * 4 * 9 = 2,304
        self.inner = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))  # each 64 * 4 * 36 = 9,216
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)  # 64 * 4 * 9 = 2,304
        self.head = nn.Linear(4 * 64, 10)  # 2,560

    def forward(self, images: Tensor) -> Tensor:
        features = self.depthwise(torch.relu(self.inner(torch.relu(self.stem(images)))))
        outputs: Tensor = self.head(torch.flatten(torch.relu(features), 1))
        return outputs


def test_the_largest_layers_are_those_of_the_most_multiply_adds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(Mixed().eval(), torch.randn(2, 1, 8, 8), tmp_path / "mixed.onnx")
    first, second, third = largest_layers(tmp_path / "mixed.onnx", 3)
    # The stem is like the inner ones: its outputs are.
    whole = 2304 + 3 * 9216 + 2304 + 2560
    assert (first.channels, first.kernel, first.extent, first.groups) == (4, (3, 3), (8, 8), 1)
    assert first.share == pytest.approx((2304 + 3 * 9216) / whole)
    assert (second.channels, second.kernel, second.extent) == (10, (), ())
    assert second.share == pytest.approx(2560 / whole)
    assert third.is_depthwise
    assert third.share == pytest.approx(2304 / whole)
    assert largest_layers(tmp_path / "mixed.onnx", 1) == (first,)


def test_a_network_without_layers_is_told(tmp_path: Path) -> None:
    export_onnx(nn.ReLU(), torch.randn(2, 3), tmp_path / "none.onnx")
    with pytest.raises(CandidateFailure, match=r"none\.onnx has no layer with weights whose shapes are known"):
        largest_layers(tmp_path / "none.onnx", 2)


@pytest.mark.parametrize("layer", LAYERS, ids=ProbedLayer.describe)
def test_a_probe_computes_its_layer_three_times(layer: ProbedLayer, tmp_path: Path) -> None:
    path = tmp_path / "probe.onnx"
    build_probe(layer, path)
    inputs = probe_inputs(layer, 2)
    assert inputs.shape == (2, *probe_shape(layer))
    np.testing.assert_allclose(run(path, inputs), in_torch(layer, weights_of(path), inputs), atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS, ids=ProbedLayer.describe)
def test_of_fewer_channels_the_first_of_the_input_are_read(layer: ProbedLayer, tmp_path: Path) -> None:
    path, fewer = tmp_path / "probe.onnx", with_channels(layer, 6)
    build_probe(fewer, path, input_channels=8)
    inputs = probe_inputs(layer, 1)
    read = inputs[:, :6] if layer.kernel else inputs[..., :6]
    np.testing.assert_allclose(run(path, inputs), in_torch(fewer, weights_of(path), read), atol=1e-4)


@pytest.mark.parametrize(("pattern", "share"), [("free", 0.75), ("2:4", 0.5)])
def test_zeros_are_as_many_as_asked_for_in_every_row(pattern: ZeroPattern, share: float, tmp_path: Path) -> None:
    build_probe(CONVOLUTION, tmp_path / "probe.onnx", zeroed_weights=0.75, zero_pattern=pattern)
    for weight in weights_of(tmp_path / "probe.onnx"):
        zeros = (weight.reshape(8, -1) == 0).sum(axis=1)
        assert (zeros == round(share * 72)).all()


@pytest.mark.parametrize("layer", [CONVOLUTION, LAYERS[1], LAYERS[5], LAYERS[6]], ids=ProbedLayer.describe)
def test_every_variant_runs_on_the_inputs_of_the_float_probe(layer: ProbedLayer, tmp_path: Path) -> None:
    inputs = probe_inputs(layer, 1)
    make_float(layer, tmp_path, tmp_path / "float.onnx")
    whole = run(tmp_path / "float.onnx", inputs)
    for name, variant in VARIANTS.items():
        variant.make(layer, tmp_path, tmp_path / "variant.onnx")
        found = run(tmp_path / "variant.onnx", inputs)
        assert np.isfinite(found).all(), name
        if name in ("float16 weights", "8-bit weights"):
            assert np.abs(found - whole).max() < 0.1 * np.abs(whole).max(), name


def test_half_of_the_channels_have_a_quarter_of_the_weights(tmp_path: Path) -> None:
    make_with_channels(4, CONVOLUTION, tmp_path, tmp_path / "half.onnx")
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer]
    assert sum(tensor.size for tensor in tensors if tensor.ndim == 4) == DEPTH * 4 * 4 * 9


def test_layers_in_words() -> None:
    assert [layer.describe() for layer in LAYERS] == [
        "3x3 convolution, 8 channels, 6x5",
        "3x3 depthwise convolution, 8 channels, 6x5",
        "5x5 convolution, 8 channels, 2 groups, 4x4",
        "2x2 convolution, 8 channels, 4x4",
        "3 convolution, 8 channels, 12",
        "linear layer, 8 channels",
        "linear layer, 8 channels, 7 tokens",
    ]
