"""Packing: whatever goes in comes out of the runtime bit for bit, through a graph that is folded at load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from torch import nn

from karui.errors import CandidateFailure
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import graph as unpacking
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.packing import plan as planning
from karui.spaces.formats.onnx.packing.bits import fewest_bits, pack_planes, padded_length
from karui.spaces.formats.onnx.packing.chain import OLDEST_OPSET, Chain
from karui.spaces.formats.onnx.packing.lookups import plane_table, rank_table
from karui.spaces.formats.onnx.packing.plan import Form, add_group
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice

UNPACKING = {"BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "CumSum", "Gather", "GatherElements", "Pad", "Sub"}
UNPACKING |= {"Add", "Reshape", "Split", "Where"}
RNG = np.random.default_rng(0)


def open_file(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def optimized_operators(path: Path) -> Counter[str]:
    optimized = path.with_suffix(".optimized")
    open_file(path, optimized)
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def run_all(path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    session = open_file(path)
    return list(session.run(None, {session.get_inputs()[0].name: inputs}))


def weights_as_outputs(
    tensors: dict[str, np.ndarray], nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], opset: int = 18
) -> onnx.ModelProto:
    """Return a model with one output per tensor: the tensor behind as many empty rows as the input has, so none."""
    heads, values, outputs = [], [], []
    for name, tensor in tensors.items():
        kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        inputs, shape = f"{name}_in", list(tensor.shape)
        heads.append(helper.make_node("Concat", [inputs, name], [f"{name}_out"], axis=0))
        values.append(helper.make_tensor_value_info(inputs, kind, [f"{name}_rows", *shape[1:]]))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", kind, [f"{name}_all", *shape[1:]]))
    graph = helper.make_graph([*nodes, *heads], "weights", values, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def plain_model(tensors: dict[str, np.ndarray], opset: int = 18) -> onnx.ModelProto:
    return weights_as_outputs(
        tensors, [], [numpy_helper.from_array(value, name) for name, value in tensors.items()], opset
    )


def outputs_of(
    tensors: dict[str, np.ndarray], nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], opset: int
) -> onnx.ModelProto:
    """Return a model with one output per tensor, the tensor itself, which may have any rank and be empty."""
    heads = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in tensors]
    outputs = [
        helper.make_tensor_value_info(f"{name}_out", helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape)
        for name, tensor in tensors.items()
    ]
    graph = helper.make_graph([*nodes, *heads], "outputs", [], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def read_back(session: onnxruntime.InferenceSession, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    feeds = {}
    if session.get_inputs():
        feeds = {f"{name}_in": np.zeros((0, *tensor.shape[1:]), tensor.dtype) for name, tensor in tensors.items()}
    outputs = session.run([f"{name}_out" for name in tensors], feeds)
    return dict(zip(tensors, outputs, strict=True))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, value in one.items():
        assert other[name].shape == value.shape
        assert other[name].dtype == value.dtype
        assert other[name].tobytes() == value.tobytes()


def integers(shape: tuple[int, ...], bits: int, zeros: float = 0.0) -> np.ndarray:
    return random_integers(RNG, shape, bits, zeros)


def random_integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int, zeros: float) -> np.ndarray:
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    return np.where(rng.random(shape) < zeros, 0, values).astype(np.int8)


def quantized_by_hand(opset: int) -> onnx.ModelProto:
    """Return two convolutions with int8 weights, one dense and one sparse, as another tool may write them."""
    rng = np.random.default_rng(3)
    weights = [random_integers(rng, (99, 24, 3, 3), 4, 0.0), random_integers(rng, (24, 99, 3, 3), 4, 0.8)]
    constants: dict[str, np.ndarray] = {"scale": np.array(0.05, np.float32), "zero": np.array(128, np.uint8)}
    constants |= {"weight_scale": np.array(0.01, np.float32), "weight_zero": np.array(0, np.int8)}
    nodes, head = [], "input"
    for index, weight in enumerate(weights):
        constants[f"weight{index}"] = weight
        scales = ["weight_scale", "weight_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [head, "scale", "zero"], [f"q{index}"]),
            helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"x{index}"]),
            helper.make_node("DequantizeLinear", [f"weight{index}", *scales], [f"w{index}"]),
            helper.make_node("Conv", [f"x{index}", f"w{index}"], [f"y{index}"]),
        ]
        head = f"y{index}"
    nodes.append(helper.make_node("QuantizeLinear", [head, "scale", "zero"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["output"]))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 24, side, side])
        for name, side in (("input", 9), ("output", 5))
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "by_hand", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def newest_opset() -> int:
    """Return the newest set of operators in which the installed runtime opens a quantized file."""
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST_OPSET, -1):
        try:
            onnxruntime.InferenceSession(quantized_by_hand(opset).SerializeToString())
        except (runtime_errors.Fail, runtime_errors.NotImplemented):
            continue
        return opset
    raise AssertionError("the runtime opens no quantized file at all")


OPSETS = range(OLDEST_OPSET, newest_opset() + 1)


# --- bits ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.data())
@settings(deadline=None, max_examples=60)
def test_planes_hold_the_bits_that_a_slow_loop_puts_there(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40))
    planes = pack_planes(np.array(codes, dtype=np.uint8), bits)
    widths = {3: [2, 1], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1]}.get(bits, [bits])
    assert sum(plane.nbytes for plane in planes) * 8 == padded_length(len(codes), bits) * bits
    for index in range(padded_length(len(codes), bits)):
        code = 0
        for plane, width in zip(planes, widths, strict=True):
            byte, position = divmod(index * width, 8)
            code = (code << width) | ((int(plane[byte]) >> position) & (2**width - 1))
        assert code == (codes[index] if index < len(codes) else 0)


@pytest.mark.parametrize("value", range(-128, 128))
def test_fewest_bits_counts_the_digits_of_twos_complement(value: int) -> None:
    digits = (value if value >= 0 else ~value).bit_length() + 1
    assert fewest_bits(np.array([0, value], dtype=np.int8)) == digits


def test_tables_say_what_the_digits_of_a_byte_say() -> None:
    for byte in range(256):
        digits = f"{byte:08b}"[::-1]
        ranks = [digits[: lane + 1].count("1") if digits[lane] == "1" else 0 for lane in range(8)]
        assert rank_table()[byte].tolist() == ranks
        for width in (1, 2, 4):
            lanes = [digits[low : low + width][::-1] for low in range(0, 8, width)]
            unsigned = [4 * int(lane, 2) for lane in lanes]
            signed = [int(lane, 2) - (2**width if lane[0] == "1" else 0) for lane in lanes]
            assert plane_table(width, 2, signed=False)[byte].tolist() == unsigned
            assert plane_table(width, 0, signed=True)[byte].tolist() == signed


# --- one group, forced into a form ---------------------------------------------------------------------------------

SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=5) | st.just(())
EMPTY_SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=5)
WAYS = pytest.mark.parametrize("fewest_lookup_elements", [1, 10**9], ids=["by lookup", "by shifts"])


@WAYS
@given(
    st.integers(1, 8),
    st.booleans(),
    st.lists(SHAPES, min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 2**32),
    st.sampled_from(OPSETS),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_int8_tensors_come_back(
    monkeypatch: pytest.MonkeyPatch,
    fewest_lookup_elements: int,
    bits: int,
    sparse: bool,
    shapes: list[tuple[int, ...]],
    zeros: float,
    seed: int,
    opset: int,
) -> None:
    monkeypatch.setattr(unpacking, "FEWEST_LOOKUP_ELEMENTS", fewest_lookup_elements)
    rng = np.random.default_rng(seed)
    tensors = {f"t{index}": random_integers(rng, shape, bits, zeros) for index, shape in enumerate(shapes)}
    chain = Chain("p", opset)
    add_group(chain, Form(bits, sparse), tensors)
    model = outputs_of(tensors, chain.nodes, chain.initializers, opset)
    onnx.checker.check_model(model)
    assert_same(tensors, read_back(onnxruntime.InferenceSession(model.SerializeToString()), tensors))


@WAYS
@given(
    st.one_of(
        hnp.arrays(np.float32, SHAPES, elements=st.one_of(st.just(0.0), st.floats(width=32))),
        hnp.arrays(np.float16, SHAPES, elements=st.one_of(st.just(0.0), st.floats(width=16, allow_nan=False))),
    )
)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_floats_come_back_with_minus_zero_and_those_of_32_bits_with_nan(
    monkeypatch: pytest.MonkeyPatch, fewest_lookup_elements: int, values: np.ndarray
) -> None:
    monkeypatch.setattr(unpacking, "FEWEST_LOOKUP_ELEMENTS", fewest_lookup_elements)
    chain = Chain("p", 18)
    add_group(chain, Form(8 * values.itemsize, True), {"t": values})
    model = outputs_of({"t": values}, chain.nodes, chain.initializers, 18)
    assert_same({"t": values}, read_back(onnxruntime.InferenceSession(model.SerializeToString()), {"t": values}))


@WAYS
@pytest.mark.parametrize("opset", OPSETS)
def test_the_runtime_folds_every_form_of_every_opset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int, fewest_lookup_elements: int
) -> None:
    monkeypatch.setattr(unpacking, "FEWEST_LOOKUP_ELEMENTS", fewest_lookup_elements)
    chain = Chain("p", opset)
    tensors: dict[str, np.ndarray] = {}
    floats: dict[int, Any] = {16: np.float16, 32: np.float32}
    forms = [*(Form(bits, sparse) for bits in range(1, 9) for sparse in (False, True)), Form(16, True), Form(32, True)]
    for form in forms:
        shapes, bits = {"a": (5, 7, 3), "b": (50,), "c": (4, 4)}, min(form.bits, 8)
        group = {f"{name}_{form.bits}_{form.sparse}": integers(shape, bits, 0.3) for name, shape in shapes.items()}
        group = {name: value.astype(floats.get(form.bits, np.int8)) for name, value in group.items()}
        add_group(chain, form, group)
        tensors |= group
    onnx.save(weights_as_outputs(tensors, chain.nodes, chain.initializers, opset), tmp_path / "group.onnx")
    assert optimized_operators(tmp_path / "group.onnx") == {"Concat": len(tensors)}
    assert_same(tensors, read_back(open_file(tmp_path / "group.onnx"), tensors))


# --- whole files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_large_tensor_takes_its_bits_and_little_more(tmp_path: Path, bits: int) -> None:
    tensors = {"t": integers((64, 32, 3, 3), bits)}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    values_bytes = 64 * 32 * 9 * bits // 8
    assert values_bytes < report.bytes_after < values_bytes + 900
    assert report.bytes_before == (tmp_path / "plain.onnx").stat().st_size
    assert report.bytes_after == (tmp_path / "packed.onnx").stat().st_size
    assert [(tensor.name, tensor.bits, tensor.elements) for tensor in report.tensors] == [("t", bits, 18432)]
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


def test_many_zeros_take_one_bit_each(tmp_path: Path) -> None:
    tensors = {"t": integers((40, 1000), 8, zeros=0.9)}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    expected_bytes = 40_000 / 8 + np.count_nonzero(tensors["t"])
    assert expected_bytes < report.bytes_after < expected_bytes + 800
    assert report.tensors[0].sparse
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_float_weights_with_zeros_are_packed_and_dense_ones_are_not(tmp_path: Path, dtype: Any) -> None:
    dense = RNG.normal(size=(50, 60)).astype(dtype)
    sparse = np.where(RNG.random((50, 60)) < 0.8, 0, RNG.normal(size=(50, 60))).astype(dtype)
    sparse[0, :3] = [-0.0, np.nan if dtype == np.float32 else 1.0, np.inf]
    tensors = {"dense": dense, "sparse": sparse}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    assert [(tensor.name, tensor.bits, tensor.sparse) for tensor in report.tensors] == [
        ("sparse", 8 * dense.itemsize, True)
    ]
    assert report.bytes_after < dense.nbytes + (0.4 if dtype == np.float32 else 0.5) * sparse.nbytes
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


@given(
    st.lists(st.tuples(SHAPES | EMPTY_SHAPES, st.integers(1, 8), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(1, 200),
    st.integers(0, 2**32),
    st.sampled_from([9, 11, 12, *OPSETS]),
)
@settings(deadline=None, max_examples=60)
def test_any_file_computes_the_same_and_never_grows(
    tmp_path_factory: pytest.TempPathFactory,
    specifications: list[tuple[tuple[int, ...], int, float]],
    repeated: int,
    seed: int,
    opset: int,
) -> None:
    folder = tmp_path_factory.mktemp("packing")
    rng = np.random.default_rng(seed)
    tensors = {}
    for index, (shape, bits, zeros) in enumerate(specifications):
        shape = (shape[0] * repeated, *shape[1:]) if shape else ()
        tensors[f"t{index}"] = random_integers(rng, shape, bits, zeros)
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    onnx.save(outputs_of(tensors, [], initializers, opset), folder / "plain.onnx")
    report = pack(folder / "plain.onnx", folder / "packed.onnx")
    assert report.bytes_after <= report.bytes_before
    assert not report.tensors or opset >= OLDEST_OPSET
    onnx.checker.check_model(onnx.load(folder / "packed.onnx"))
    assert_same(tensors, read_back(open_file(folder / "packed.onnx"), tensors))
    assert set(optimized_operators(folder / "packed.onnx")) <= {"Identity"}


def test_the_plan_beats_every_uniform_plan(tmp_path: Path) -> None:
    tensors = {
        "two": integers((64, 40), 2),
        "three": integers((30, 50), 3),
        "five": integers((16, 16, 9), 5, zeros=0.8),
        "eight": integers((100, 16), 8),
        "small": integers((4, 9), 4),
    }
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    chosen = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx").bytes_after
    for form in [Form(bits, sparse) for bits in range(2, 9) for sparse in (False, True)]:
        held = {name: value for name, value in tensors.items() if fewest_bits(value) <= form.bits}
        left = [numpy_helper.from_array(value, name) for name, value in tensors.items() if name not in held]
        chain = Chain("p", 18)
        add_group(chain, form, held)
        model = weights_as_outputs(tensors, chain.nodes, [*chain.initializers, *left])
        assert chosen <= model.ByteSize()


def test_a_large_tensor_is_unpacked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{index}": integers((30, 40 + 8 * (index == 3)), 4) for index in range(7)}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    monkeypatch.setattr(planning, "FEWEST_LOOKUP_ELEMENTS", 1201)
    pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    splits = [node for node in onnx.load(tmp_path / "packed.onnx").graph.node if node.op_type == "Split"]
    assert [len(node.output) for node in splits] == [6]
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


@WAYS
@pytest.mark.parametrize("opset", OPSETS)
def test_a_quantized_file_of_any_opset_is_its_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int, fewest_lookup_elements: int
) -> None:
    plain, packed = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
    monkeypatch.setattr(unpacking, "FEWEST_LOOKUP_ELEMENTS", fewest_lookup_elements)
    monkeypatch.setattr(planning, "FEWEST_LOOKUP_ELEMENTS", fewest_lookup_elements)
    # What is remembered of other tests' costs holds for another threshold.
    monkeypatch.setattr(planning, "_chain_bytes", planning._chain_bytes.__wrapped__)
    onnx.save(quantized_by_hand(opset), plain)
    report = pack(plain, packed)
    assert [(tensor.bits, tensor.sparse) for tensor in report.tensors] == [(4, False), (4, True)]
    assert report.unpacked_because == ""
    assert report.bytes_after < 24 * 99 * 9 * (4 + 1 + 0.2 * 4) / 8 + 5000
    inputs = np.random.default_rng(4).normal(size=(3, 24, 9, 9)).astype(np.float32)
    (one,), (other,) = run_all(plain, inputs), run_all(packed, inputs)
    assert len(np.unique(one)) > 50
    np.testing.assert_array_equal(one, other)
    assert optimized_operators(packed) == optimized_operators(plain)
    assert not UNPACKING & set(optimized_operators(packed))


def test_a_file_with_functions_of_its_own_is_left_as_it_is(tmp_path: Path) -> None:
    model = plain_model({"t": integers((64, 64), 2)})
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    assert (report.tensors, report.unpacked_because) == ((), "the model has functions of its own")
    assert (tmp_path / "packed.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


# --- quantized networks --------------------------------------------------------------------------------------------


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), *blocks, nn.MaxPool2d(2), nn.Conv2d(24, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def float_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("float")
    dense, sparse = small_network(), small_network()
    for parameter in sparse.parameters():
        if parameter.ndim > 1:
            parameter.data[torch.rand_like(parameter) < 0.8] = 0.0
    export_onnx(dense, torch.randn(2, 3, 12, 12), folder / "dense.onnx")
    export_onnx(sparse, torch.randn(2, 3, 12, 12), folder / "sparse.onnx")
    return {"dense": folder / "dense.onnx", "sparse": folder / "sparse.onnx"}


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("weights", ["dense", "sparse"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_a_packed_network_is_its_twin(
    tmp_path: Path, float_files: dict[str, Path], images: np.ndarray, bits: int, weights: str, activation_bits: int
) -> None:
    plain, packed = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
    quantize(float_files[weights], plain, BitChoice(bits, activation_bits), calibration=images)
    report = pack(plain, packed)
    for one, other in zip(run_all(plain, images), run_all(packed, images), strict=True):
        np.testing.assert_array_equal(one, other)
    assert optimized_operators(packed) == optimized_operators(plain)
    assert not UNPACKING & set(optimized_operators(packed))
    values_bytes = 24 * 24 * 9 * 4 + 24 * 32 * 9
    share = min(bits, 1 + 0.2 * bits) / 8 if weights == "sparse" else bits / 8
    assert report.bytes_after < values_bytes * share + 7000
    assert report.bytes_after < report.bytes_before


def test_sparse_float_networks_are_packed_too(tmp_path: Path, float_files: dict[str, Path], images: np.ndarray) -> None:
    report = pack(float_files["sparse"], tmp_path / "packed.onnx")
    assert report.bytes_after < 0.35 * report.bytes_before
    (one,), (other,) = run_all(float_files["sparse"], images), run_all(tmp_path / "packed.onnx", images)
    np.testing.assert_array_equal(one, other)
    assert optimized_operators(tmp_path / "packed.onnx") == optimized_operators(float_files["sparse"])


def test_packing_twice_changes_nothing_more(tmp_path: Path, float_files: dict[str, Path], images: np.ndarray) -> None:
    quantize(float_files["dense"], tmp_path / "a.onnx", BitChoice(4, 8), calibration=images)
    first = pack(tmp_path / "a.onnx", tmp_path / "b.onnx")
    second = pack(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert second.bytes_after <= first.bytes_after
    np.testing.assert_array_equal(run_all(tmp_path / "a.onnx", images)[0], run_all(tmp_path / "c.onnx", images)[0])


# --- stripping -----------------------------------------------------------------------------------------------------


def test_what_the_runtime_never_reads_is_gone(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["input", "a_long_name"], ["between"], name="some/scope/Add", doc_string="why")]
    nodes.append(helper.make_node("Mul", ["between", "its_twin"], ["output"]))
    value = np.arange(100, dtype=np.float32)
    initializers = [numpy_helper.from_array(value, name) for name in ("a_long_name", "its_twin", "unread")]
    graph = helper.make_graph(
        nodes,
        "strip",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 100])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 100])],
        initializers,
        value_info=[helper.make_tensor_value_info("between", TensorProto.FLOAT, ["batch", 100])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"classes": "cat,dog"})
    onnx.save(model, tmp_path / "plain.onnx")
    assert pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx").tensors == ()
    stripped = onnx.load(tmp_path / "packed.onnx")
    assert len(stripped.graph.initializer) == 1
    assert not stripped.graph.value_info
    assert [(node.name, node.doc_string) for node in stripped.graph.node] == [("", ""), ("", "")]
    assert {entry.key: entry.value for entry in stripped.metadata_props} == {"classes": "cat,dog"}
    assert stripped.opset_import[0].version == 13
    inputs = RNG.normal(size=(3, 100)).astype(np.float32)
    np.testing.assert_array_equal(run_all(tmp_path / "packed.onnx", inputs)[0], (inputs + value) * value)


def test_a_file_of_an_older_opset_is_not_packed_and_the_report_says_why(tmp_path: Path) -> None:
    tensors = {"t": integers((64, 64), 2)}
    onnx.save(plain_model(tensors, opset=OLDEST_OPSET - 1), tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    assert (report.tensors, report.unpacked_because) == (
        (),
        "the file's set of operators is version 12, unpacking needs 13 or newer",
    )
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


def test_what_a_subgraph_reads_keeps_its_name(tmp_path: Path) -> None:
    branches = {}
    for branch, operator in (("then_branch", "Add"), ("else_branch", "Mul")):
        node = helper.make_node(operator, ["input", "outer_weight"], [f"{branch}_output"])
        value = helper.make_tensor_value_info(f"{branch}_output", TensorProto.FLOAT, [400])
        branches[branch] = helper.make_graph([node], branch, [], [value])
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "nothing"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], **branches),
        helper.make_node("Add", ["chosen", "mostly_zero"], ["output"]),
    ]
    weight, other = np.zeros(400, dtype=np.float32), np.zeros(400, dtype=np.float32)
    weight[:4], other[7] = 2.0, 5.0
    initializers = [numpy_helper.from_array(value, name) for name, value in (
        ("outer_weight", weight), ("mostly_zero", other), ("nothing", np.array(0, dtype=np.float32)),
    )]  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [400]) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "branches", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    assert [tensor.name for tensor in report.tensors] == ["mostly_zero"]
    ones = np.ones(400, dtype=np.float32)
    np.testing.assert_array_equal(run_all(tmp_path / "packed.onnx", ones)[0], ones + weight + other)
    np.testing.assert_array_equal(run_all(tmp_path / "packed.onnx", -ones)[0], -weight + other)


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x08"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(CandidateFailure, match=r"packing: bad.onnx cannot be read as ONNX"):
        pack(tmp_path / "bad.onnx", tmp_path / "packed.onnx")
    assert not (tmp_path / "packed.onnx").exists()


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = plain_model({"t": integers((8, 8), 4)})
    model.graph.node[0].input[1] = "nowhere"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(CandidateFailure, match=r"bad.onnx is not valid ONNX"):
        pack(tmp_path / "bad.onnx", tmp_path / "packed.onnx")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = plain_model({"t": integers((64, 64), 8)})
    onnx.save(model, tmp_path / "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(CandidateFailure, match="keeps weights in other files"):
        pack(tmp_path / "bad.onnx", tmp_path / "packed.onnx")
