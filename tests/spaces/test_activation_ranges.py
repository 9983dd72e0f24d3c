"""Ranges of activations: against closed forms, brute force, and the scales that the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.quantization.activation_ranges import (
    activation_grids,
    histograms,
    within_activation_functions,
)
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.histogram import Histogram
from karui.spaces.rounding.learned import ActivationGrid, LearnedGrids
from karui.spaces.rounding.range_search import grid_between
from karui.spaces.rounding.settings import ActivationRule, Granularity, QuantizationSettings

RANGES: tuple[ActivationRule, ...] = get_args(ActivationRule)
COMPUTED = tuple(how for how in RANGES if how != "minmax")


def product_file(path: Path, weight: np.ndarray, *, operator: str = "MatMul", function: str = "") -> onnx.ModelProto:
    """Write one layer, with a Relu or a Clip to 6 behind it where asked for."""
    matrix = operator != "Conv"
    shape = ["batch", weight.shape[0]] if matrix else ["batch", weight.shape[1], 5, 5]
    output_shape = ["batch", weight.shape[1]] if matrix else ["batch", weight.shape[0], 3, 3]
    nodes = [helper.make_node(operator, ["input", "weight"], ["hidden" if function else "output"], name="layer")]
    tensors = [numpy_helper.from_array(weight, "weight")]
    if function:
        limits = ["low", "high"] if function == "Clip" else []
        nodes.append(helper.make_node(function, ["hidden", *limits], ["output"], name="function"))
        if limits:
            tensors += [
                numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 6))
            ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return model


def grids_in(path: Path) -> dict[str, ActivationGrid]:
    """Return the grids of the activations that a file rounds, by the name of the tensor."""
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            name = node.input[0].removesuffix("_QuantizeLinear_Input")
            found[name] = ActivationGrid(float(tensors[node.input[1]]), int(tensors[node.input[2]]))
    return found


def file_grids(folder: Path, inputs: np.ndarray, how: ActivationRule) -> ActivationGrid:
    """Return the grid of the inputs in the file of a product with the identity."""
    product_file(folder / "float.onnx", np.eye(inputs.shape[1], dtype=np.float32))
    chosen = QuantizationSettings(activation_ranges=how)
    quantize(folder / "float.onnx", folder / "q.onnx", BitChoice(7, 8), calibration=inputs, settings=chosen)
    return grids_in(folder / "q.onnx")["input"]


def ends(grid: ActivationGrid) -> tuple[float, float]:
    return -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale


def rounded(values: np.ndarray, grid: ActivationGrid) -> np.ndarray:
    integers = np.clip(np.rint(values / grid.scale) + grid.zero_point, 0, 255)
    return np.asarray((integers - grid.zero_point) * grid.scale)


def squared_error(values: np.ndarray, grid: ActivationGrid) -> float:
    return float(np.square(rounded(values, grid) - values).sum())


# --- ranges that are known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", RANGES)
def test_uniform_values_have_their_own_range(tmp_path: Path, how: ActivationRule) -> None:
    inputs = np.linspace(0, 3, 40_000, dtype=np.float32).reshape(-1, 8)
    grid = file_grids(tmp_path, np.random.default_rng(0).permutation(inputs), how)
    assert grid.zero_point == 0
    # Clipping a share c of uniform values costs c^3 / 3 of squared error, and shortens a step by as much only.
    share = {"minmax": 1.0, "percentile": 0.9999}.get(how)
    assert grid.scale == pytest.approx(3 / 255 * (share or 1.0), rel=1e-4 if share else 0.02)


@pytest.mark.parametrize("how", RANGES)
def test_a_single_outlier_stretches_minmax_alone(tmp_path: Path, how: ActivationRule) -> None:
    inputs = np.random.default_rng(0).uniform(-1, 1, (4000, 32)).astype(np.float32)
    inputs[2000, 16] = 10.0
    lowest, highest = ends(file_grids(tmp_path, inputs, how))
    assert lowest == pytest.approx(-1, abs=0.07)
    if how == "minmax":
        assert highest == pytest.approx(10, rel=0.01)
    else:
        assert highest < {"percentile": 1.1, "entropy": 6.0, "mse": 8.7}[how]


@pytest.mark.parametrize("samples", [4_000, 40_000, 200_000])
def test_an_outlier_is_clipped_by_as_much_as_pays(samples: int) -> None:
    inputs = np.random.default_rng(0).uniform(-1, 1, (samples, 32)).astype(np.float32)
    inputs[2000, 16] = 10.0
    # Least (10 - c)^2 + n s^2 / 12, with steps of s = (1 + c) / 255.
    price = inputs.size / (12 * 255**2)
    lowest, highest = ends(grids_of(inputs, "mse"))
    assert highest == pytest.approx(max(1.0, (10 - price) / (1 + price)), abs=0.25)
    assert lowest == pytest.approx(-1, abs=0.07)


def test_the_percentiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(1).normal(size=(2000, 50)).astype(np.float32)
    low, high = np.percentile(values, [0.01, 99.99])
    grid = grids_of(values, "percentile")
    step = (high - low) / 255
    np.testing.assert_allclose(ends(grid), (low, high), atol=step)


def grids_of(values: np.ndarray, how: ActivationRule) -> ActivationGrid:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["input"], ["output"])],
            "identity",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", values.shape[1]])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", values.shape[1]])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    return activation_grids(model, values, how)["input"]


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "skewed", "uniform"])
def test_the_squared_error_is_about_as_small_as_brute_force_finds(kind: str) -> None:
    rng = np.random.default_rng(2)
    drawn = {
        "normal": rng.normal(size=(500, 40)),
        "relu": np.maximum(rng.normal(size=(500, 40)), 0),
        "heavy": rng.standard_t(3, size=(500, 40)).clip(-20, 25),
        "skewed": rng.gamma(1.0, size=(500, 40)) - 0.3,
        "uniform": rng.uniform(-1, 3, size=(500, 40)),
    }
    values = drawn[kind].astype(np.float32)
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    factors = np.linspace(0.1, 1, 46)
    best = min(
        squared_error(values, grid_between(lowest * left, highest * right))
        for left in (factors if lowest else [0.0])
        for right in factors
    )
    assert squared_error(values, grids_of(values, "mse")) <= 1.03 * best


@given(
    st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=40).filter(
        lambda values: max(abs(value) for value in values) > 1e-20
    ),
    st.sampled_from(COMPUTED),
)
@settings(deadline=None, max_examples=60)
def test_zero_is_on_every_grid_and_none_reaches_beyond_the_values(values: list[float], how: ActivationRule) -> None:
    array = np.array(values, dtype=np.float32)[:, None]
    grid = grids_of(array, how)
    assert grid.scale > 0
    assert 0 <= grid.zero_point <= 255
    assert rounded(np.zeros(1), grid) == 0
    lowest, highest = ends(grid)
    # The zero point is a whole number, so the ends move by up to half a step.
    assert lowest >= min(array.min(), 0) - 0.51 * grid.scale
    assert highest <= max(array.max(), 0) + 0.51 * grid.scale


def test_a_relu_whose_outputs_are_mostly_zero_is_not_cut_short() -> None:
    values = np.maximum(np.random.default_rng(3).normal(size=(4000, 50)) - 1, 0).astype(np.float32)
    for how in COMPUTED:
        grid = grids_of(values, how)
        assert grid.zero_point == 0
        assert 0.6 * values.max() < 255 * grid.scale <= values.max()


def test_a_histogram_counts_every_value_once_whatever_the_batches() -> None:
    values = np.random.default_rng(4).normal(size=(71, 3)).astype(np.float32)
    model = product_file_in_memory(np.eye(3, dtype=np.float32))
    found = histograms(model, values)
    assert set(found) == {"input", "output"}
    expected, _ = np.histogram(values, bins=len(found["input"].counts), range=(values.min(), values.max()))
    assert found["input"].counts.sum() == values.size
    # A value on the edge of a bin may fall on either side, float32 or float64.
    assert np.abs(np.cumsum(found["input"].counts - expected)).max() <= 1
    assert (found["input"].lowest, found["input"].highest) == (values.min(), values.max())


def product_file_in_memory(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"], name="layer")],
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("how", COMPUTED)
def test_tensors_without_a_range_are_left_to_the_runtime(how: ActivationRule) -> None:
    model = product_file_in_memory(np.zeros((3, 2), dtype=np.float32))
    inputs = np.ones((5, 3), dtype=np.float32)
    assert set(activation_grids(model, inputs, how)) == {"input"}
    assert not activation_grids(model, inputs, "minmax")
    endless = product_file_in_memory(np.full((3, 2), 3e38, dtype=np.float32))
    assert set(activation_grids(endless, inputs, how)) == {"input"}


def test_the_edges_of_a_grid_are_those_of_its_bins() -> None:
    found = Histogram(-1.0, 1.0, np.arange(4096))
    grid = grid_between(-1.0, 1.0)
    edges = found.edges(grid.scale, grid.zero_point)
    assert (edges[0], edges[-1]) == (0, 4096)
    assert set(np.diff(edges)[1:-1]) <= {16, 17}


# --- files -----------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two convolutions with a residual sum, pooled, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        first = self.first(inputs).relu()
        pooled = torch.max_pool2d((first + torch.clamp(self.second(first), 0, 6)).relu(), 2)
        outputs: torch.Tensor = self.last(pooled.mean((2, 3)))
        return outputs


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_onnx(Small().eval(), torch.randn(2, 3, 8, 8), path)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    # Not a whole number of batches.
    return np.random.default_rng(0).standard_t(4, size=(75, 3, 8, 8)).astype(np.float32)


def outputs_of(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = open_session(onnx.load(path))
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def test_no_rule_is_much_worse_than_minmax(tmp_path: Path, float_file: Path, images: np.ndarray) -> None:
    expected = outputs_of(float_file, images)
    errors = {}
    for how in RANGES:
        chosen = QuantizationSettings(activation_ranges=how)
        quantize(float_file, tmp_path / how, BitChoice(7, 8), calibration=images, settings=chosen)
        errors[how] = np.square(outputs_of(tmp_path / how, images) - expected).mean() / expected.var()
    assert max(errors.values()) < 0.01
    # Of inputs with a heavy tail: what the ends of a grid cut off weighs more in the outputs than in the tensor.
    assert errors["mse"] < 4 * errors["minmax"]


def test_the_file_rounds_as_it_was_told(tmp_path: Path, float_file: Path, images: np.ndarray) -> None:
    chosen = QuantizationSettings(activation_ranges="mse", bias_correction="off", rounding="nearest")
    quantize(float_file, tmp_path / "q", BitChoice(7, 8), calibration=images, settings=chosen)
    found = grids_in(tmp_path / "q")
    model = onnx.load(float_file)
    rounded_weights = onnx.load(tmp_path / "q")
    assert not {"Relu", "Clip"} & {node.op_type for node in rounded_weights.graph.node}
    # What the layers' inputs are rounded to does not follow from the weights of later layers.
    inputs = model.graph.input[0].name
    wanted = activation_grids(model, images, "mse")[inputs]
    assert found[inputs].scale == pytest.approx(wanted.scale, rel=1e-6)
    assert found[inputs].zero_point == wanted.zero_point
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu" and node.output[0] in found]
    assert relus
    assert all(found[name].zero_point == 0 for name in relus)


@pytest.mark.parametrize("how", RANGES)
def test_learned_grids_win(tmp_path: Path, float_file: Path, images: np.ndarray, how: ActivationRule) -> None:
    model = onnx.load(float_file)
    relu = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    taught = {model.graph.input[0].name: ActivationGrid(0.03125, 100), relu: ActivationGrid(0.0625, 0)}
    chosen = QuantizationSettings(activation_ranges=how)
    learned = LearnedGrids(activations={**taught, "of no such tensor": ActivationGrid(1.0, 3)})
    quantize(
        float_file, tmp_path / "q", BitChoice(4, 8), calibration=images, settings=chosen, learned=learned
    )  # fmt: skip
    found = grids_in(tmp_path / "q")
    assert found == taught  # what the last layer gives is not rounded


@pytest.mark.parametrize(("function", "highest"), [("Relu", 12.0), ("Clip", 6.0)])
def test_a_grid_reaches_no_further_than_its_function(tmp_path: Path, function: str, highest: float) -> None:
    rng = np.random.default_rng(5)
    product_file(tmp_path / "float.onnx", (3 * np.eye(4)).astype(np.float32), function=function)
    inputs = rng.normal(size=(64, 4)).astype(np.float32)
    # From -4 to 12, where a Relu gives nothing below 0 and the Clip nothing above 6.
    learned = LearnedGrids(activations={"output": ActivationGrid(16 / 255, 64)})
    quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", BitChoice(7, 8), calibration=inputs, learned=learned)
    grid = grids_in(tmp_path / "q.onnx")["output"]
    np.testing.assert_allclose(ends(grid), (0, highest), rtol=0.01)
    expected = np.clip(inputs * 3, 0, 6 if function == "Clip" else np.inf)
    assert np.abs(outputs_of(tmp_path / "q.onnx", inputs) - expected).max() < 0.1


def test_a_grid_within_its_function_is_left_as_it_is(tmp_path: Path) -> None:
    model = product_file(tmp_path / "float.onnx", np.eye(4, dtype=np.float32), function="Clip")
    grids = {"output": ActivationGrid(6 / 255, 0), "hidden": ActivationGrid(0.5, 128)}
    assert within_activation_functions(model, grids) == grids


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul"])
def test_a_weight_has_one_scale_or_one_for_each_output(
    tmp_path: Path, operator: str, granularity: Granularity, activation_bits: int
) -> None:
    rng = np.random.default_rng(6)
    weight = rng.normal(size=(6, 4, 3, 3) if operator == "Conv" else (4, 6)).astype(np.float32)
    product_file(tmp_path / "float.onnx", weight, operator=operator)
    inputs = rng.normal(size=(40, 4, 5, 5) if operator == "Conv" else (40, 4)).astype(np.float32)
    chosen = QuantizationSettings(granularity=granularity, rounding="nearest")
    path = tmp_path / "q.onnx"
    quantize(tmp_path / "float.onnx", path, BitChoice(4, activation_bits), calibration=inputs, settings=chosen)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    (integers,) = (array for array in tensors.values() if array.dtype == np.int8 and array.size == weight.size)
    (scales,) = (
        array for name, array in tensors.items() if name.startswith("weight") and array.dtype == np.float32
    )  # fmt: skip
    assert scales.size == (1 if granularity == "tensor" else 6)
    axis = (6, 1, 1, 1) if operator == "Conv" else (1, 6)
    factors = scales.reshape(axis) if granularity == "channel" else scales.reshape(())
    # The largest may be clipped, by less than a step.
    assert np.abs(integers * factors - weight).max() < scales.max()
    expected = outputs_of(tmp_path / "float.onnx", inputs)
    assert np.abs(outputs_of(path, inputs) - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_one_scale_for_all_outputs_serves_a_whole_network(
    tmp_path: Path, float_file: Path, images: np.ndarray, activation_bits: int
) -> None:
    chosen = QuantizationSettings(granularity="tensor")
    quantize(float_file, tmp_path / "q", BitChoice(8, activation_bits), calibration=images, settings=chosen)
    expected = outputs_of(float_file, images)
    error = np.square(outputs_of(tmp_path / "q", images) - expected).mean() / expected.var()
    assert error < 0.01
