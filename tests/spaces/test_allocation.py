"""Budgets of bits: against every assignment there is, and tables against networks whose losses are known."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

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
from karui.spaces.formats.onnx.quantization.bias_correction import correct_biases
from karui.spaces.formats.onnx.quantization.graph_rounding import round_layers
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.formats.onnx.quantization.sensitivity_probe import kept_table, sensitivity_table, table_digest
from karui.spaces.formats.onnx.quantization.weight_layers import find_layers
from karui.spaces.rounding import allocation
from karui.spaces.rounding.allocation import budget_bits, uniform_bits
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.layers import Layer
from karui.spaces.rounding.scales import mse_scales, round_to_grid
from karui.spaces.rounding.sensitivity import SensitivityTable, loss_increase
from karui.spaces.rounding.settings import Granularity, QuantizationSettings

BITS = (2, 3, 4, 5, 6, 7, 8)
NEAREST = QuantizationSettings(rounding="nearest")


def layers_of(*names: str) -> list[Layer]:
    return [Layer(f"node{index}", name, 0) for index, name in enumerate(names)]


def table_of(sizes: list[int], losses: list[tuple[float, ...]], bits: tuple[int, ...] = BITS) -> SensitivityTable:
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: len(sizes)])
    return SensitivityTable("digest", names, tuple(sizes), bits, tuple(losses))


def cost(table: SensitivityTable, chosen: dict[str, int]) -> float:
    """Sum the losses, more bits being at least as good as fewer."""
    return sum(
        min(table.loss_increases[row][: table.bits.index(chosen[name]) + 1])
        for row, name in enumerate(table.names)
        if name in chosen
    )


def bits_in_all(table: SensitivityTable, chosen: dict[str, int]) -> int:
    return sum(size * chosen[name] for name, size in zip(table.names, table.sizes, strict=True) if name in chosen)


LOSSES = st.integers(0, 50).map(lambda number: number / 8)  # exact sums, so that ties are ties


@st.composite
def tables(draw: st.DrawFn, most_weights: int = 4) -> SensitivityTable:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=most_weights))
    bits = draw(st.sampled_from([(2, 3, 4), (2, 4, 8), (2, 3, 5, 8)]))
    return table_of(sizes, [tuple(draw(LOSSES) for _ in bits) for _ in sizes], bits)


# --- spreading a budget ----------------------------------------------------------------------------------------------


@given(tables(), st.floats(2, 8), st.sampled_from([4, 7, 8]))
@settings(deadline=None, max_examples=150)
def test_no_assignment_within_the_budget_is_better(table: SensitivityTable, mean: float, most_bits: int) -> None:
    layers = layers_of(*table.names)
    chosen = budget_bits(table, layers, mean, most_bits=most_bits)
    ends = {table.names[0], table.names[-1]}
    budget = sum(
        size * min(max(mean, 8) if name in ends else mean, most_bits)
        for name, size in zip(table.names, table.sizes, strict=True)
    )
    options = [bits for bits in table.bits if bits <= most_bits]
    every = [dict(zip(table.names, each, strict=True)) for each in itertools.product(options, repeat=len(table.names))]
    within = [each for each in every if bits_in_all(table, each) <= budget + 1e-6]
    least = min(cost(table, each) for each in within)
    assert chosen in within
    assert cost(table, chosen) == least
    assert bits_in_all(table, chosen) == min(bits_in_all(table, each) for each in within if cost(table, each) == least)


@given(tables(8), st.lists(st.floats(2, 8), min_size=2, max_size=2), st.sampled_from([2, 5, 2**14]))
@settings(deadline=None, max_examples=100)
def test_budgets_are_kept_and_pay_however_few_states_are_kept(
    table: SensitivityTable, means: list[float], most_states: int
) -> None:
    layers = layers_of(*table.names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "MOST_STATES", most_states)
        fewer, more = (budget_bits(table, layers, mean, most_bits=8) for mean in sorted(means))
    if most_states == 2**14:
        assert cost(table, more) <= cost(table, fewer)
    for mean, chosen in zip(sorted(means), (fewer, more), strict=True):
        uniform = uniform_bits(layers, int(mean), most_bits=8)
        assert bits_in_all(table, chosen) <= sum(
            size * (8 if name in (table.names[0], table.names[-1]) else mean)
            for name, size in zip(table.names, table.sizes, strict=True)
        ) + 1e-6  # fmt: skip
        if set(uniform.values()) <= set(table.bits):
            assert cost(table, chosen) <= cost(table, uniform)


def test_many_weights_of_odd_sizes_stay_within_what_thinning_may_waste() -> None:
    rng = np.random.default_rng(0)
    sizes = [int(size) for size in rng.integers(10**5, 10**7, 26)]
    losses = [tuple(float(scale) * 4.0**-bits for bits in BITS) for scale in 10.0 ** rng.uniform(-2, 2, 26)]
    table = table_of(sizes, losses)
    layers = layers_of(*table.names)
    chosen = budget_bits(table, layers, 4, most_bits=8)
    # The Lagrangian bound: no assignment within the budget is below it, whatever the multiplier.
    budget = bits_in_all(table, uniform_bits(layers, 4, most_bits=8))
    bounds = [
        sum(min(row[i] + price * size * BITS[i] for i in range(7)) for row, size in zip(losses, sizes, strict=True))
        - price * budget
        for price in 10.0 ** np.linspace(-14, -6, 400)
    ]
    assert bits_in_all(table, chosen) <= budget
    assert max(bounds) <= cost(table, chosen) <= 1.02 * max(bounds)
    assert cost(table, chosen) < 0.5 * cost(table, uniform_bits(layers, 4, most_bits=8))


def test_the_sensitive_weight_gets_the_bits() -> None:
    steep, flat = tuple(4.0**-bits for bits in BITS), (0.0,) * 7
    table = table_of([10, 10, 10, 10], [flat, steep, flat, flat])
    # 8 + 3 + 3 + 8 bits of ten weights each: the ends give theirs up.
    assert budget_bits(table, layers_of(*"abcd"), 3, most_bits=8) == {"a": 2, "b": 8, "c": 2, "d": 2}
    assert budget_bits(table, layers_of(*"abcd"), 3, most_bits=7) == {"a": 2, "b": 7, "c": 2, "d": 2}


def test_a_weight_that_two_layers_read_counts_once() -> None:
    losses = [tuple(weight * 4.0**-bits for bits in BITS) for weight in (1.0, 1.5, 1.0)]
    table = table_of([10, 10, 10], losses)
    once = budget_bits(table, layers_of("a", "b", "c"), 3, most_bits=8)
    assert budget_bits(table, layers_of("a", "b", "b", "b", "c"), 3, most_bits=8) == once
    assert bits_in_all(table, once) <= 10 * (8 + 3 + 8)


def test_bits_that_noise_makes_worse_are_as_good_as_fewer() -> None:
    table = table_of([10], [(1.0, 0.5, 0.7, 0.6, 0.5, 0.9, 0.8)])
    assert budget_bits(table, layers_of("a"), 8, most_bits=8) == {"a": 3}


def test_what_cannot_be_computed_at_few_bits_gets_more() -> None:
    table = table_of([10, 10, 10], [(0.5,) * 7, (math.inf, math.inf, *[0.1] * 5), (0.5,) * 7])
    assert budget_bits(table, layers_of(*"abc"), 2, most_bits=8) == {"a": 2, "b": 4, "c": 2}


# --- the table -------------------------------------------------------------------------------------------------------


def chain(path: Path, weights: dict[str, np.ndarray], reads: list[str]) -> onnx.ModelProto:
    """Write a chain of matrix products; each reads one of the weights."""
    nodes = [
        helper.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"], name=f"node{i}") for i, name in enumerate(reads)
    ]
    first, last = weights[reads[0]], weights[reads[-1]]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", first.shape[0]])],
        [helper.make_tensor_value_info(f"x{len(reads)}", TensorProto.FLOAT, ["batch", last.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return model


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_the_table_of_a_product_is_that_of_the_rounded_product(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"first": rng.normal(size=(6, 5)).astype(np.float32), "last": rng.normal(size=(5, 4)).astype(np.float32)}
    model = chain(tmp_path / "chain.onnx", weights, ["first", "last"])
    inputs = rng.normal(size=(50, 6)).astype(np.float32)
    few = NEAREST.model_copy(update={"sensitivity_samples": 30})
    table = sensitivity_table(model, find_layers(model), inputs, few, bits=(2, 5))
    assert (table.names, table.sizes, table.bits) == (("first", "last"), (30, 20), (2, 5))
    wanted = softmax(inputs[:30] @ weights["first"] @ weights["last"])
    for row, name in enumerate(table.names):
        for column, bits in enumerate(table.bits):
            scales = mse_scales(weights[name], bits, 1)
            rounded = {**weights, name: round_to_grid(weights[name], scales, bits, 1) * scales}
            got = softmax(inputs[:30] @ rounded["first"] @ rounded["last"])
            divergence = (wanted * np.log(wanted / got)).sum(axis=1).mean()
            assert table.loss_increases[row][column] == pytest.approx(divergence, rel=1e-3)


def test_a_shared_weight_is_rounded_for_all_that_read_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = {"shared": rng.normal(size=(4, 4)).astype(np.float32), "last": np.eye(4, 1, dtype=np.float32)}
    model = chain(tmp_path / "shared.onnx", weights, ["shared", "shared", "last"])
    inputs = rng.normal(size=(40, 4)).astype(np.float32)
    table = sensitivity_table(model, find_layers(model), inputs, NEAREST, bits=(2,))
    assert (table.names, table.sizes) == (("shared", "last"), (16, 4))
    scales = mse_scales(weights["shared"], 2, 1)
    rounded = round_to_grid(weights["shared"], scales, 2, 1) * scales
    before, after = (inputs @ each @ each @ weights["last"] for each in (weights["shared"], rounded))
    # One column is no row of class scores.
    assert table.loss_increases[0][0] == pytest.approx(np.square(after - before).mean() / before.var(), rel=1e-3)
    assert table.loss_increases[1][0] == pytest.approx(0.0, abs=1e-9)


def test_feedback_and_bias_correction_are_seen_in_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(8, 1)).astype(np.float32)
    node = helper.make_node("Gemm", ["input", "weight"], ["output"], name="gemm")
    graph = helper.make_graph(
        [node],
        "gemm",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inputs = (rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)) + 2).astype(np.float32)
    losses = {}
    roundings = {"nearest": {"rounding": "nearest"}, "feedback": {"bias_correction": "off"}, "corrected": {}}
    for name, how in roundings.items():
        chosen = QuantizationSettings(sensitivity_samples=200).model_copy(update=how)
        losses[name] = sensitivity_table(model, find_layers(model), inputs, chosen, bits=(3,)).loss_increases[0][0]
    # Of one column the error is a squared one, and all inputs are looked at: a mean that is given back lowers it.
    assert losses["corrected"] < losses["feedback"] < losses["nearest"]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_weights_are_rounded_as_those_of_a_file_are(tmp_path: Path, granularity: Granularity) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    )
    inputs = torch.randn(30, 3, 6, 6).numpy()
    export_onnx(network.eval(), torch.from_numpy(inputs[:2]), tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    how = QuantizationSettings(granularity=granularity)
    table = sensitivity_table(model, find_layers(model), inputs, how, bits=(2, 4))

    def outputs(of: onnx.ModelProto) -> np.ndarray:
        session = open_session(of)
        return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])

    for layer, row in zip(find_layers(model), table.loss_increases, strict=True):
        for bits, found in zip(table.bits, row, strict=True):
            rounded, shifts = round_layers(model, [layer], {layer.weight_name: bits}, settings=how, calibration=inputs)
            changed = onnx.load(tmp_path / "float.onnx")
            tensor = next(each for each in changed.graph.initializer if each.name == layer.weight_name)
            tensor.CopyFrom(numpy_helper.from_array(rounded[layer.weight_name].values, layer.weight_name))
            correct_biases(changed, shifts)
            assert found == pytest.approx(loss_increase(outputs(model), outputs(changed)), rel=1e-6)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_the_loss_increase_is_no_less_than_nothing_and_knows_no_shift_of_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(2, 7, 4))
    assert loss_increase(before, before) == 0
    assert loss_increase(before, after) > 0
    assert loss_increase(before, after + rng.normal(size=(7, 1))) == pytest.approx(loss_increase(before, after))
    assert loss_increase(before, np.full_like(before, np.nan)) == math.inf


@given(tables())
def test_a_table_comes_back_from_json(table: SensitivityTable) -> None:
    infinite = replace(table, loss_increases=tuple((math.inf, *row[1:]) for row in table.loss_increases))
    for each in (table, infinite):
        assert SensitivityTable.from_json(each.to_json()) == each


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sizes": (1,)}, "equally long"), ({"bits": (2, 3)}, "must have 2 numbers")],
)
def test_a_table_whose_shapes_do_not_agree_is_refused(changes: dict[str, tuple[int, ...]], message: str) -> None:
    whole = {"digest": "", "names": ("a", "b"), "sizes": (1, 2), "bits": (2,), "loss_increases": ((0.0,), (0.0,))}
    with pytest.raises(ValueError, match=message):
        SensitivityTable.from_json(json.dumps({**whole, **changes}))


def test_a_kept_table_is_taken_only_for_what_it_was_made_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {"a": rng.normal(size=(4, 4)).astype(np.float32), "b": rng.normal(size=(4, 3)).astype(np.float32)}
    model = chain(tmp_path / "chain.onnx", weights, ["a", "b"])
    layers, inputs = find_layers(model), rng.normal(size=(20, 4)).astype(np.float32)
    path = tmp_path / "table.json"
    made = kept_table(path, model, layers, inputs, NEAREST)
    # A table that could not have been computed shows whether it is read.
    marked = replace(made, loss_increases=((9.0,) * 7,) * 2)
    path.write_text(marked.to_json())
    assert kept_table(path, model, layers, inputs, NEAREST) == marked
    alike = NEAREST.model_copy(update={"activation_ranges": "mse"})
    assert kept_table(path, model, layers, inputs, alike) == marked
    other_model = chain(tmp_path / "other.onnx", {**weights, "a": 2 * weights["a"]}, ["a", "b"])
    others = [
        (other_model, inputs, NEAREST),
        (model, inputs[:10], NEAREST),
        (model, inputs, NEAREST.model_copy(update={"granularity": "tensor"})),
        (model, inputs, NEAREST.model_copy(update={"sensitivity_samples": 5})),
    ]
    for each in others:
        path.write_text(marked.to_json())
        fresh = kept_table(path, each[0], layers, each[1], each[2])
        assert fresh != marked
        assert fresh.digest == table_digest(*each) != made.digest
        assert SensitivityTable.from_json(path.read_bytes()) == fresh
    for broken in ("", "{", '{"digest": 3}'):
        path.write_text(broken)
        assert kept_table(path, model, layers, inputs, NEAREST) == made
    assert {each.name for each in tmp_path.iterdir()} == {"chain.onnx", "other.onnx", "table.json"}


# --- files -----------------------------------------------------------------------------------------------------------


def integers_by_weight(path: Path) -> list[np.ndarray]:
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return [tensor for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim == 2]


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_the_file_of_a_budget_holds_the_bits_that_its_table_asks_for(tmp_path: Path, activation_bits: int) -> None:
    rng = np.random.default_rng(4)
    sizes = [(12, 20), (20, 20), (20, 20), (20, 6)]
    weights = {f"w{index}": rng.normal(size=size).astype(np.float32) for index, size in enumerate(sizes)}
    weights["w1"] = np.sign(weights["w1"])  # on every grid: no bits are needed
    chain(tmp_path / "float.onnx", weights, list(weights))
    inputs = rng.normal(size=(64, 12)).astype(np.float32)
    path = tmp_path / "table.json"
    choice = BitChoice(4, activation_bits, "budget")
    reach = quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", choice, calibration=inputs, sensitivity=path)
    assert (reach.quantized_layers, reach.left) == (4, ())
    table = SensitivityTable.from_json(path.read_bytes())
    layers = find_layers(onnx.load(tmp_path / "float.onnx"))
    bits = budget_bits(table, layers, 4, most_bits=choice.most_bits)
    assert bits["w1"] == 2
    found = {array.shape: array for array in integers_by_weight(tmp_path / "q.onnx")}
    for name in ("w0", "w3"):
        integers = found[weights[name].shape]
        assert -(2 ** (bits[name] - 1)) <= integers.min() <= integers.max() < 2 ** (bits[name] - 1)
        assert integers.max() >= 2 ** (bits[name] - 2)


def test_one_table_serves_all_budgets_and_both_modes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = {name: rng.normal(size=(5, 5)).astype(np.float32) for name in "abc"}
    chain(tmp_path / "float.onnx", weights, list(weights))
    inputs = rng.normal(size=(16, 5)).astype(np.float32)
    path = tmp_path / "table.json"
    tables = set()
    for mean, activation_bits in ((2, 8), (2.5, 32), (8, 8), (3, 32)):
        choice = BitChoice(mean, activation_bits, "budget")
        quantize(tmp_path / "float.onnx", tmp_path / "q.onnx", choice, calibration=inputs, sensitivity=path)
        tables.add((path.read_bytes(), path.stat().st_mtime_ns))
    assert len(tables) == 1


def test_the_reach_names_what_stays_float_and_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Attention().eval()
    inputs = torch.randn(4, 3, 8)
    export_onnx(network, inputs[:2], tmp_path / "float.onnx")
    for activation_bits in (8, 32):
        choice = BitChoice(4, activation_bits, "budget")
        path = tmp_path / "q.onnx"
        reach = quantize(tmp_path / "float.onnx", path, choice, calibration=inputs.numpy())
        assert (reach.quantized_layers, reach.all_layers) == (4, 4)
        kinds = Counter(text.split()[0] + text.partition(":")[2] for text in reach.left)
        expected_kinds = {"MatMul the weight is no constant float32 tensor": 2}
        if activation_bits == 8:
            expected_kinds["ConvTranspose its weights are rounded, but it has no int8 kernel"] = 1
        assert kinds == expected_kinds
        with torch.no_grad():
            expected = network(inputs).numpy()
        session = open_session(onnx.load(path))
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        assert np.abs(found - expected).max() < 0.3 * np.ptp(expected)


class Attention(nn.Module):
    """Attention whose values come from a grouped convolution, and a transposed convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Linear(8, 8)
        self.keys = nn.Linear(8, 8)
        self.values = nn.Conv1d(8, 8, 1, groups=4)
        self.last = nn.ConvTranspose1d(8, 2, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weights = (self.queries(inputs) @ self.keys(inputs).transpose(1, 2)).softmax(dim=-1)
        outputs: torch.Tensor = self.last(
            (weights @ self.values(inputs.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        )
        return outputs
