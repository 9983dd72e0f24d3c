"""Early exits: cuts against brute force, heads against another solver, files against a decision made in Python."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from karui.errors import CandidateFailure
from karui.spaces.axes.exits.compose import with_exit
from karui.spaces.axes.exits.cut import find_cuts, nearest_cut, one_tensor_cuts
from karui.spaces.axes.exits.exit_file_check import ExitChoice, pack_with_exit
from karui.spaces.axes.exits.halves import split
from karui.spaces.axes.exits.head import ExitHead, pooled_features, soft_labels, train_head
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice

from .conftest import TinyResNet, striped_images

UNPACKING = {"BitShift", "BitwiseAnd", "BitwiseOr", "Concat", "CumSum", "Gather", "Mul", "Reshape", "Split", "Sub"}
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A network cut in two, and a head for it."""

    model: onnx.ModelProto
    first: onnx.ModelProto
    second: onnx.ModelProto
    head: ExitHead
    inputs: Floats
    targets: NDArray[np.int64]


@pytest.fixture(scope="module", params=["float32", "w4 a32", "w4 a8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tmp_path_factory.mktemp("exits") / "network.onnx"
    inputs, targets = (tensor.numpy() for tensor in striped_images(60, seed=2).tensors)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export_onnx(TinyResNet(), torch.from_numpy(inputs[:2]), path)
    if request.param != "float32":
        quantize(path, path, BitChoice(4, 8 if request.param == "w4 a8" else 32), calibration=inputs[:32])
    model = onnx.load(path)
    first, second = split(model, nearest_cut(model, 0.4))
    head = train_head(pooled_features(first, inputs), soft_labels(run(model, inputs), targets, target_weight=0.8))
    return Case(model, first, second, head, inputs, targets)


@pytest.fixture
def case(made: Case) -> Case:
    """The same for all tests, in copies that a test may change."""
    return copy.deepcopy(made)


def run(model: onnx.ModelProto, inputs: NDArray[np.generic]) -> Floats:
    session = open_session(model)
    outputs: Floats = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return outputs


def run_one_by_one(model: onnx.ModelProto, inputs: NDArray[np.generic]) -> Floats:
    session = open_session(model)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: inputs[row : row + 1]})[0] for row in range(len(inputs))])


def packed(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "plain.onnx")
    pack(folder / "plain.onnx", folder / "packed.onnx")
    return onnx.load(folder / "packed.onnx")


def confidences(logits: Floats) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    largest: NDArray[np.float64] = powers.max(axis=1) / powers.sum(axis=1)
    return largest


def optimized_operators(model: onnx.ModelProto, path: Path) -> dict[str, Counter[str]]:
    """Count the operators of the graph that onnxruntime runs, and of its branches."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(path).graph.node
    graphs = {
        attribute.name: attribute.g.node
        for node in nodes
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
    }
    return {name: Counter(node.op_type for node in inner) for name, inner in {"": nodes, **graphs}.items()}


def cuts_by_removal(model: onnx.ModelProto) -> list[str]:
    """Return the computed tensors without which nothing leads from the input to the output."""
    graph = model.graph
    found = []
    for removed in [name for node in graph.node for name in node.output]:
        reached = {graph.input[0].name}
        for _ in graph.node:
            for node in graph.node:
                if reached.intersection(node.input):
                    reached.update(set(node.output) - {removed})
        if graph.output[0].name not in reached:
            found.append(removed)
    return found


def test_cuts_of_a_network_are_those_whose_removal_disconnects_it(case: Case) -> None:
    expected = cuts_by_removal(case.model)
    assert list(one_tensor_cuts(case.model)) == expected
    assert 4 < len(expected) < len(case.model.graph.node)


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=2), min_size=1, max_size=7))
@settings(deadline=None, max_examples=60)
def test_cuts_of_random_graphs_are_those_whose_removal_disconnects_them(sources: list[list[int]]) -> None:
    names = ["input"]
    nodes = []
    for number, chosen in enumerate(sources):
        inputs = [names[index % len(names)] for index in chosen]
        nodes.append(helper.make_node("Sum", inputs, [f"t{number}"]))
        names.append(f"t{number}")
    model = model_of(nodes, [], [1, 2, 3, 3], [1, 2, 3, 3], names[-1])
    assert list(one_tensor_cuts(model)) == cuts_by_removal(model)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    input_shape: list[int],
    output_shape: list[int],
    output: str = "output",
) -> onnx.ModelProto:
    start = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *input_shape[1:]])
    end = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *output_shape[1:]])
    graph = helper.make_graph(nodes, "graph", [start], [end], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class ThreeLayers(nn.Module):
    """A network whose multiply-adds can be counted by hand; (n, 1, 8, 8) to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


