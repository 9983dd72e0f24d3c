"""Where nodes ran, by profiles of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from karui.evaluators.runtimes.placement import count_nodes, describe_fallback, profile_nodes

from .conftest import save_graph


def node(name: str, provider: str | None, index: int = 0) -> dict[str, Any]:
    told = {} if provider is None else {"provider": provider}
    return {"cat": "Node", "name": name, "args": {"node_index": str(index), **told}}


def test_nodes_count_once_however_often_they_ran() -> None:
    runs = [
        node("conv", "CUDAExecutionProvider"),
        node("add", "CUDAExecutionProvider"),
        node("top", "CPUExecutionProvider"),
    ]
    other = [{"cat": "Session", "name": "model_loading", "args": {}}, node("conv_fence_before", None)]
    nodes = count_nodes([*other, *runs, *runs])
    assert nodes == {"CPUExecutionProvider": 1, "CUDAExecutionProvider": 2}
    assert describe_fallback(nodes) == "1 of 3 nodes ran on the CPU"


def test_nodes_without_a_name_are_told_apart_by_their_number() -> None:
    assert count_nodes([node("", "X", 1), node("", "X", 2)]) == {"X": 2}


def test_where_the_processor_ran_none_there_is_nothing_to_tell() -> None:
    assert describe_fallback({"CUDAExecutionProvider": 40}) is None
    assert describe_fallback({}) is None


def test_a_real_profile_names_every_node_that_ran(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Reciprocal", ["x"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    path = save_graph(tmp_path / "two.onnx", nodes, {}).path
    found = profile_nodes(path, np.ones((1, 3), np.float32), "CPUExecutionProvider", 1)
    assert found == {"CPUExecutionProvider": 2}
    assert [left.name for left in tmp_path.iterdir()] == ["two.onnx"], "the profile is not left behind"
