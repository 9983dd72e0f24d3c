"""Tiny ONNX files whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from karui.spaces.artifact import Artifact, file_digest

FEATURES = 3

MakeArtifact = Callable[..., Artifact]


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    batch: int | str = "batch",
    inputs: Sequence[str] = ("x",),
) -> Artifact:
    """Save a graph from float inputs ``(batch, FEATURES)`` to an output ``y`` of unknown shape."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, FEATURES]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return Artifact(path=path, digest=file_digest(path))


@pytest.fixture
def make_scaling(tmp_path: Path) -> MakeArtifact:
    """Return a maker of files that answer ``factor * x``."""

    def make(factor: float = 1.0, batch: int | str = "batch", name: str = "scaling.onnx") -> Artifact:
        nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
        return save_graph(tmp_path / name, nodes, {"factor": np.array([factor], np.float32)}, batch)

    return make


@pytest.fixture
def scaling(make_scaling: MakeArtifact) -> Artifact:
    return make_scaling()


@pytest.fixture
def one_over_input(tmp_path: Path) -> Artifact:
    """A file that answers ``1 / x``, infinite where the input is zero."""
    return save_graph(tmp_path / "one_over_input.onnx", [helper.make_node("Reciprocal", ["x"], ["y"])], {})


@pytest.fixture
def two_inputs(tmp_path: Path) -> Artifact:
    return save_graph(tmp_path / "two.onnx", [helper.make_node("Add", ["x", "z"], ["y"])], {}, inputs=("x", "z"))


@pytest.fixture
def one_row_only(tmp_path: Path) -> Artifact:
    """A file that loads, and fails when it runs on any batch but of one row."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return save_graph(tmp_path / "reshape.onnx", nodes, {"shape": np.array([1, FEATURES], np.int64)})


@pytest.fixture
def unknown_operator(tmp_path: Path) -> Artifact:
    return save_graph(tmp_path / "unknown.onnx", [helper.make_node("NoSuchOperator", ["x"], ["y"])], {})


@pytest.fixture
def empty_file(tmp_path: Path) -> Artifact:
    path = tmp_path / "empty.onnx"
    path.touch()
    return Artifact(path=path, digest=file_digest(path))


@pytest.fixture
def garbage(tmp_path: Path) -> Artifact:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"this is no protobuf at all")
    return Artifact(path=path, digest=file_digest(path))
