"""Kinds of operators that may compute in int8, so that those which a target runs slower so can stay float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import onnx
from onnx import helper

from ....rounding.settings import OperatorKind
from ..onnx_file import read_model
from .preparation import STAGE, prepare_layers

OPERATOR_KINDS: tuple[OperatorKind, ...] = get_args(OperatorKind)

LAYER_KINDS = frozenset({"convolution", "pointwise", "thin", "depthwise", "linear"})
"""Kinds of operators that have a weight."""

SLOWER = "int8 was slower on the target"

THIN_CHANNELS = 16

_OF_OPERATOR: Mapping[str, OperatorKind] = {
    "Add": "elementwise",
    "AveragePool": "pooling",
    "Concat": "moves",
    "Flatten": "moves",
    "Gemm": "linear",
    "GlobalAveragePool": "pooling",
    "LeakyRelu": "functions",
    "MaxPool": "pooling",
    "Mul": "elementwise",
    "Reshape": "moves",
    "Sigmoid": "functions",
    "Slice": "moves",
    "Split": "moves",
    "Squeeze": "moves",
    "Transpose": "moves",
    "Unsqueeze": "moves",
}


def kinds_of_nodes(model: onnx.ModelProto) -> dict[str, OperatorKind]:
    """Return the kind of each node that may compute in int8, by its name; functions that a layer takes in have none.

    Args:
        model: Float32 model, its nodes named.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, OperatorKind] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found[node.name] = _kind_of_convolution(node, shapes.get(node.input[1], ()))
        elif node.op_type == "MatMul":
            has_weight = not shapes.keys().isdisjoint(node.input)
            found[node.name] = "linear" if has_weight else "attention"
        elif node.op_type in _OF_OPERATOR:
            found[node.name] = _OF_OPERATOR[node.op_type]
    return found


def kinds_of_file(source: Path) -> tuple[OperatorKind, ...]:
    """Return which kinds of operators a float32 ONNX file has.

    Raises:
        CandidateFailure: Where it cannot be read.
    """
    model = read_model(source, STAGE)
    prepare_layers(model, source.name)
    found = set(kinds_of_nodes(model).values())
    return tuple(kind for kind in OPERATOR_KINDS if kind in found)


def nodes_of_kinds(model: onnx.ModelProto, kinds: Iterable[str]) -> frozenset[str]:
    """Return the names of a model's nodes that are of some kinds."""
    wanted = set(kinds)
    return frozenset(name for name, kind in kinds_of_nodes(model).items() if kind in wanted) if wanted else frozenset()


def _kind_of_convolution(node: onnx.NodeProto, shape: tuple[int, ...]) -> OperatorKind:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if len(shape) < 2:
        return "convolution"
    groups = attributes.get("group", 1)
    if groups > 1 and shape[1] == 1:
        return "depthwise"
    if min(shape[0], shape[1] * groups) < THIN_CHANNELS:
        return "thin"
    return "pointwise" if set(shape[2:]) == {1} else "convolution"
