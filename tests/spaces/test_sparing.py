"""What 8 bits do not hold stays float32: files run by the runtime against the float32 network itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.formats.onnx.quantization.rounding_noise import noise_by_channel, noise_of
from karui.spaces.rounding.bit_choice import BitChoice

LARGEST_ERROR = 0.1
"""Of the worst channel, as a share of what it varies by: the bound of 22 dB is 0.08."""


STEPS = 12
"""Of a sequence; its channels lie along the last axis."""


class Between(nn.Module):
    """A function between two convolutions, or behind both."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, ends: bool = False) -> None:
        super().__init__()
        self.first, self.function, self.ends = nn.Conv2d(3, 8, 3, padding=1), function, ends
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.function(3 * self.first(inputs))
        return (found if self.ends else self.last(found)).flatten(2)


class Attention(nn.Module):
    """Attention with a mask that is added to the scores."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mask, self.projected, self.last = mask, nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        queries, keys, values = self.projected(inputs).chunk(3, -1)
        scores = 3 * queries @ keys.transpose(1, 2) / 4 + self.mask(inputs)
        found: Tensor = self.last(scores.softmax(-1) @ values)
        return found


class Detector(nn.Module):
    """Boxes in pixels beside scores."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], pixels: float = 320.0) -> None:
        super().__init__()
        self.join, self.pixels, self.first = join, pixels, nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.first(inputs).relu()
        return self.join(self.boxes(seen).sigmoid() * self.pixels, self.scores(seen).sigmoid()).flatten(2)


def _rows(inputs: Tensor) -> Tensor:
    return (inputs[:, None, :, 0] < -0.8).float()


CASES: dict[str, Callable[[], nn.Module]] = {
    "at least": lambda: Between(lambda seen: seen.clamp(min=0.3)),
    "at most": lambda: Between(lambda seen: seen.clamp(max=-0.2)),
    "above zero": lambda: Between(lambda seen: seen.clamp(0.1, 0.4)),
    "below zero": lambda: Between(lambda seen: seen.clamp(-0.4, -0.1), ends=True),
    "around zero": lambda: Between(lambda seen: seen.clamp(-0.5, 0.5)),
    "read twice": lambda: Between(lambda seen: seen.clamp(min=0.2) + seen.clamp(max=0.1) + seen),
    "mean, ceil": lambda: Between(lambda seen: F.avg_pool2d(seen.relu(), 3, 2, ceil_mode=True)),
    "mean, ceil, padded": lambda: Between(lambda seen: F.avg_pool2d(seen, 3, 2, padding=1, ceil_mode=True)),
    "mean, padded": lambda: Between(lambda seen: F.avg_pool2d(seen, 3, 2, padding=1, count_include_pad=False)),
    "logarithm": lambda: Between(lambda seen: (seen.abs() + 1e-3).log()),
    "reciprocal": lambda: Between(lambda seen: 1 / (seen.abs() + 0.2)),
    "exponential": lambda: Between(torch.exp),
    "large offset": lambda: Between(lambda seen: (seen + 100) - 100.0),
    "large padding": lambda: Between(lambda seen: F.pad(seen, (1, 1, 1, 1), value=-1e4).clamp(min=-5)),
    "mask of -1e4": lambda: Attention(lambda inputs: _rows(inputs) * -1e4),
    "mask of the least float": lambda: Attention(lambda inputs: _rows(inputs) * torch.finfo(torch.float32).min),
    "mask without end": lambda: Attention(lambda _: torch.triu(torch.full((STEPS, STEPS), -math.inf), 1)),
    "boxes beside scores": lambda: Detector(lambda boxes, scores: torch.cat([boxes, scores], 1)),
    "boxes upon scores": lambda: Detector(lambda boxes, scores: torch.stack([boxes, scores], 1).flatten(1, 2)),
    "scores out of a join": lambda: Detector(lambda boxes, scores: torch.cat([boxes, scores], 1)[:, 4:] * 2),
}


def _inputs(network: nn.Module) -> Tensor:
    return torch.randn(64, STEPS, 16) if isinstance(network, Attention) else torch.randn(64, 3, 12, 12)


def _run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return np.asarray(output)


def _round(network: nn.Module, inputs: Tensor, folder: Path) -> tuple[Path, list[str]]:
    notes: list[str] = []
    export_onnx(network.eval(), inputs[:4], folder / "float.onnx")
    quantize(
        folder / "float.onnx", folder / "rounded.onnx", BitChoice(7, 8), calibration=inputs.numpy(), note=notes.append
    )
    return folder / "rounded.onnx", notes


