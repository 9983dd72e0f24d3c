"""Weights zeroed at once, the others making good: against matrix inversion, every mask, and least squares."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization import covariance_source as covariance_module
from karui.spaces.formats.onnx.quantization.bias_correction import correct_biases
from karui.spaces.formats.onnx.quantization.covariance_source import CovarianceSource
from karui.spaces.formats.onnx.quantization.graph_rounding import round_layers, zero_layers
from karui.spaces.formats.onnx.quantization.weight_layers import find_layers, name_nodes, read_weights
from karui.spaces.rounding import zero_choice
from karui.spaces.rounding.error_feedback import DAMPING, damped
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.rounding.zero_choice import zero_rows, zero_smallest
from karui.spaces.training.zeroing import zero_weights

FEEDBACK, NEAREST = QuantizationSettings(), QuantizationSettings(rounding="nearest")


def correlated(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Inputs that share much, as activations do."""
    mixed = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) + rng.normal(size=columns)
    return np.asarray(mixed, dtype=np.float32)


def conditioned(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Damped second moments of one group and their inverse, shape (1, columns, columns)."""
    curvature = damped((inputs.T.astype(np.float64) @ inputs)[None])
    assert curvature is not None
    return curvature, np.linalg.inv(curvature)


def surgeon_by_inversion(row: np.ndarray, curvature: np.ndarray, count: int) -> np.ndarray:
    """Zero one weight after another, with the inverse of what is left computed afresh each time."""
    kept, largest = list(range(len(row))), int(np.abs(row).argmax())
    values = row.astype(np.float64)
    for _ in range(count):
        inverse = np.linalg.inv(curvature[np.ix_(kept, kept)])
        costs = values[kept] ** 2 / np.diagonal(inverse)
        costs[kept.index(largest)] = np.inf
        del kept[int(costs.argmin())]
        values = best_values(row, curvature, kept)
    return values


def best_values(row: np.ndarray, curvature: np.ndarray, kept: list[int]) -> np.ndarray:
    values = np.zeros(len(row))
    values[kept] = np.linalg.solve(curvature[np.ix_(kept, kept)], (curvature @ row)[kept])
    return values


def squared_error(row: np.ndarray, values: np.ndarray, curvature: np.ndarray) -> float:
    return float((row - values) @ curvature @ (row - values))


# --- one layer -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 3), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_the_choice_and_the_values_are_those_of_explicit_inversion(
    seed: int, columns: int, groups: int, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(groups, rows, columns))
    pairs = [conditioned(correlated(rng, 40, columns)) for _ in range(groups)]
    curvature, inverse = (np.concatenate(each) for each in zip(*pairs, strict=True))
    counts = rng.integers(0, columns, size=(groups, rows))
    found = zero_rows(weight, curvature, inverse, counts, "free")
    for group, row in itertools.product(range(groups), range(rows)):
        expected = surgeon_by_inversion(weight[group, row], curvature[group], counts[group, row])
        np.testing.assert_array_equal(found[group, row] == 0, expected == 0)
        np.testing.assert_allclose(found[group, row], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("columns", "count"), [(6, 3), (7, 3), (8, 4), (8, 6)])
def test_the_error_is_near_that_of_the_best_of_all_masks(columns: int, count: int) -> None:
    rng = np.random.default_rng(columns * 10 + count)
    sums = np.zeros(3)
    for _layer in range(40):
        curvature, inverse = conditioned(correlated(rng, 50, columns))
        row = rng.normal(size=columns)
        largest = int(np.abs(row).argmax())
        masks = [kept for kept in itertools.combinations(range(columns), columns - count) if largest in kept]
        errors = [squared_error(row, best_values(row, curvature[0], list(kept)), curvature[0]) for kept in masks]
        wanted = np.array([[count]])
        found = squared_error(row, zero_rows(row[None, None], curvature, inverse, wanted, "free")[0, 0], curvature[0])
        plain = squared_error(row, zero_smallest(row[None, None], wanted, "free")[0, 0], curvature[0])
        assert found >= min(errors) * (1 - 1e-9)
        sums += [min(errors), found, plain]
    best, found_sum, plain_sum = sums
    assert plain_sum > 1.5 * best
    assert found_sum - best < 0.15 * (plain_sum - best)


@pytest.mark.parametrize(("most_work", "slack"), [(0.0, 0.15), (np.inf, 1e-4)])
@pytest.mark.parametrize("fraction", [0.5, 0.8])
def test_long_rows_are_zeroed_nearly_as_well_as_one_weight_at_a_time(
    monkeypatch: pytest.MonkeyPatch, most_work: float, slack: float, fraction: float
) -> None:
    rng = np.random.default_rng(0)
    columns = 200
    curvature, inverse = conditioned(correlated(rng, 300, columns))
    weight = rng.normal(size=(1, 3, columns))
    counts = np.array([[int(fraction * columns), int(fraction * columns), 10]])
    monkeypatch.setattr(zero_choice, "_MOST_WORK", most_work)
    found = zero_rows(weight, curvature, inverse, counts, "free")
    np.testing.assert_array_equal((found == 0).sum(axis=2), counts)
    for row, values, count in zip(weight[0], found[0], counts[0], strict=True):
        # The values are the best for the zeros chosen …
        best = best_values(row, curvature[0], list(np.flatnonzero(values)))
        error = squared_error(row, values, curvature[0])
        assert error <= (1 + slack) * squared_error(row, best, curvature[0])
        # … and these are nearly those that go when the inverse is computed afresh for each.
        assert error <= 1.5 * squared_error(row, surgeon_by_inversion(row, curvature[0], count), curvature[0])


# --- one node --------------------------------------------------------------------------------------------------------


def layer_model(operator: str, weight: np.ndarray, inputs: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    value, shape = helper.make_tensor_value_info, (None, *inputs.shape[1:])
    graph = helper.make_graph(
        [helper.make_node(operator, ["input", "weight"], ["output"], name="layer", **attributes)],
        "one", [value("input", TensorProto.FLOAT, shape)],
        [value("output", TensorProto.FLOAT, [None] * len(shape))], [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def weight_of(model: onnx.ModelProto, name: str = "weight") -> np.ndarray:
    return read_weights(model, {name})[name]


def with_weight(model: onnx.ModelProto, values: np.ndarray) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))
    return changed


NODES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (12, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "grouped": ("Conv", (8, 2, 3, 3), {"group": 4, "strides": [2, 1]}),
    "depthwise": ("Conv", (12, 1, 3, 3), {"group": 12, "pads": [1, 1, 1, 1]}),
    "gemm": ("Gemm", (16, 30), {"transB": 1}),
    "matmul": ("MatMul", (30, 16), {}),
}


def node_case(name: str, seed: int = 0) -> tuple[onnx.ModelProto, np.ndarray, int]:
    """A model of one node, its calibration inputs, and the axis of the weight that numbers the outputs."""
    rng = np.random.default_rng(seed)
    operator, shape, attributes = NODES[name]
    inputs = correlated(rng, 200, 30)
    if operator == "Conv":
        channels = shape[1] * attributes.get("group", 1)
        rough = torch.from_numpy(rng.normal(size=(24, channels, 4, 4)))
        inputs = nn.functional.interpolate(rough, size=(9, 9), mode="bilinear").numpy().astype(np.float32)
    model = layer_model(operator, rng.normal(size=shape).astype(np.float32), inputs, **attributes)
    return model, inputs, 1 if operator == "MatMul" else 0


@pytest.mark.parametrize(("name", "axis"), [("gemm", 0), ("matmul", 1)])
def test_what_is_left_is_the_least_squares_solution(name: str, axis: int) -> None:
    model, inputs, _ = node_case(name)
    before = np.moveaxis(weight_of(model), axis, 0).astype(np.float64)
    zero_layers(model, find_layers(model), zeroing=Zeroing(0.6), settings=FEEDBACK, calibration=inputs)
    after = np.moveaxis(weight_of(model), axis, 0)
    assert (after == 0).sum() == round(0.6 * after.size)
    # Damping is the same as a few more inputs, one for each weight.
    strength = np.sqrt(DAMPING * np.square(inputs, dtype=np.float64).sum() / inputs.shape[1])
    more = np.concatenate([inputs.astype(np.float64), strength * np.eye(inputs.shape[1])])
    for old, new in zip(before, after, strict=True):
        kept = np.flatnonzero(new)
        expected = np.linalg.lstsq(more[:, kept], more @ old, rcond=None)[0]
        np.testing.assert_allclose(new[kept], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["free", "2:4"])
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("name", NODES)
def test_zeroing_with_feedback_beats_zeroing_and_then_rounding(name: str, bits: int, pattern: Any) -> None:
    model, inputs, _ = node_case(name)
    layers, zeroing = find_layers(model), Zeroing(0.5, pattern)
    expected = run(model, inputs)

    def error_of(start: onnx.ModelProto, rounding: QuantizationSettings, wanted: Zeroing | None) -> float:
        weights, _ = round_layers(
            start, layers, {"weight": bits}, settings=rounding, calibration=inputs, zeroing=wanted
        )  # fmt: skip
        assert (weights["weight"].integers == 0).sum() >= round(0.4 * weights["weight"].integers.size)
        return float(np.square(run(with_weight(model, weights["weight"].values), inputs) - expected).mean())

    plain = with_weight(model, weight_of(model))
    zero_layers(plain, layers, zeroing=zeroing, settings=NEAREST, calibration=inputs)
    joint = error_of(model, FEEDBACK, zeroing)
    assert joint < 0.9 * error_of(plain, FEEDBACK, None)
    assert joint < 0.6 * error_of(plain, NEAREST, None)


@given(
    st.sampled_from(list(NODES)), st.integers(0, 99), st.sampled_from(["2:4", "4:8"]), st.booleans(),
    st.sampled_from([None, 2, 4]),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_a_pattern_holds_everywhere(
    name: str, seed: int, pattern: Any, with_feedback: bool, bits: int | None
) -> None:  # fmt: skip
    model, inputs, axis = node_case(name, seed)
    weight = weight_of(model).copy()
    weight[np.random.default_rng(seed).random(weight.shape) < 0.2 * (seed % 4)] = 0.0
    model = with_weight(model, weight)
    rounding = FEEDBACK if with_feedback else NEAREST
    arguments: dict[str, Any] = {"zeroing": Zeroing(0.5, pattern), "settings": rounding, "calibration": inputs}
    if bits is None:
        zero_layers(model, find_layers(model), **arguments)
        after = weight_of(model)
    else:
        after = round_layers(model, find_layers(model), {"weight": bits}, **arguments)[0]["weight"].integers
    assert not after[weight == 0].any()
    length = int(pattern[2])
    old, new = (np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1) for each in (weight, after))
    whole = old.shape[1] // length * length
    runs_before, runs = (each[:, :whole].reshape(len(each), -1, length) for each in (old, new))
    assert ((runs != 0).sum(axis=2) <= length // 2).all()
    if bits is None:
        np.testing.assert_array_equal((runs == 0).sum(axis=2), np.maximum(length // 2, (runs_before == 0).sum(axis=2)))
        np.testing.assert_array_equal(new[:, whole:] == 0, old[:, whole:] == 0)


@pytest.mark.parametrize("name", NODES)
def test_rounding_and_zeroing_keep_the_mean_output(name: str) -> None:
    model, inputs, _ = node_case(name)
    if name == "matmul":
        model.graph.node[0].output[0] = "product"
        model.graph.initializer.append(numpy_helper.from_array(np.ones(16, dtype=np.float32), "bias"))
        model.graph.node.append(helper.make_node("Add", ["product", "bias"], ["output"], name="add"))
    inputs = np.maximum(inputs, 0)
    layers, zeroing = find_layers(model), Zeroing(0.7)
    weights, shifts = round_layers(model, layers, {"weight": 3}, settings=FEEDBACK, calibration=inputs, zeroing=zeroing)
    zeroed = with_weight(model, weight_of(model))
    float_shifts = zero_layers(zeroed, layers, zeroing=zeroing, settings=FEEDBACK, calibration=inputs)
    axes = (0, 2, 3) if inputs.ndim == 4 else (0,)
    expected = run(model, inputs).mean(axes)
    for changed, shift in ((with_weight(model, weights["weight"].values), shifts), (zeroed, float_shifts)):
        assert np.abs(run(changed, inputs).mean(axes) - expected).max() > 1e-3
        correct_biases(changed, shift)
        np.testing.assert_allclose(run(changed, inputs).mean(axes), expected, atol=2e-5)


# --- several layers --------------------------------------------------------------------------------------------------


class Several(nn.Module):
    """Three convolutions, the last of them tiny, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.ReLU()
        )
        self.last = nn.Linear(8, 30)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.last(self.convolutions(inputs).mean((2, 3)))
        return outputs


