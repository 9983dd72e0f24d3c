"""Normalization that could not be folded, when weights before it are rounded: its statistics move as its inputs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.quantization.quantize import quantize, zero_weights
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.rounding.settings import QuantizationSettings

PLAIN = QuantizationSettings(bias_correction="off")


class Preactivated(nn.Module):
    """(n, 3, 8, 8): normalization behind a Relu, and behind a concatenation, where no convolution can take it in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.behind_relu, self.behind_both = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.behind_relu(torch.relu(self.first(inputs)))
        both = torch.cat([features, torch.relu(self.second(features))], dim=1)
        outputs: Tensor = self.head(torch.relu(self.behind_both(both)).mean((2, 3)))
        return outputs


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def source(tmp_path: Path, inputs: Tensor) -> Path:
    torch.manual_seed(0)
    network = Preactivated().train()
    for _ in range(60):
        network(inputs[torch.randperm(96)[:32]])
    export_onnx(network.eval(), inputs[:4], tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def standardized(path: Path, inputs: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each normalization, mean and variance of what it reads in terms of its own statistics."""
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    model.graph.output.extend(onnx.ValueInfoProto(name=node.input[0]) for node in nodes)
    session = open_session(model)
    read = session.run([node.input[0] for node in nodes], {session.get_inputs()[0].name: inputs.numpy()})
    found = []
    for node, values in zip(nodes, read, strict=True):
        mean, variance = tensors[node.input[3]], tensors[node.input[4]]
        moved = (values.mean((0, 2, 3)) - mean) / np.sqrt(variance)
        found.append((moved, values.var((0, 2, 3)) / variance))
    return found


def distance(path: Path, source: Path, inputs: Tensor) -> list[float]:
    """Return how far each normalization is from what it was to its inputs."""
    return [
        float(np.abs(mean - old_mean).max() + np.abs(variance - old_variance).max())
        for (mean, variance), (old_mean, old_variance) in zip(
            standardized(path, inputs), standardized(source, inputs), strict=True
        )
    ]


@pytest.mark.parametrize("what", ["2 bits", "zeros"])
def test_statistics_follow_what_is_read(source: Path, inputs: Tensor, tmp_path: Path, what: str) -> None:
    found = {}
    for name, settings in (("corrected", QuantizationSettings()), ("plain", PLAIN)):
        path = tmp_path / f"{name}.onnx"
        if what == "zeros":
            zero_weights(source, path, Zeroing(0.7), calibration=inputs.numpy(), settings=settings)
        else:
            quantize(source, path, BitChoice(2), calibration=inputs.numpy(), settings=settings)
        found[name] = distance(path, source, inputs)
    assert len(found["plain"]) == 2
    for corrected, plain in zip(found["corrected"], found["plain"], strict=True):
        assert corrected < 0.35 * plain
        assert corrected < 0.1


@pytest.mark.parametrize("settings", [QuantizationSettings(rounding="nearest"), PLAIN])
def test_nothing_moves_where_nothing_is_corrected(
    source: Path, inputs: Tensor, tmp_path: Path, settings: QuantizationSettings
) -> None:
    quantize(source, tmp_path / "q.onnx", BitChoice(3, 8), calibration=inputs.numpy(), settings=settings)
    assert statistics_of(tmp_path / "q.onnx") == statistics_of(source)


def test_weights_that_are_on_their_grid_move_nothing(source: Path, inputs: Tensor, tmp_path: Path) -> None:
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.sign(values).astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "signs.onnx")
    quantize(tmp_path / "signs.onnx", tmp_path / "q.onnx", BitChoice(4), calibration=inputs.numpy())
    for new, old in zip(statistics_of(tmp_path / "q.onnx"), statistics_of(tmp_path / "signs.onnx"), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5)


def statistics_of(path: Path) -> list[list[float]]:
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert nodes
    return [tensors[name].tolist() for node in nodes for name in node.input[3:5]]