@pytest.mark.parametrize("activation_bits", [None, 8, 32])
def test_shares_of_multiply_adds(activation_bits: int | None, example: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    torch.manual_seed(0)
    export_onnx(ThreeLayers(), example, path)
    if activation_bits is not None:  # on inputs enough for outputs that differ: what does not is left in float32
        quantize(path, path, BitChoice(4, activation_bits), calibration=torch.randn(16, *example.shape[1:]).numpy())
    model = onnx.load(path)
    first, second, last = 8 * 8 * 4 * 9, 4 * 4 * 8 * 2 * 9, 8 * 3
    total = first + second + last
    cuts = find_cuts(model)
    assert [cut.share for cut in cuts] == pytest.approx([first / total, (first + second) / total])
    # The last tensor between two layers: behind the activation function, where 8 bits lie behind it as integers.
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert producers[cuts[0].tensor] == ("QuantizeLinear" if activation_bits == 8 else "Relu")
    assert nearest_cut(model, first / total + 0.01) == cuts[0]
    assert nearest_cut(model, 0.99) == cuts[1]


def test_inputs_and_outputs_that_are_left_out_connect_nothing() -> None:
    weights = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), dtype=np.float32), "weight"),
        numpy_helper.from_array(np.array(6, dtype=np.float32), "most"),
    ]
    nodes = [
        helper.make_node("MaxPool", ["input"], ["aside", ""], kernel_shape=[2, 2]),
        helper.make_node("MaxPool", ["input"], ["pooled", ""], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["pooled", "weight"], ["inner"]),
        helper.make_node("Clip", ["inner", "", "most"], ["between"]),
        helper.make_node("Conv", ["between", "weight"], ["again"]),
        helper.make_node("Clip", ["again", "", "most"], ["output"]),
    ]
    model = model_of(nodes, weights, [1, 1, 4, 4], [1, 1, 3, 3])
    assert one_tensor_cuts(model) == ("pooled", "inner", "between", "again", "output")
    first, second = split(model, nearest_cut(model, 0.5))
    assert [node.op_type for node in first.graph.node] == ["MaxPool", "Conv", "Clip"]
    assert [node.op_type for node in second.graph.node] == ["Conv", "Clip"]


def test_no_cut_where_the_input_is_read_at_the_end() -> None:
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["inner"]),
        helper.make_node("Conv", ["inner", "weight"], ["again"]),
        helper.make_node("Add", ["again", "input"], ["output"]),
    ]
    with pytest.raises(CandidateFailure, match="no activation of four axes"):
        nearest_cut(model_of(nodes, [weight], [1, 1, 4, 4], [1, 1, 4, 4]), 0.5)


def test_several_outputs_cannot_be_cut(case: Case) -> None:
    case.model.graph.output.append(case.model.graph.output[0])
    with pytest.raises(CandidateFailure, match="1 inputs and 2 outputs"):
        find_cuts(case.model)


def test_control_flow_cannot_be_cut(case: Case) -> None:
    with pytest.raises(CandidateFailure, match="control flow"):
        find_cuts(with_exit(case.first, case.second, case.head, 0.5))


@pytest.mark.parametrize("depth", [0.0, 1.0])
def test_a_depth_is_a_share(case: Case, depth: float) -> None:
    with pytest.raises(ValueError, match=r"a share in \(0, 1\)"):
        nearest_cut(case.model, depth)


def test_the_halves_after_each_other_are_the_network(case: Case) -> None:
    behind = run(case.second, run(case.first, case.inputs))
    np.testing.assert_allclose(behind, run(case.model, case.inputs), rtol=1e-4, atol=1e-5)


def test_a_cut_of_another_network_is_refused(case: Case) -> None:
    cut = nearest_cut(model_of(*two_layers()), 0.5)
    with pytest.raises(ValueError, match="a tensor that the model computes"):
        split(case.model, cut)


def two_layers() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[int], list[int]]:
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["between"]),
        helper.make_node("Conv", ["between", "weight"], ["output"]),
    ]
    return nodes, [weight], [1, 1, 4, 4], [1, 1, 4, 4]