def several(folder: Path) -> tuple[Several, onnx.ModelProto, np.ndarray]:
    torch.manual_seed(3)
    network = Several().eval()
    export_onnx(network, torch.randn(2, 3, 8, 8), folder / "several.onnx")
    model = onnx.load(folder / "several.onnx")
    name_nodes(model)
    return network, model, torch.randn(40, 3, 8, 8).numpy()


@pytest.mark.parametrize("rounding", [FEEDBACK, NEAREST])
@pytest.mark.parametrize("fraction", [0.0, 0.31, 0.5, 0.8])
def test_the_fraction_is_reached_exactly(tmp_path: Path, fraction: float, rounding: QuantizationSettings) -> None:
    network, model, inputs = several(tmp_path)
    layers = find_layers(model)
    before = read_weights(model, {layer.weight_name for layer in layers})
    total = sum(weight.size for weight in before.values())
    assert total == 324 + 108 + 96 + 240
    zero_layers(model, layers, zeroing=Zeroing(fraction), settings=rounding, calibration=inputs)
    after = read_weights(model, set(before))
    wanted = min(round(fraction * total), total - 96 - 12 - 12 - 30)
    assert sum(int((weight == 0).sum()) for weight in after.values()) == wanted
    # positive zeros: packing would not take negative ones for zeros
    assert not any(np.signbit(weight[weight == 0]).any() for weight in after.values())
    for name, weight in before.items():
        if weight.size == 96:
            np.testing.assert_array_equal(after[name], weight)
        else:
            rows, old = after[name].reshape(len(weight), -1), weight.reshape(len(weight), -1)
            assert rows[np.arange(len(rows)), np.abs(old).argmax(axis=1)].all()
    if rounding is NEAREST:
        # By magnitude it is what zeroing in torch does.
        zero_weights(network, fraction)
        masks = [parameter == 0 for name, parameter in network.named_parameters() if name.endswith("weight")]
        for layer, mask in zip(layers, masks, strict=True):
            np.testing.assert_array_equal(after[layer.weight_name] == 0, mask.numpy())