def _largest_error(right: np.ndarray, answer: np.ndarray) -> float:
    """Return the mean error of the worst channel as a share of its mean deviation, of the channels' own axis."""
    axis = 2 if right.shape[1] == STEPS else 1
    wanted, given = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (right, answer))
    varies = np.abs(wanted - wanted.mean(axis=1, keepdims=True)).mean(axis=1)
    return float((np.abs(given - wanted).mean(axis=1) / varies).max())


@pytest.mark.parametrize("case", CASES)
def test_every_channel_of_the_outputs_comes_out_right(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CASES[case]()
    inputs = _inputs(network)
    path, _ = _round(network, inputs, tmp_path)
    with torch.no_grad():
        right = network(inputs).numpy()
    answer = _run(path, inputs.numpy())
    assert _largest_error(right, answer) < LARGEST_ERROR
    scales = [onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer if "scale" in each.name]
    assert all((scale < 1e6).all() for scale in scales)
    pack(path, tmp_path / "packed.onnx")
    assert np.array_equal(_run(tmp_path / "packed.onnx", inputs.numpy()), answer)


def test_a_sound_network_is_left_alone_and_nothing_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip
    path, notes = _round(network, torch.randn(64, 3, 12, 12), tmp_path)
    assert notes == []
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Clip" not in kinds
    assert "Relu" not in kinds
    assert "Cast" not in kinds  # no weight is unpacked for a float32 kernel


def test_what_stays_float32_is_named_with_its_reason(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, notes = _round(CASES["at least"](), torch.randn(64, 3, 12, 12), tmp_path)
    assert len(notes) == 1
    assert "Clip" in notes[0]
    assert "0 does not lie between its limits" in notes[0]


def test_spared_layers_keep_their_weights_of_few_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CASES["scores out of a join"]()
    inputs = torch.randn(64, 3, 12, 12)
    export_onnx(network.eval(), inputs[:4], tmp_path / "float.onnx")
    coverage = quantize(tmp_path / "float.onnx", tmp_path / "rounded.onnx", BitChoice(4, 8), calibration=inputs.numpy())
    assert coverage.quantized_layers == coverage.all_layers == 3
    for tensor in onnx.load(tmp_path / "rounded.onnx").graph.initializer:
        assert tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < 48


def test_where_rounding_costs_a_little_everywhere_only_the_layers_round(tmp_path: Path) -> None:
    """The class token, which alone is read, is small beside the others at first: one grid holds both."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 4, 4, 32, 64, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # zeros at first
    inputs = torch.randn(64, 3, 32, 32)
    path, notes = _round(network, inputs, tmp_path)
    with torch.no_grad():
        right = network(inputs).numpy()
    (answer,) = onnxruntime.InferenceSession(path).run(None, {"input": inputs.numpy()})
    assert noise_by_channel(right, answer).worst_db > 20.0
    assert any("where more than the layers with weights computes in int8" in note for note in notes)
    rounded = onnx.load(path).graph
    back = {node.output[0] for node in rounded.node if node.op_type == "DequantizeLinear"}
    products = [node for node in rounded.node if node.op_type in ("MatMul", "Gemm") and back.issuperset(node.input[:2])]
    assert len(products) == 17, "four of each block and the head read integers, and have integers for weights"
    assert not any(back.intersection(node.input) for node in rounded.node if node.op_type in ("Softmax", "Concat"))


def test_a_file_is_made_the_same_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = CASES["boxes beside scores"](), torch.randn(64, 3, 12, 12)
    first, _ = _round(network, inputs, tmp_path)
    before = first.read_bytes()
    assert _round(network, inputs, tmp_path)[0].read_bytes() == before


def test_noise_is_a_ratio_of_powers() -> None:
    generator = np.random.default_rng(0)
    signal = generator.normal(size=(2000, 3)) * np.array([1.0, 10.0, 0.1]) + 7.0
    answer = signal + generator.normal(size=signal.shape) * 0.01
    assert noise_by_channel(signal, answer).worst_db == pytest.approx(20.0, abs=0.3)  # of the third channel
    assert noise_of(signal, answer).worst_db == pytest.approx(10 * np.log10(101.01 / 3 / 1e-4), abs=0.3)
    assert noise_of(signal, signal).worst_db == np.inf
    answer[0, 0] = np.nan
    assert noise_of(signal, answer).worst_db == -np.inf


def test_constant_and_dead_channels_are_judged_by_their_own_power() -> None:
    signal = np.zeros((8, 2))
    signal[:, 0] = 5.0
    assert noise_by_channel(signal, signal + 0.05).worst_db == pytest.approx(40.0, abs=1e-6)
