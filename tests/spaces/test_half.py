"""Weights as float16: half of the bytes, the float32 computation of the rounded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from karui.errors import CandidateFailure
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session, run_in_batches
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.half import store_in_half


def product(weight: np.ndarray, path: Path) -> Path:
    """Write a file that multiplies its input by a weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@given(rows=st.integers(8, 12), columns=st.integers(8, 12), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_file_computes_with_the_rounded_weights(
    rows: int, columns: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("half")
    chance = np.random.default_rng(seed)
    weight = chance.normal(size=(rows, columns)).astype(np.float32)
    inputs = chance.normal(size=(3, rows)).astype(np.float32)
    assert store_in_half(product(weight, folder / "plain.onnx"), folder / "half.onnx") == 1
    pack(folder / "half.onnx", folder / "packed.onnx")
    outputs = run_in_batches(onnx.load(folder / "packed.onnx"), inputs, 3)
    # a float16 has 11 significant bits: rounding moves a weight by at most 2**-11 of itself
    rounded = weight.astype(np.float16).astype(np.float32)
    assert np.abs(rounded - weight).max() <= 2.0**-11 * np.abs(weight).max()
    np.testing.assert_allclose(outputs, inputs @ rounded, rtol=1e-5, atol=1e-5)


def test_network_has_half_of_its_bytes_and_computes_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 10))
    inputs = torch.randn(4, 3, 8, 8)
    plain, half, packed = (tmp_path / f"{name}.onnx" for name in ("plain", "half", "packed"))
    export_onnx(network.eval(), inputs, plain)
    assert store_in_half(plain, half) == 4  # three weights and the longer bias
    pack(half, packed)
    assert packed.stat().st_size < 0.53 * plain.stat().st_size
    session = open_session(onnx.load(packed))
    assert [value.type for value in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 2
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() >= 64:
                parameter.copy_(parameter.half().float())
        expected = network(inputs).numpy()
    np.testing.assert_allclose(run_in_batches(onnx.load(packed), inputs.numpy(), 4), expected, rtol=1e-4, atol=1e-5)


def test_no_cast_is_left_when_the_file_is_loaded(tmp_path: Path) -> None:
    import onnxruntime

    store_in_half(product(np.ones((8, 9), np.float32), tmp_path / "plain.onnx"), tmp_path / "half.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "half.onnx", options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["MatMul"]


def test_weight_beyond_float16_is_a_failure_of_the_candidate(tmp_path: Path) -> None:
    weight = np.ones((8, 8), np.float32)
    weight[3, 4] = -7e4
    with pytest.raises(CandidateFailure, match="w holds a weight of 70000; float16 reaches to 65504"):
        store_in_half(product(weight, tmp_path / "plain.onnx"), tmp_path / "half.onnx")


def test_network_without_large_tensors_has_nothing_to_store(tmp_path: Path) -> None:
    with pytest.raises(CandidateFailure, match="no float32 tensor of 64 values or more"):
        store_in_half(product(np.ones((7, 9), np.float32), tmp_path / "plain.onnx"), tmp_path / "half.onnx")


def test_zeros_take_fewer_bytes_beside_16_bits_than_beside_32(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    weight = np.where(chance.random((200, 300)) < 0.8, 0.0, chance.normal(size=(200, 300))).astype(np.float32)
    plain = product(weight, tmp_path / "plain.onnx")
    store_in_half(plain, tmp_path / "half.onnx")
    sizes = {}
    for name in ("plain", "half"):
        pack(tmp_path / f"{name}.onnx", tmp_path / f"{name}-packed.onnx")
        sizes[name] = (tmp_path / f"{name}-packed.onnx").stat().st_size
    kept = int(np.count_nonzero(weight))  # what is added are the nodes that unpack, and their tables
    assert 0 < sizes["half"] - (60_000 / 8 + 2 * kept) < 4_000
    assert 0 < sizes["plain"] - (60_000 / 8 + 4 * kept) < 4_000
    inputs = chance.normal(size=(3, 200)).astype(np.float32)
    outputs = run_in_batches(onnx.load(tmp_path / "half-packed.onnx"), inputs, 3)
    np.testing.assert_allclose(outputs, inputs @ weight.astype(np.float16).astype(np.float32), rtol=1e-4, atol=1e-4)


def test_infinities_of_a_mask_stay(tmp_path: Path) -> None:
    mask = np.triu(np.full((9, 9), -np.inf, np.float32), 1)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "mask"], ["y"])],
        "mask",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 9, 9])],
        [numpy_helper.from_array(mask, "mask")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "plain.onnx")
    assert store_in_half(tmp_path / "plain.onnx", tmp_path / "half.onnx") == 1
    inputs = np.random.default_rng(0).normal(size=(2, 9, 9)).astype(np.float32)
    outputs = run_in_batches(onnx.load(tmp_path / "half.onnx"), inputs, 2)
    np.testing.assert_array_equal(outputs, inputs + mask)