def test_weights_that_are_zero_already_stay_and_count(tmp_path: Path) -> None:
    _, model, inputs = several(tmp_path)
    layers = find_layers(model)
    rng = np.random.default_rng(0)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, weight in read_weights(model, {layer.weight_name for layer in layers}).items():
        zeroed = np.where(rng.random(weight.shape) < 0.4, np.float32(0), weight)
        tensors[name].CopyFrom(numpy_helper.from_array(zeroed, name))
    before = read_weights(model, {layer.weight_name for layer in layers})
    for fraction in (0.1, 0.6):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        zero_layers(changed, layers, zeroing=Zeroing(fraction), settings=FEEDBACK, calibration=inputs)
        after = read_weights(changed, set(before))
        assert all(not after[name][weight == 0].any() for name, weight in before.items())
        zeros_before = sum(int((weight == 0).sum()) for weight in before.values())
        zeros = sum(int((weight == 0).sum()) for weight in after.values())
        assert zeros == max(zeros_before, round(fraction * 768))


def test_weights_given_on_their_grid_have_no_part_in_it(tmp_path: Path) -> None:
    _, model, inputs = several(tmp_path)
    layers = find_layers(model)
    bits = {layer.weight_name: 4 for layer in layers}
    first = layers[0].weight_name
    given_weights = {first: round_layers(model, layers, bits, settings=NEAREST, calibration=inputs)[0][first]}
    weights, _ = round_layers(
        model, layers, bits, settings=FEEDBACK, calibration=inputs, given=given_weights, zeroing=Zeroing(0.5)
    )
    assert weights[first] is given_weights[first]
    zeros = sum(int((weights[layer.weight_name].integers == 0).sum()) for layer in layers[1:])
    assert zeros >= round(0.5 * (108 + 96 + 240))


