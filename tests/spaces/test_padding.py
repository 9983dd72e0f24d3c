"""Padding by a node of its own, taken into the layer that reads it: fewer nodes, the same outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.padding import fuse_padding
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice


class Calls(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class Both(nn.Module):
    """The sum of two branches."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs: Tensor) -> Tensor:
        added: Tensor = self.first(inputs) + self.second(inputs)
        return added


def same_padding(inputs: Tensor) -> Tensor:
    """Pad as TensorFlow does for a kernel of 3 and a stride of 2, the widths following from the extent."""

    def width(extent: int) -> Any:
        side = torch.tensor(extent)
        return torch.clamp((torch.ceil(side / 2) - 1) * 2 + 3 - side, min=0).to(torch.int64)

    rows, columns = width(inputs.shape[-2]), width(inputs.shape[-1])
    return functional.pad(inputs, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def images(*layers: nn.Module, channels: int = 6) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


INF = float("inf")
FUSED = {
    "behind alone": images(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 6, 3, stride=2)),
    "beside its own": images(nn.ZeroPad2d((0, 3, 1, 0)), nn.Conv2d(3, 6, 3, padding=1, dilation=2)),
    "beside auto_pad": images(nn.ZeroPad2d((0, 3, 1, 0)), nn.Conv2d(3, 6, 4, padding="same")),
    "depthwise": images(nn.Conv2d(3, 6, 1), nn.ZeroPad2d((2, 0, 1, 0)), nn.Conv2d(6, 6, 3, groups=6)),
    "wider than the kernel": images(nn.ZeroPad2d(5), nn.Conv2d(3, 6, 3)),
    "two in a row": images(nn.ZeroPad2d(1), nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 6, 3)),
    "of no width": images(nn.ZeroPad2d(0), nn.Conv2d(3, 6, 3)),
    "read by two": images(nn.ZeroPad2d(1), Both(nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3))),
    "as TensorFlow": images(nn.Conv2d(3, 6, 1), Calls(same_padding), nn.Conv2d(6, 6, 3, stride=2)),
    "average": images(nn.Conv2d(3, 6, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, 2, padding=1)),
    "maximum of rectified": images(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
    "maximum of clipped": images(
        nn.Conv2d(3, 6, 1), Calls(lambda x: x.clamp(0, 6)), nn.ConstantPad2d(1, -1.0), nn.MaxPool2d(3, 2)
    ),
    "maximum of anything": images(nn.Conv2d(3, 6, 1), nn.ConstantPad2d((0, 1, 0, 1), -INF), nn.MaxPool2d(3, 2)),
}
LEFT = {
    "another value": images(nn.ConstantPad2d(1, 1.0), nn.Conv2d(3, 6, 3)),
    "mirrored": images(nn.ReflectionPad2d(1), nn.Conv2d(3, 6, 3)),
    "repeated": images(nn.ReplicationPad2d(1), nn.Conv2d(3, 6, 3)),
    "cropped": images(nn.ZeroPad2d((-1, 1, 0, 0)), nn.Conv2d(3, 6, 3)),
    "channels": images(Calls(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2))), nn.Conv2d(6, 6, 3)),
    "transposed": images(nn.ZeroPad2d(1), nn.ConvTranspose2d(3, 6, 3)),
    "read by something else": images(nn.ZeroPad2d(1), Both(nn.Conv2d(3, 3, 3, padding=1), nn.Identity()), channels=3),
    "average that does not count its own": images(
        nn.Conv2d(3, 6, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    ),
    "average cut off": images(nn.Conv2d(3, 6, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, 2, ceil_mode=True)),
    "maximum of what may be negative": images(nn.Conv2d(3, 6, 1), nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
    "maximum of padding alone": images(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ZeroPad2d(4), nn.MaxPool2d(3, 2)),
}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def executed(path: Path, folder: Path) -> Counter[str]:
    """Return what the runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "executed.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operators(folder / "executed.onnx")


def answer(path: Path, inputs: Tensor) -> np.ndarray:
    return np.asarray(open_session(onnx.load(path)).run(None, {"input": inputs.numpy()})[0])


@pytest.mark.parametrize("name", FUSED)
def test_padding_goes_into_the_layer_and_outputs_stay(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(6, 3, 12, 13) - 0.3
    network = FUSED[name].eval()
    export_onnx(network, inputs, tmp_path / "float.onnx")
    assert "Pad" not in operators(tmp_path / "float.onnx")
    wanted = network(inputs).detach().numpy()
    np.testing.assert_allclose(answer(tmp_path / "float.onnx", inputs), wanted, atol=1e-5)
    quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", BitChoice(7, 8), calibration=inputs.numpy())
    assert "Pad" not in executed(tmp_path / "int8.onnx", tmp_path)
    error = answer(tmp_path / "int8.onnx", inputs) - wanted
    assert np.square(error).mean() < 1e-3 * np.square(wanted).mean()  # 30 dB


@pytest.mark.parametrize("name", LEFT)
def test_padding_that_no_layer_can_do_stays(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(3, 3, 12, 13) - 0.3
    network = LEFT[name].eval()
    export_onnx(network, inputs, tmp_path / "float.onnx")
    assert operators(tmp_path / "float.onnx")["Pad"] == 1
    np.testing.assert_allclose(answer(tmp_path / "float.onnx", inputs), network(inputs).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.ConstantPad1d((2, 1), 0.0), nn.Conv1d(3, 4, 3)), (3, 9)),
        (nn.Sequential(nn.ConstantPad3d((1, 0, 2, 1, 0, 1), 0.0), nn.Conv3d(2, 4, 3)), (2, 5, 6, 7)),
    ],
)
def test_one_and_three_axes(network: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    inputs = torch.randn(3, *shape)
    export_onnx(network.eval(), inputs, tmp_path / "float.onnx")
    assert operators(tmp_path / "float.onnx") == {"Conv": 1}
    np.testing.assert_allclose(answer(tmp_path / "float.onnx", inputs), network(inputs).detach().numpy(), atol=1e-5)


def test_padding_that_is_itself_an_output_stays() -> None:
    pads = numpy_helper.from_array(np.array([0, 0, 1, 0, 0, 1]), "pads")
    weight = numpy_helper.from_array(np.ones((1, 1, 3), np.float32), "weight")
    nodes = [helper.make_node("Pad", ["x", "pads"], ["padded"]), helper.make_node("Conv", ["padded", "weight"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4]) for name in ("x", "padded", "y")]
    model = helper.make_model(helper.make_graph(nodes, "graph", ends[:1], ends[1:], [pads, weight]))
    assert not fuse_padding(model)
    assert [node.op_type for node in model.graph.node] == ["Pad", "Conv"]
