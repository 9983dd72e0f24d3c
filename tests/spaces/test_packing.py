"""Packing: whatever goes in comes out of the runtime bit for bit, through a graph that is folded at load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from karui.errors import CandidateFailure
from karui.spaces.export import export_onnx
from karui.spaces.packing import pack
from karui.spaces.packing import plan as planning
from karui.spaces.packing.bits import fewest_bits, pack_planes, padded_length
from karui.spaces.packing.graph import Chain
from karui.spaces.packing.plan import Form, add_group
from karui.spaces.quantization.quantize import quantize

UNPACKING = {"BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "CumSum", "Gather", "Sub", "Reshape"}
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


def read_back(session: onnxruntime.InferenceSession, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    feeds = {f"{name}_in": np.zeros((0, *tensor.shape[1:]), tensor.dtype) for name, tensor in tensors.items()}
    outputs = session.run([f"{name}_out" for name in tensors], feeds)
    return dict(zip(tensors, outputs, strict=True))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, value in one.items():
        assert other[name].shape == value.shape
        assert other[name].dtype == value.dtype
        assert other[name].tobytes() == value.tobytes()


def integers(shape: tuple[int, ...], bits: int, zeros: float = 0.0) -> np.ndarray:
    values = RNG.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    return np.where(RNG.random(shape) < zeros, 0, values).astype(np.int8)


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


# --- one group, forced into a form ---------------------------------------------------------------------------------

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6)


@given(
    st.integers(1, 8), st.booleans(), st.lists(SHAPES, min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 2**32)
)
@settings(deadline=None, max_examples=80)
def test_any_int8_tensors_come_back(
    bits: int, sparse: bool, shapes: list[tuple[int, ...]], zeros: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tensors = {}
    for index, shape in enumerate(shapes):
        values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
        tensors[f"t{index}"] = np.where(rng.random(shape) < zeros, 0, values).astype(np.int8)
    chain = Chain("p")
    add_group(chain, Form(bits, sparse), tensors)
    model = weights_as_outputs(tensors, chain.nodes, chain.initializers)
    onnx.checker.check_model(model)
    assert_same(tensors, read_back(onnxruntime.InferenceSession(model.SerializeToString()), tensors))


@given(hnp.arrays(np.float32, SHAPES, elements=st.one_of(st.just(0.0), st.floats(width=32))))
@settings(deadline=None, max_examples=40)
def test_any_floats_come_back_with_minus_zero_and_nan(values: np.ndarray) -> None:
    chain = Chain("p")
    add_group(chain, Form(32, True), {"t": values})
    model = weights_as_outputs({"t": values}, chain.nodes, chain.initializers)
    assert_same({"t": values}, read_back(onnxruntime.InferenceSession(model.SerializeToString()), {"t": values}))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_runtime_folds_every_form(tmp_path: Path, bits: int, sparse: bool) -> None:
    tensors = {"a": integers((5, 7, 3), bits, 0.3), "b": integers((50,), bits), "c": integers((4, 4), bits)}
    chain = Chain("p")
    add_group(chain, Form(bits, sparse), tensors)
    onnx.save(weights_as_outputs(tensors, chain.nodes, chain.initializers), tmp_path / "group.onnx")
    assert optimized_operators(tmp_path / "group.onnx") == {"Concat": 3}


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


def test_float_weights_with_zeros_are_packed_and_dense_ones_are_not(tmp_path: Path) -> None:
    dense = RNG.normal(size=(50, 60)).astype(np.float32)
    sparse = np.where(RNG.random((50, 60)) < 0.8, 0, RNG.normal(size=(50, 60))).astype(np.float32)
    sparse[0, :3] = [-0.0, np.nan, np.inf]
    tensors = {"dense": dense, "sparse": sparse}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    report = pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    assert [(tensor.name, tensor.bits, tensor.sparse) for tensor in report.tensors] == [("sparse", 32, True)]
    assert report.bytes_after < dense.nbytes + 0.4 * sparse.nbytes
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


@given(
    st.lists(st.tuples(SHAPES, st.integers(1, 8), st.sampled_from([0.0, 0.5, 0.9, 1.0])), min_size=1, max_size=6),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=40)
def test_any_file_computes_the_same_and_never_grows(
    tmp_path_factory: pytest.TempPathFactory,
    specifications: list[tuple[tuple[int, ...], int, float]],
    repeated: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("packing")
    rng = np.random.default_rng(seed)
    tensors = {}
    for index, (shape, bits, zeros) in enumerate(specifications):
        shape = (shape[0] * repeated, *shape[1:])
        values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
        tensors[f"t{index}"] = np.where(rng.random(shape) < zeros, 0, values).astype(np.int8)
    onnx.save(plain_model(tensors), folder / "plain.onnx")
    report = pack(folder / "plain.onnx", folder / "packed.onnx")
    assert report.bytes_after <= report.bytes_before
    assert_same(tensors, read_back(open_file(folder / "packed.onnx"), tensors))


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
        chain = Chain("p")
        add_group(chain, form, held)
        model = weights_as_outputs(tensors, chain.nodes, [*chain.initializers, *left])
        assert chosen <= model.ByteSize()


def test_large_groups_are_cut_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{index}": integers((30, 40), 4) for index in range(7)}
    onnx.save(plain_model(tensors), tmp_path / "plain.onnx")
    monkeypatch.setattr(planning, "MOST_GROUP_ELEMENTS", 2500)
    pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx")
    splits = [node for node in onnx.load(tmp_path / "packed.onnx").graph.node if node.op_type == "Split"]
    assert [len(node.output) for node in splits] == [2, 2, 2]
    assert_same(tensors, read_back(open_file(tmp_path / "packed.onnx"), tensors))


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
    quantize(float_files[weights], plain, weight_bits=bits, activation_bits=activation_bits, calibration=images)
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
    quantize(float_files["dense"], tmp_path / "a.onnx", weight_bits=4, activation_bits=8, calibration=images)
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


def test_a_file_of_an_older_opset_is_not_packed(tmp_path: Path) -> None:
    tensors = {"t": integers((64, 64), 2)}
    onnx.save(plain_model(tensors, opset=13), tmp_path / "plain.onnx")
    assert pack(tmp_path / "plain.onnx", tmp_path / "packed.onnx").tensors == ()
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
