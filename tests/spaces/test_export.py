"""Export: the file computes what the network computes, and the caller's network is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from karui.errors import CandidateFailure
from karui.spaces.formats.onnx.export import export_onnx, remove_identities


def run_file(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input"]
    (output,) = session.run(["output"], {"input": inputs})
    return np.asarray(output)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


class Shuffle(nn.Module):
    """Channel shuffle and split as in ShuffleNet: shapes are read from the tensor."""

    def forward(self, inputs: Tensor) -> Tensor:
        batch, channels, height, width = inputs.shape
        shuffled = inputs.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(inputs.shape)
        first, second = shuffled.chunk(2, dim=1)
        return torch.cat([second, first], dim=1).flatten(1)


class Returns(nn.Module):
    """Returns whatever the given function makes of the input."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> object:
        return self.function(inputs)  # type: ignore[operator]


def test_a_linear_layer_is_the_matrix_product(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]]))
        network.bias.copy_(torch.tensor([10.0, 20.0]))
    export_onnx(network, torch.randn(2, 3), tmp_path / "linear.onnx")
    inputs = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 2, 2], [0, 0, 0]], dtype=np.float32)
    expected = np.array([[11, 20], [12, 19], [13, 20.5], [22, 19], [10, 20]])
    np.testing.assert_allclose(run_file(tmp_path / "linear.onnx", inputs), expected, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["linear.onnx"]


def test_the_callers_network_keeps_its_mode_and_its_values(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    network.train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_onnx(network, torch.randn(2, 3, 6, 6), tmp_path / "network.onnx")
    assert [module.training for module in network] == [True, False, True, True, True]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    # With its fresh statistics the batch norm divides by sqrt(1 + 1e-5); dropout is gone.
    inputs = torch.randn(3, 3, 6, 6)
    with torch.no_grad():
        expected = (network[0](inputs) / np.sqrt(1 + 1e-5)).clamp(min=0).flatten(1)
    np.testing.assert_allclose(run_file(tmp_path / "network.onnx", inputs.numpy()), expected.numpy(), atol=1e-5)
    assert "Dropout" not in operators(tmp_path / "network.onnx")


def test_equal_weights_reach_each_layer_as_initializers(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    for index in (2, 4):
        network[index].load_state_dict(network[0].state_dict())
    export_onnx(network, torch.randn(1, 2, 4, 4), tmp_path / "equal.onnx")
    model = onnx.load(tmp_path / "equal.onnx")
    initializers = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == 3
    assert all(set(layer.input[1:]) <= initializers for layer in layers)
    assert "Identity" not in operators(tmp_path / "equal.onnx")


def test_a_channel_shuffle_needs_no_shape_arithmetic(tmp_path: Path) -> None:
    export_onnx(Shuffle(), torch.randn(2, 8, 3, 3), tmp_path / "shuffle.onnx")
    assert not {"Shape", "Gather", "Unsqueeze", "Div"} & set(operators(tmp_path / "shuffle.onnx"))
    inputs = np.random.default_rng(0).normal(size=(5, 8, 3, 3)).astype(np.float32)
    expected = np.stack([inputs[:, channel] for channel in (2, 6, 3, 7, 0, 4, 1, 5)], axis=1).reshape(5, -1)
    np.testing.assert_array_equal(run_file(tmp_path / "shuffle.onnx", inputs), expected)


@pytest.mark.parametrize("examples", [1, 2, 7])
def test_any_batch_size_runs(tmp_path: Path, examples: int) -> None:
    export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(examples, 2, 2), tmp_path / "any.onnx")
    for batch in (1, 2, 9):
        assert run_file(tmp_path / "any.onnx", np.zeros((batch, 2, 2), dtype=np.float32)).shape == (batch, 3)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda inputs: (inputs, inputs), "must return one tensor, it returns tuple"),
        (lambda inputs: inputs.sum(), "first axis of the output must be the batch of 2"),
        (lambda inputs: inputs.T, "first axis of the output must be the batch of 2"),
        (lambda inputs: inputs / 0.0, "holds a non-finite value"),
        (lambda inputs: inputs @ inputs, "Returns fails on a batch of 2: RuntimeError"),
        (lambda inputs: torch.linalg.svdvals(inputs)[:, None].expand(-1, 2)[: len(inputs)] * 1.0, "cannot be exported"),
        (lambda inputs: inputs * len(inputs.tolist()), "parity: on a batch of 3 .* differs by .* \\(allowed"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_no_file(tmp_path: Path, function: object, reason: str) -> None:
    with pytest.raises(CandidateFailure, match=reason) as caught:
        export_onnx(Returns(function), torch.rand(2, 3) + 1.0, tmp_path / "never.onnx")
    assert caught.value.stage == "export"
    assert "\n" not in caught.value.reason
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    path.write_bytes(b"before")
    with pytest.raises(CandidateFailure, match="non-finite"):
        export_onnx(Returns(lambda inputs: inputs / 0.0), torch.ones(2, 3), path)
    assert path.read_bytes() == b"before"


def test_an_empty_example_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one input"):
        export_onnx(nn.Linear(3, 2), torch.empty(0, 3), tmp_path / "never.onnx")


def test_the_export_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(Shuffle(), torch.randn(2, 8, 3, 3), tmp_path / "quiet.onnx")
    assert capfd.readouterr() == ("", "")


IDENTITY_GRAPHS = {
    "weight behind a chain": [("Identity", "w", "a"), ("Identity", "a", "b"), ("Add", "x b", "y")],
    "output behind one": [("Add", "x w", "a"), ("Identity", "a", "y")],
    "output behind one that others read": [("Add", "x w", "a"), ("Neg", "a", "z"), ("Identity", "a", "y")],
    "two outputs of one tensor": [("Add", "x w", "a"), ("Identity", "a", "y"), ("Identity", "a", "z")],
    "output that is read again": [
        ("Add", "x w", "a"),
        ("Identity", "a", "y"),
        ("Identity", "y", "b"),
        ("Neg", "b", "z"),
    ],
    "input as output": [("Identity", "x", "y")],
    "weight as output": [("Identity", "w", "y"), ("Add", "x w", "z")],
    "output into output": [("Add", "x w", "y"), ("Identity", "y", "z")],
    "behind an inner one": [("Add", "x w", "a"), ("Identity", "a", "b"), ("Identity", "b", "y"), ("Neg", "b", "z")],
}


@pytest.mark.parametrize("name", IDENTITY_GRAPHS)
def test_removing_identities_changes_no_output(name: str) -> None:
    nodes = [helper.make_node(kind, inputs.split(), [output]) for kind, inputs, output in IDENTITY_GRAPHS[name]]
    outputs = sorted({node.output[0] for node in nodes} & {"y", "z"})
    graph = helper.make_graph(
        nodes,
        "identities",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [3]) for output in outputs],
        [numpy_helper.from_array(np.array([1, 2, 3], dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inputs = {"x": np.array([5, -1, 0.5], dtype=np.float32)}
    before = ReferenceEvaluator(model).run(None, inputs)
    identities = sum(node.op_type == "Identity" for node in model.graph.node)
    remove_identities(model)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.output] == outputs
    for one, other in zip(before, ReferenceEvaluator(model).run(None, inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    left = sum(node.op_type == "Identity" for node in model.graph.node)
    needed = name in ("input as output", "weight as output", "two outputs of one tensor", "output into output")
    assert left == (1 if needed else 0) < max(identities, 2)


class Branching(nn.Module):
    """Does one thing or another, by a value of its input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2.0 if float(inputs[0, 0]) > 0 else inputs - 3.0


@pytest.mark.parametrize("low", [-1.0, 0.1])
def test_a_network_that_branches_on_values_is_refused(low: float, tmp_path: Path) -> None:
    """By other rows in front where the rows differ, by other values where all of them take one branch."""
    example = torch.tensor([[1.0, 2.0], [low, 1.0], [3.0, 1.0]])
    with pytest.raises(CandidateFailure, match="parity"):
        export_onnx(Branching(), example, tmp_path / "never.onnx")


def test_a_batch_size_that_was_read_as_a_number_is_told(tmp_path: Path) -> None:
    class Token(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.cat([torch.ones(1, 1, 3).expand(len(inputs), -1, -1), inputs], dim=1)

    with pytest.raises(CandidateFailure, match=r"not of another size: is it read as a number, as by len\(x\)"):
        export_onnx(Token(), torch.randn(3, 2, 3), tmp_path / "never.onnx")


@pytest.mark.parametrize("shape", [(8,), (4, 8)])
@pytest.mark.parametrize("options", [{}, {"eps": 0.5}, {"elementwise_affine": False}])
def test_the_norm_of_root_mean_squares_is_exported(
    shape: tuple[int, ...], options: dict[str, Any], tmp_path: Path
) -> None:
    network = nn.RMSNorm(shape, **options)
    if network.weight is not None:
        nn.init.uniform_(network.weight)
    export_onnx(network, torch.randn(2, 4, 8), tmp_path / "norm.onnx")
    inputs = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    axes = tuple(range(-len(shape), 0))
    root = np.sqrt((inputs**2).mean(axis=axes, keepdims=True) + options.get("eps", np.finfo(np.float32).eps))
    weight = 1.0 if network.weight is None else network.weight.detach().numpy()
    np.testing.assert_allclose(run_file(tmp_path / "norm.onnx", inputs), inputs / root * weight, atol=1e-5)