def masked(mask: np.ndarray, path: Path) -> Path:
    """Write a file of a softmax of scores beside a mask, after a product with a weight that float16 holds."""
    size = len(mask)
    weight = np.random.default_rng(1).integers(-3, 4, (size, size)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("Add", ["scores", "mask"], ["open"]),
            helper.make_node("Softmax", ["open"], ["y"], axis=-1),
        ],
        "masked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size, size])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(mask, "mask")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("lowest", [float(np.finfo(np.float32).min), -1e9, -1e30])
def test_the_lowest_value_of_a_mask_becomes_one_that_float16_has(tmp_path: Path, lowest: float) -> None:
    plain = masked(np.triu(np.full((9, 9), lowest, np.float32), 1), tmp_path / "plain.onnx")
    inputs, told = np.random.default_rng(0).normal(size=(4, 9, 9)).astype(np.float32), list[str]()
    assert store_in_half(plain, tmp_path / "half.onnx", inputs, told.append) == 2
    expected, found = (run_in_batches(onnx.load(tmp_path / f"{name}.onnx"), inputs, 4) for name in ("plain", "half"))
    np.testing.assert_array_equal(found, expected)
    assert not told


def test_a_mask_that_neither_value_can_stand_for_stays_float32(tmp_path: Path) -> None:
    # a row of nothing but the lowest value is uniform whatever the scores; -65504 lets them through, -inf gives NaN
    mask = np.triu(np.full((9, 9), np.finfo(np.float32).min, np.float32), 1)
    mask[4] = np.finfo(np.float32).min
    plain = masked(mask, tmp_path / "plain.onnx")
    inputs, told = np.random.default_rng(0).normal(size=(4, 9, 9)).astype(np.float32), list[str]()
    assert store_in_half(plain, tmp_path / "half.onnx", inputs, told.append) == 1
    expected, found = (run_in_batches(onnx.load(tmp_path / f"{name}.onnx"), inputs, 4) for name in ("plain", "half"))
    np.testing.assert_array_equal(found, expected)
    assert told == ["mask holds a weight of 3.40282e+38; float16 reaches to 65504: it stays float32."]


def test_where_scores_are_large_a_mask_is_infinite(tmp_path: Path) -> None:
    plain = masked(np.triu(np.full((9, 9), -1e30, np.float32), 1), tmp_path / "plain.onnx")
    inputs = np.random.default_rng(0).normal(size=(4, 9, 9)).astype(np.float32) * 1e5
    assert store_in_half(plain, tmp_path / "half.onnx", inputs) == 2
    expected, found = (run_in_batches(onnx.load(tmp_path / f"{name}.onnx"), inputs, 4) for name in ("plain", "half"))
    np.testing.assert_array_equal(found, expected)
    held = next(item for item in onnx.load(tmp_path / "half.onnx").graph.initializer if item.name == "mask#half")
    assert np.isneginf(numpy_helper.to_array(held)).sum() == 36


def test_a_weight_beyond_float16_stays_float32_where_it_matters(tmp_path: Path) -> None:
    weight = np.ones((8, 8), np.float32)
    weight[3, 4] = -7e4
    with pytest.raises(CandidateFailure, match="no float32 tensor of 64 values or more that float16 could hold"):
        store_in_half(product(weight, tmp_path / "plain.onnx"), tmp_path / "half.onnx", np.ones((2, 8), np.float32))