def some_features() -> tuple[Floats, NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    classes = generator.integers(3, size=200)
    features = generator.normal(size=(200, 5)) + np.eye(5)[classes]
    return features.astype(np.float32), classes


def test_a_head_is_the_logistic_regression_of_another_solver() -> None:
    features, classes = some_features()
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    # scikit-learn sums the loss over the samples, and weighs it rather than the decay.
    other = LogisticRegression(C=1 / (0.01 * len(features)), tol=1e-10, max_iter=1000).fit(standard, classes)
    head = train_head(features, np.eye(3)[classes], weight_decay=0.01)
    logits = head.logits(features)
    expected = other.decision_function(standard)
    np.testing.assert_allclose(
        logits - logits.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=1e-4
    )


def test_a_head_does_not_depend_on_scale_and_zero_point() -> None:
    features, classes = some_features()
    labels = np.eye(3)[classes]
    integers = features / np.float32(0.03) + 117
    logits = train_head(features, labels).logits(features)
    np.testing.assert_allclose(train_head(integers, labels).logits(integers), logits, atol=1e-3)


@pytest.mark.parametrize("rounding", [0.0, 8e-6])
def test_a_channel_that_never_changes_gets_no_weight(rounding: float) -> None:
    features, classes = some_features()
    features[:, 2] = 70 + rounding * (classes % 2)
    assert (train_head(features, np.eye(3)[classes]).weights[:, 2] == 0).all()


def test_features_are_channel_means(case: Case) -> None:
    many = np.concatenate([case.inputs] * 3)
    features = pooled_features(case.first, many)
    expected = run(case.first, many).mean(axis=(2, 3))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def test_labels_are_probabilities_mixed_with_targets() -> None:
    outputs = np.log(np.array([[1.0, 3.0], [2.0, 2.0]]))
    targets = np.array([0, 1])
    np.testing.assert_allclose(soft_labels(outputs), [[0.25, 0.75], [0.5, 0.5]])
    mixed = soft_labels(outputs, targets, target_weight=0.2)
    np.testing.assert_allclose(mixed, [[0.4, 0.6], [0.4, 0.6]])


def test_heads_refuse_what_has_no_meaning() -> None:
    features, labels = np.zeros((4, 2), dtype=np.float32), np.eye(2)[[0, 1, 0, 1]]
    with pytest.raises(ValueError, match="logits of shape"):
        soft_labels(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="target_weight"):
        soft_labels(labels, target_weight=1.5)
    with pytest.raises(ValueError, match="features of"):
        train_head(features[:3], labels)
    with pytest.raises(ValueError, match="non-finite"):
        train_head(np.full_like(features, np.nan), labels)
    with pytest.raises(ValueError, match="weight_decay"):
        train_head(features, labels, weight_decay=0.0)


def test_never_sure_is_the_whole_network(case: Case) -> None:
    outputs = run_one_by_one(with_exit(case.first, case.second, case.head, 1.1), case.inputs)
    expected = run_one_by_one(case.model, case.inputs)
    if case.first.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8:
        np.testing.assert_array_equal(outputs, expected)
    # In float32 the runtime fuses additions with layers across the cut, which rounds otherwise.
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_a_threshold_of_one_is_never_passed(case: Case) -> None:
    certain = ExitHead(case.head.weights * 1e4, case.head.biases)
    assert (confidences(certain.logits(pooled_features(case.first, case.inputs))) == 1).any()
    outputs = run_one_by_one(with_exit(case.first, case.second, certain, 1.0), case.inputs)
    np.testing.assert_allclose(outputs, run_one_by_one(case.model, case.inputs), rtol=1e-4, atol=1e-5)


def test_the_file_takes_one_input_at_a_time(case: Case) -> None:
    session = open_session(with_exit(case.first, case.second, case.head, 0.5))
    assert session.get_inputs()[0].shape == [1, 1, 8, 8]
    assert session.get_outputs()[0].shape == [1, 3]


def test_always_sure_is_the_head(case: Case) -> None:
    outputs = run_one_by_one(with_exit(case.first, case.second, case.head, 0.0), case.inputs)
    # The runtime sums the features in float32, 255 being the largest.
    expected = case.head.logits(pooled_features(case.first, case.inputs))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_each_input_goes_the_way_that_its_confidence_says(case: Case, quantile: float) -> None:
    logits = case.head.logits(pooled_features(case.first, case.inputs))
    sure = np.sort(confidences(logits))
    row = int(quantile * len(sure))
    threshold = float(sure[row] + sure[row + 1]) / 2
    taken = confidences(logits) > threshold
    assert taken.sum() == len(taken) - row - 1
    expected = np.where(taken[:, None], logits, run(case.second, run(case.first, case.inputs)))
    outputs = run_one_by_one(with_exit(case.first, case.second, case.head, threshold), case.inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.1])