def two_products(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["input", "weight"], ["hidden"], name="first"),
        helper.make_node("MatMul", ["hidden", "weight"], ["output"], name="second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "shared", [value("input", TensorProto.FLOAT, [None, 12])],
        [value("output", TensorProto.FLOAT, [None, 12])], [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_weight_that_two_layers_read_is_zeroed_for_both() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(12, 12)).astype(np.float32)
    model, inputs = two_products(weight), correlated(rng, 64, 12)
    zero_layers(model, find_layers(model), zeroing=Zeroing(0.5), settings=FEEDBACK, calibration=inputs)
    after = weight_of(model)
    assert (after == 0).sum() == 72
    curvature = conditioned(np.concatenate([inputs, inputs @ weight]))[0][0]
    for old, new in zip(weight.T, after.T, strict=True):
        np.testing.assert_allclose(new, best_values(old, curvature, list(np.flatnonzero(new))), rtol=1e-3, atol=1e-4)


def test_a_stack_of_matrices_goes_by_magnitude_and_nothing_makes_good() -> None:
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(4, 10, 8)).astype(np.float32), rng.normal(size=(5, 4, 3, 10)).astype(np.float32)
    model = layer_model("MatMul", weight, inputs)
    shifts = zero_layers(
        model, find_layers(model), zeroing=Zeroing(0.5), settings=FEEDBACK, calibration=inputs
    )  # fmt: skip
    after = weight_of(model)
    assert shifts == {}
    assert (after == 0).sum() == 160
    np.testing.assert_array_equal(after[after != 0], weight[after != 0])
    assert np.abs(weight[after == 0]).max() < np.abs(weight[after != 0]).min()


