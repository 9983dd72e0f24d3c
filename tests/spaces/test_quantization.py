"""Quantization: scales against brute force, files against twins computed without the runtime's quantizer."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision.models
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from karui.errors import CandidateFailure
from karui.spaces.formats.format import QuantizationCoverage
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization import insertion
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.formats.onnx.quantization.weight_layers import find_layers
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.scales import mse_scales, round_to_grid
from karui.spaces.rounding.settings import QuantizationSettings

NEAREST = QuantizationSettings(rounding="nearest")
LIMITS = {2: (-2, 1), 3: (-4, 3), 4: (-8, 7), 5: (-16, 15), 6: (-32, 31), 7: (-64, 63), 8: (-127, 127)}
BITS = st.integers(2, 8)
WEIGHTS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=st.floats(-4, 4, width=32)
)  # fmt: skip


def squared_error(row: np.ndarray, scale: float, bits: int) -> float:
    smallest, largest = LIMITS[bits]
    return float(((np.clip(np.rint(row / scale), smallest, largest) * scale - row) ** 2).sum())


def run_file(path: Path, inputs: np.ndarray, *, fused: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return np.asarray(output)


def integer_weights(path: Path) -> list[np.ndarray]:
    """Return the int8 weights in the order of the layers that read them."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            source = node.input[1]
            while source in producers:
                source = producers[source].input[0]
            weights.append(numpy_helper.to_array(tensors[source]))
    return weights


def optimized_operators(path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".optimized")).graph.node)


