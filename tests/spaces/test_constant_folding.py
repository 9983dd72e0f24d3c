"""What is computed from constants alone is worked out beforehand, where files do not grow by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from karui.spaces.formats.onnx.constant_folding import MOST_GROWTH_BYTES, fold_constants
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.quantization.quantize import quantization_coverage


class Standardized(nn.Conv2d):
    """A convolution of which the weight is standardized whenever it is read."""

    def forward(self, inputs: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return functional.conv2d(
            inputs, (self.weight - mean) / (deviation + 1e-5), self.bias, self.stride, self.padding
        )


def model_of(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], width: int) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
        for name, size in (("x", width), ("y", None))
    ]
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_standardized_weights_are_constants_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Standardized(3, 48, 3), nn.ReLU(), Standardized(48, 48, 3), nn.Flatten()).eval()
    inputs = torch.randn(3, 3, 8, 8)
    export_onnx(network, inputs, tmp_path / "file.onnx")
    coverage = quantization_coverage(tmp_path / "file.onnx", 8)
    assert (coverage.quantized_layers, coverage.all_layers) == (2, 2)
    assert kinds(onnx.load(tmp_path / "file.onnx")) == ["Conv", "Relu", "Conv", "Flatten"]
    # The weights as they were are gone.
    assert (tmp_path / "file.onnx").stat().st_size < 1.05 * sum(p.numel() * 4 for p in network.parameters()) + 4_096


def test_a_chain_of_constants_becomes_its_value() -> None:
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["zeros"], value=helper.make_tensor("v", TensorProto.INT64, [1], [2])
        ),
        helper.make_node("Concat", ["zeros", "more"], ["flat"], axis=0),
        helper.make_node("Reshape", ["flat", "rows"], ["table"]),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("Cast", ["turned"], ["factors"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "factors"], ["y"]),
    ]
    tensors = {"shape": np.array([3]), "more": np.array([5, 6, 7]), "rows": np.array([3, 2])}
    model = model_of(nodes, tensors, width=2)
    assert fold_constants(model)
    assert kinds(model) == ["MatMul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["factors"]
    (answer,) = open_session(model).run(None, {"x": np.array([[1.0, 10.0]], np.float32)})
    # flat = 2 2 2 5 6 7 in rows (2 2) (2 5) (6 7), turned: (2 2 6) (2 5 7)
    np.testing.assert_array_equal(answer, [[22.0, 52.0, 76.0]])
    assert not fold_constants(model)


def test_what_would_make_the_file_larger_stays() -> None:
    many = MOST_GROWTH_BYTES // 4 + 4  # beyond what goes for it, too: a float and a count
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
        helper.make_node("Mul", ["x", "ones"], ["y"]),
    ]
    for count, left in ((many - 4, ["Mul"]), (many, ["Expand", "Mul"])):
        model = model_of(nodes, {"one": np.ones(1, np.float32), "shape": np.array([count])}, width=count)
        fold_constants(model)
        assert kinds(model) == left


def test_a_weight_that_others_read_as_it_is_is_not_stored_twice() -> None:
    size = 64
    nodes = [
        helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "weight"], ["h"]),
        helper.make_node("MatMul", ["h", "turned"], ["y"]),
    ]
    model = model_of(nodes, {"weight": np.eye(size, dtype=np.float32)}, width=size)
    assert not fold_constants(model)
    assert kinds(model) == ["Transpose", "MatMul", "MatMul"]
    nodes[1] = helper.make_node("MatMul", ["x", "turned"], ["h"])
    model = model_of(nodes, {"weight": np.eye(size, dtype=np.float32)}, width=size)
    assert fold_constants(model)
    assert kinds(model) == ["MatMul", "MatMul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["turned"]


def test_chance_and_outputs_are_left_alone() -> None:
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], shape=[4]),
        helper.make_node("Add", ["x", "noise"], ["h"]),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    model = model_of(nodes, {"c": np.ones(4, np.float32)}, width=4)
    assert not fold_constants(model)
    assert kinds(model) == ["RandomNormal", "Add", "Neg"]