def test_moments_come_alike_each_time_in_one_portion_or_in_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, inputs = several(tmp_path)
    runs = []
    for most_bytes in (2**30, 1):
        monkeypatch.setattr(covariance_module, "_MOST_BYTES", most_bytes)
        source = CovarianceSource(model, find_layers(model), inputs)
        portions = [list(source) for _ in range(2)]
        assert [len(each) for each in portions] == ([1, 1] if most_bytes > 1 else [4, 4])
        assert (portions[0][0] is portions[1][0]) == (most_bytes > 1)
        runs += [{name: found for portion in each for name, found in portion.items()} for each in portions]
    for other in runs[1:]:
        assert other.keys() == runs[0].keys()
        for name, found in other.items():
            np.testing.assert_allclose(found.second, runs[0][name].second, rtol=1e-5)


def test_fractions_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="fraction of weights to zero: expected 0 <= fraction < 1, got 1"):
        Zeroing(1.0)
    with pytest.raises(ValueError, match="the pattern 2:4 zeroes 50% of the weights, got"):
        Zeroing(0.7, "2:4")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 130])
@pytest.mark.parametrize("rounds", [False, True])
def test_where_more_is_wanted_than_may_go_the_largest_stays(
    columns: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rounds:
        monkeypatch.setattr(zero_choice, "_MOST_WORK", 0)
    rng = np.random.default_rng(columns)
    weight = rng.normal(size=(1, 3, columns)).astype(np.float32)
    curvature, inverse = conditioned(correlated(rng, 200, columns))
    wanted = np.full((1, 3), columns)
    for zeroed in (zero_smallest(weight, wanted, "free"), zero_rows(weight, curvature, inverse, wanted, "free")):
        assert (zeroed != 0).sum(axis=2).tolist() == [[1, 1, 1]]
        assert (zeroed[0] != 0).argmax(axis=1).tolist() == np.abs(weight[0]).argmax(axis=1).tolist()