class Residual(nn.Module):
    """Four convolutions with a residual sum and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.third = nn.Conv2d(16, 24, 3, stride=2)
        self.last = nn.Linear(24, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        first = self.first(inputs).relu()
        summed = (first + self.depthwise(self.second(first).relu())).relu()
        outputs: torch.Tensor = self.last(self.third(summed).relu().mean((2, 3)))
        return outputs

    def layers(self) -> list[nn.Conv2d | nn.Linear]:
        return [self.first, self.second, self.depthwise, self.third, self.last]


@pytest.fixture(scope="module")
def network() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 3, 10, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory, network: Residual) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_onnx(network, torch.randn(2, 3, 10, 10), path)
    return path


def fake_quantized(network: Residual, bits: list[int]) -> Residual:
    """Return a copy whose weights are rounded in float, layer by layer."""
    twin = copy.deepcopy(network)
    for layer, layer_bits in zip(twin.layers(), bits, strict=True):
        weight = layer.weight.detach().numpy()
        scales = mse_scales(weight, layer_bits, 0)
        rounded = round_to_grid(weight, scales, layer_bits, 0) * scales.reshape(-1, *[1] * (weight.ndim - 1))
        layer.weight.data = torch.from_numpy(rounded.astype(np.float32))
    return twin


# --- scales --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", LIMITS)
@pytest.mark.parametrize("elements", [9, 27, 150, 1200])
def test_the_scale_is_about_as_good_as_a_fine_brute_force(bits: int, elements: int) -> None:
    rng = np.random.default_rng(elements)
    for row in (rng.normal(size=elements), rng.standard_t(3, size=elements), np.abs(rng.normal(size=elements))):
        row = row.astype(np.float32)
        scale = float(mse_scales(row[None], bits, 0)[0])
        coverage = np.abs(row).max() / LIMITS[bits][1]
        best = min(squared_error(row, candidate, bits) for candidate in np.linspace(0.02, 1.1, 1500) * coverage)
        # A single lucky scale can fit few elements at many bits much better; both errors are then next to nothing.
        slack = 5e-4 if elements == 9 else 1e-4
        assert squared_error(row, scale, bits) <= 1.05 * best + slack * float((row**2).sum())


@given(WEIGHTS, BITS, st.sampled_from([0, 1, None]))
@settings(deadline=None, max_examples=80)
def test_rounding_finds_the_nearest_point_of_the_grid(weight: np.ndarray, bits: int, axis: int | None) -> None:
    scales = mse_scales(weight, bits, axis)
    integers = round_to_grid(weight, scales, bits, axis)
    assert scales.shape == ((1,) if axis is None else (weight.shape[axis],))
    assert (scales > 0).all()
    assert integers.dtype == np.int8
    grid = np.arange(LIMITS[bits][0], LIMITS[bits][1] + 1)
    for index in np.ndindex(*weight.shape):
        scale = float(scales[0 if axis is None else index[axis]])
        nearest = np.abs(grid * scale - weight[index]).min()
        assert abs(integers[index] * scale - weight[index]) <= nearest * (1 + 1e-4) + 1e-12
        assert integers[index] in grid
    assert not integers[weight == 0].any()


@pytest.mark.parametrize("bits", LIMITS)
def test_weights_on_a_grid_are_found_exactly(bits: int) -> None:
    rng = np.random.default_rng(bits)
    integers = rng.integers(LIMITS[bits][0], LIMITS[bits][1], (6, 50), endpoint=True)
    integers[:, :2] = LIMITS[bits]
    scales = rng.uniform(0.001, 2.0, 6).astype(np.float32)
    weight = (integers * scales[:, None]).astype(np.float32)
    found = mse_scales(weight, bits, 0)
    np.testing.assert_allclose(found, scales, rtol=1e-5)
    np.testing.assert_array_equal(round_to_grid(weight, found, bits, 0), integers)


def test_a_channel_of_zeros_borrows_the_smallest_scale() -> None:
    weight = np.array([[1.0, -1.0], [0.0, 0.0], [8.0, -8.0]], dtype=np.float32)
    scales = mse_scales(weight, 4, 0)
    assert scales[1] == scales[0] < scales[2]
    assert mse_scales(np.zeros((2, 3), dtype=np.float32), 4, 0).min() > 0


@pytest.mark.parametrize("bits", [1, 9, 0, 32])
def test_other_bits_have_no_meaning(bits: int) -> None:
    with pytest.raises(ValueError, match=r"bits must be within 2\.\.8"):
        mse_scales(np.ones((2, 2), dtype=np.float32), bits, 0)
    with pytest.raises(ValueError, match=r"bits must be within 2\.\.8"):
        round_to_grid(np.ones((2, 2), dtype=np.float32), np.ones(2, dtype=np.float32), bits, 0)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", LIMITS)
def test_float_activations_compute_what_rounded_weights_compute(
    tmp_path: Path, network: Residual, float_file: Path, images: np.ndarray, bits: int
) -> None:
    path = tmp_path / "weights.onnx"
    coverage = quantize(float_file, path, BitChoice(bits, 32), calibration=images, settings=NEAREST)
    assert coverage == QuantizationCoverage(quantized_layers=5, all_layers=5)
    with torch.no_grad():
        expected = fake_quantized(network, [8, bits, bits, bits, 8])(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run_file(path, images), expected, atol=1e-5)
    assert not {"Cast", "DequantizeLinear"} & set(optimized_operators(path))


@pytest.mark.parametrize("bits", LIMITS)
def test_integer_activations_stay_near_the_twin_with_float_ones(
    tmp_path: Path, network: Residual, float_file: Path, images: np.ndarray, bits: int
) -> None:
    path = tmp_path / "static.onnx"
    coverage = quantize(float_file, path, BitChoice(bits, 8), calibration=images, settings=NEAREST)
    assert coverage == QuantizationCoverage(quantized_layers=5, all_layers=5)
    inner = min(bits, 7)
    with torch.no_grad():
        expected = fake_quantized(network, [7, inner, inner, inner, 7])(torch.from_numpy(images)).numpy()
    # Each of a handful of tensors is rounded to 256 steps between its extremes.
    assert np.abs(run_file(path, images) - expected).max() < 0.06 * np.ptp(expected)
    operators = optimized_operators(path)
    assert (operators["QLinearConv"], operators["QLinearAdd"], operators["QGemm"]) == (4, 1, 1)
    assert not {"Conv", "Gemm", "Add", "Relu"} & set(operators)


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("bits", LIMITS)
def test_integers_are_those_of_the_grid_and_the_ends_keep_more_bits(
    tmp_path: Path, network: Residual, float_file: Path, images: np.ndarray, bits: int, activation_bits: int
) -> None:
    path = tmp_path / "weights.onnx"
    quantize(float_file, path, BitChoice(bits, activation_bits), calibration=images, settings=NEAREST)
    # Under integer activations 8 bits would saturate on many processors.
    ends, inner = (7, min(bits, 7)) if activation_bits == 8 else (8, bits)
    for layer, found, layer_bits in zip(
        network.layers(), integer_weights(path), [ends, inner, inner, inner, ends], strict=True
    ):  # fmt: skip
        weight = layer.weight.detach().numpy()
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, round_to_grid(weight, mse_scales(weight, layer_bits, 0), layer_bits, 0))


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_zeros_stay_zeros(tmp_path: Path, network: Residual, images: np.ndarray, activation_bits: int) -> None:
    sparse = copy.deepcopy(network)
    torch.manual_seed(1)
    for layer in sparse.layers():
        layer.weight.data[torch.rand_like(layer.weight) < 0.7] = 0.0
        layer.weight.data[0] = 0.0
    export_onnx(sparse, torch.randn(2, 3, 10, 10), tmp_path / "sparse.onnx")
    path = tmp_path / "quantized.onnx"
    quantize(tmp_path / "sparse.onnx", path, BitChoice(4, activation_bits), calibration=images)
    for layer, found in zip(sparse.layers(), integer_weights(path), strict=True):
        assert not found[layer.weight.detach().numpy() == 0].any()


def test_a_large_bias_over_tiny_weights_does_not_overflow(tmp_path: Path, images: np.ndarray) -> None:
    torch.manual_seed(0)
    tiny = nn.Conv2d(4, 4, 1)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), tiny, nn.Flatten(), nn.Linear(400, 2))
    assert tiny.bias is not None
    with torch.no_grad():
        tiny.weight[1] *= 1e-9
        tiny.bias[1] = 3.0
    export_onnx(network, torch.randn(2, 3, 10, 10), tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", BitChoice(4, 8), calibration=images)
    expected, found = run_file(tmp_path / "float.onnx", images), run_file(tmp_path / "q.onnx", images)
    assert np.abs(found - expected).max() < 0.25 * np.ptp(expected)
    smallest, largest = LIMITS[4]
    inner = integer_weights(tmp_path / "q.onnx")[1]
    assert smallest <= inner.min() <= inner.max() <= largest


@pytest.mark.parametrize(
    "family", [pytest.param("resnet18", marks=pytest.mark.slow), "mobilenet_v3_small", "shufflenet_v2_x0_5"]
)
def test_families_run_in_eight_bits(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision.models, family)(num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    inputs = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        network(inputs)
    export_onnx(network, inputs[:2], tmp_path / "float.onnx")
    path, calibration = tmp_path / "q.onnx", inputs.numpy()
    coverage = quantize(tmp_path / "float.onnx", path, BitChoice(8, 8), calibration=calibration)
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())
    assert coverage == QuantizationCoverage(layers, layers)
    operators = optimized_operators(path)
    assert operators["QLinearConv"] + operators["QGemm"] == layers
    # Untrained networks are chaotic: against the float file one step of noise on the input changes everything. The
    # same graph computed in float, rounding where the integer kernels round, is the twin.
    expected = run_file(path, calibration, fused=False)
    assert np.linalg.norm(run_file(path, calibration) - expected) < 0.2 * np.linalg.norm(expected - expected.mean(0))


def matrix_file(path: Path, first: np.ndarray, second: np.ndarray, **attributes: Any) -> None:
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "second"], ["output"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "matrices",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", first.shape[0]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in (("first", first), ("second", second))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("transposed", [0, 1])
def test_each_output_of_a_matrix_has_its_scale(tmp_path: Path, activation_bits: int, transposed: int) -> None:
    rng = np.random.default_rng(0)
    # Columns of very different size: with scales along the wrong axis the small ones would all become zero.
    columns = np.float32(10.0) ** np.arange(-2, 2).astype(np.float32)
    first = (rng.normal(size=(6, 4)) * columns).astype(np.float32)
    second = (rng.normal(size=(4, 4)) * columns).astype(np.float32)
    path = tmp_path / "matrices.onnx"
    matrix_file(path, first, second.T.copy() if transposed else second, transB=transposed)
    inputs = rng.normal(size=(64, 6)).astype(np.float32)
    quantize(path, tmp_path / "q.onnx", BitChoice(8, activation_bits), calibration=inputs)
    found = integer_weights(tmp_path / "q.onnx")
    assert (np.abs(found[0]).max(axis=0) > 45).all()
    assert (np.abs(found[1]).max(axis=1 if transposed else 0) > 45).all()
    expected = inputs @ first @ second
    error = np.abs(run_file(tmp_path / "q.onnx", inputs) - expected).max()
    assert error < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_one_weight_read_along_two_axes_is_quantized_along_each(tmp_path: Path, activation_bits: int) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(5, 5)) * 10.0 ** np.arange(-2, 3)).astype(np.float32)
    matrix_file(tmp_path / "shared.onnx", weight, weight, transB=1)
    model = onnx.load(tmp_path / "shared.onnx")
    model.graph.node[1].input[1] = "first"
    onnx.save(model, tmp_path / "shared.onnx")
    inputs = rng.normal(size=(64, 5)).astype(np.float32)
    coverage = quantize(
        tmp_path / "shared.onnx",
        tmp_path / "q.onnx",
        BitChoice(8, activation_bits),
        calibration=inputs,
    )
    assert coverage == QuantizationCoverage(2, 2)
    expected = inputs @ weight @ weight.T
    assert np.abs(run_file(tmp_path / "q.onnx", inputs) - expected).max() < 0.03 * np.abs(expected).max()


def test_a_weight_of_three_axes_is_left_float_and_said_to_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stacked, last = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "stacked"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "last"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stacked",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2, 6, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 2, 6, 5])],
        [numpy_helper.from_array(stacked, "stacked"), numpy_helper.from_array(last, "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    inputs = rng.normal(size=(8, 2, 6, 3)).astype(np.float32)
    coverage = quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", BitChoice(8, 8), calibration=inputs)
    assert (coverage.quantized_layers, coverage.all_layers) == (1, 2)
    assert [text.split(": ")[1] for text in coverage.left] == ["a product with a stack of matrices has no int8 kernel"]
    assert [layer.weight_name for layer in find_layers(onnx.load(tmp_path / "q.onnx"))] == ["stacked"]
    expected = inputs @ stacked @ last
    assert np.abs(run_file(tmp_path / "q.onnx", inputs) - expected).max() < 0.03 * np.abs(expected).max()


def test_integer_kernels_compute_what_the_float_graph_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 5)
    )
    # All of one sign: the worst case for a kernel that adds in 16 bits.
    for parameter in network.parameters():
        parameter.data.abs_()
    inputs = torch.rand(32, 3, 10, 10)
    export_onnx(network, inputs[:2], tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", BitChoice(8, 8), calibration=inputs.numpy())
    fused = run_file(tmp_path / "q.onnx", inputs.numpy())
    unfused = run_file(tmp_path / "q.onnx", inputs.numpy(), fused=False)
    step = np.ptp(np.append(unfused, 0)) / 255
    assert np.abs(fused - unfused).max() <= 1.01 * step


# --- manners and failures ------------------------------------------------------------------------------------------


def test_nothing_is_said_and_nothing_is_left_behind(
    tmp_path: Path, float_file: Path, images: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), root.level, logging.getLogger("onnxruntime").level)
    for activation_bits in (8, 32):
        quantize(
            float_file, tmp_path / "q.onnx", BitChoice(4, activation_bits), calibration=images
        )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert (list(root.handlers), list(root.filters), root.level, logging.getLogger("onnxruntime").level) == before
    assert [path.name for path in tmp_path.iterdir()] == ["q.onnx"]


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "message"),
    [(32, 8, "weight_bits must be within"), (1, 8, "weight_bits must be within"), (4, 16, "must be 8 or 32")],
)
def test_other_widths_are_a_mistake_of_the_caller(
    tmp_path: Path, float_file: Path, images: np.ndarray, weight_bits: int, activation_bits: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(float_file, tmp_path / "q", BitChoice(weight_bits, activation_bits), calibration=images)


@pytest.mark.parametrize("inputs", [np.empty((0, 3, 10, 10)), np.full((2, 3, 10, 10), np.nan)])
def test_calibration_without_numbers_is_a_mistake_of_the_caller(
    tmp_path: Path, float_file: Path, inputs: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="calibration"):
        quantize(float_file, tmp_path / "q", BitChoice(4, 8), calibration=inputs.astype(np.float32))


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_what_cannot_be_quantized_says_why(tmp_path: Path, images: np.ndarray, activation_bits: int) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    export_onnx(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3, 10, 10), tmp_path / "bare.onnx")
    export_onnx(nn.Conv2d(3, 2, 1), torch.randn(2, 3, 10, 10), tmp_path / "nan.onnx")
    model = onnx.load(tmp_path / "nan.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(np.full((2, 3, 1, 1), np.nan, dtype=np.float32), weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    export_onnx(nn.Conv2d(4, 2, 1), torch.randn(2, 4, 10, 10), tmp_path / "channels.onnx")
    reasons = {
        "broken.onnx": "cannot be read as ONNX",
        "bare.onnx": "has no weight that can be rounded",
        "nan.onnx": "holds a non-finite value",
        "channels.onnx": "InvalidArgument|Fail|RuntimeException",
    }
    for name, reason in reasons.items():
        with pytest.raises(CandidateFailure, match=reason) as caught:
            quantize(tmp_path / name, tmp_path / "q", BitChoice(4, activation_bits), calibration=images)
        assert caught.value.stage == "quantization"
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("bug", [TypeError, KeyError, AttributeError, AssertionError])
def test_a_bug_is_not_taken_for_a_bad_candidate(
    tmp_path: Path, float_file: Path, images: np.ndarray, bug: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise bug("a bug")

    monkeypatch.setattr(insertion, "QDQQuantizer", broken)
    with pytest.raises(bug, match="a bug"):
        quantize(float_file, tmp_path / "q", BitChoice(4, 8), calibration=images)