def test_packed_halves_compute_the_same(case: Case, threshold: float, tmp_path: Path) -> None:
    plain = with_exit(case.first, case.second, case.head, threshold)
    small = with_exit(packed(case.first, tmp_path), packed(case.second, tmp_path), case.head, threshold)
    assert small.ByteSize() < plain.ByteSize()
    np.testing.assert_array_equal(run_one_by_one(small, case.inputs), run_one_by_one(plain, case.inputs))


def test_nothing_is_unpacked_at_run_time_and_kernels_stay_fused(case: Case, tmp_path: Path) -> None:
    composed = with_exit(packed(case.first, tmp_path), packed(case.second, tmp_path), case.head, 0.6)
    ran = optimized_operators(composed, tmp_path / "exit.optimized")
    whole = optimized_operators(case.model, tmp_path / "whole.optimized")[""]
    assert ran["then_branch"] == {"Identity": 1}
    everywhere = ran[""] + ran["else_branch"]
    assert not UNPACKING & set(everywhere)
    # The layers are those of the whole network, of the same kind, in the main graph and in the branch.
    for operator in ("Conv", "QLinearConv", "QLinearAdd", "QGemm"):
        assert everywhere[operator] == whole[operator]
    kind = "QLinearConv" if whole["QLinearConv"] else "Conv"
    assert ran[""][kind] > 0
    assert ran["else_branch"][kind] > 0
    # One cast for the features of the head, where they are integers.
    assert ran[""]["Cast"] == (kind == "QLinearConv")
    assert ran["else_branch"]["Cast"] == 0


def test_names_of_the_halves_may_collide(case: Case) -> None:
    """The second half's output is called like a tensor that the first half computes."""
    taken = case.first.graph.node[-1].output[0]
    assert taken == case.first.graph.output[0].name
    inner = next(name for node in case.first.graph.node for name in node.output if name != taken)
    expected = run_one_by_one(with_exit(case.first, case.second, case.head, 0.6), case.inputs)
    old = case.second.graph.output[0].name
    case.second.graph.output[0].name = inner
    for node in case.second.graph.node:
        node.output[:] = [inner if name == old else f"x{name}" for name in node.output]
        known = {other for each in case.second.graph.node for other in each.output}
        node.input[:] = [f"x{name}" if f"x{name}" in known else name for name in node.input]
    composed = with_exit(case.first, case.second, case.head, 0.6)
    assert composed.graph.output[0].name == inner
    np.testing.assert_array_equal(run_one_by_one(composed, case.inputs), expected)


def test_halves_that_do_not_fit_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="the second half takes"):
        with_exit(case.second, case.first, case.head, 0.5)
    narrow = ExitHead(case.head.weights[:, :3], case.head.biases)
    with pytest.raises(ValueError, match="the head takes 3 channels"):
        with_exit(case.first, case.second, narrow, 0.5)
    with pytest.raises(ValueError, match="threshold"):
        with_exit(case.first, case.second, case.head, float("nan"))
    inner = with_exit(case.first, case.second, case.head, 0.5)
    with pytest.raises(ValueError, match="no control flow"):
        with_exit(case.first, inner, case.head, 0.5)
    case.second.opset_import[0].version += 1
    with pytest.raises(ValueError, match="different sets of operators"):
        with_exit(case.first, case.second, case.head, 0.5)


def test_a_file_with_an_exit(case: Case, tmp_path: Path) -> None:
    source, destination, again = (tmp_path / name for name in ("network.onnx", "exit.onnx", "again.onnx"))
    onnx.save(case.model, source)
    choice = ExitChoice(depth=0.4, threshold=0.6)
    cut = pack_with_exit(source, destination, choice, inputs=case.inputs, targets=case.targets)
    assert cut == nearest_cut(case.model, 0.4)
    labels = soft_labels(run(case.model, case.inputs), case.targets)
    head = train_head(pooled_features(case.first, case.inputs), labels)
    expected = run_one_by_one(with_exit(case.first, case.second, head, 0.6), case.inputs)
    np.testing.assert_array_equal(run_one_by_one(onnx.load(destination), case.inputs), expected)
    if case.first.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8:
        assert destination.stat().st_size < 0.8 * with_exit(case.first, case.second, head, 0.6).ByteSize()
    pack_with_exit(source, again, choice, inputs=case.inputs, targets=case.targets)
    assert again.read_bytes() == destination.read_bytes()
