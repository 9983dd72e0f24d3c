"""Putting the grids of weights and activations into a float32 graph, in the QDQ form."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from ....rounding.layers import Layer
from ....rounding.rounded_weights import RoundedWeight
from ..onnx_file import drop_unread_initializers
from .weight_layers import LAYER_OPERATORS
from .weight_only import quantize_weights

Overrides = Mapping[str, list[dict[str, Any]]]
"""Scales and zero points by tensor name, in the form that onnxruntime takes them."""

ROUNDED = "_QuantizeLinear_Output"
"""What onnxruntime appends to a tensor's name for its integers."""

NEVER_FUSED = ("Clip", "Relu")
"""Operators of which the runtime fuses no more than what the grid behind them does as well."""

PRODUCTS = ("Gemm", "MatMul")
"""Layers whose int8 kernel can give float32."""

_MARK = ("onnx.infer", "onnxruntime.quant")
"""Says that shapes are inferred, which onnxruntime would do by way of a file."""


@dataclass(frozen=True)
class Spared:
    """What stays float32 in a file of 8-bit activations.

    Args:
        tensors: Activations that have no grid; whatever reads or gives them computes in float32, but for products,
            whose kernel reads integers and can give float32.
        nodes: Operators that compute in float32, by name.
    """

    tensors: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    def __or__(self, other: Spared) -> Spared:
        return Spared(self.tensors | other.tensors, self.nodes | other.nodes)


def insert_grids(
    model: onnx.ModelProto,
    weights: Mapping[str, RoundedWeight],
    layers: list[Layer],
    *,
    overrides: Overrides,
    extremes: Mapping[str, tuple[float, float]],
    operators: tuple[str, ...],
    spared: Spared,
) -> onnx.ModelProto:
    """Return the QDQ model; the given one is left as it is.

    Args:
        model: Float32 model with the rounded weights, its nodes named.
        weights: These weights by name. Where a layer is spared, its weight is stored as integers all the same.
        layers: The layers that read them.
        overrides: Grids that are known.
        extremes: The least and the greatest value of each activation, from which the other grids follow.
        operators: Kinds of operators that compute in int8.
        spared: What stays float32.
    """
    excluded = spared_nodes(model, spared)
    reached = {layer.node_name for layer in layers}
    excluded |= {node.name for node in model.graph.node if node.op_type in LAYER_OPERATORS and node.name not in reached}
    changed = onnx.shape_inference.infer_shapes(model)
    mark = changed.metadata_props.add()
    mark.key, mark.value = _MARK
    with _quiet():
        quantizer = QDQQuantizer(
            changed,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=_ranges(extremes),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=list(operators),
            # The runtime may still raise a weight's scale where a large bias would overflow int32. That keeps the
            # integers within their bits and zeros at zero, so it is left on.
            extra_options={"TensorQuantOverrides": dict(overrides)},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    rounded: onnx.ModelProto = quantizer.model.model
    del rounded.metadata_props[:]
    del rounded.graph.value_info[:]
    _give_float(rounded, spared.tensors)
    _keep_apart(rounded, spared.nodes)
    beside = [layer for layer in layers if layer.node_name in excluded]
    plain = {tensor.name for tensor in rounded.graph.initializer}
    names = {layer.weight_name for layer in beside} & plain
    quantize_weights(
        rounded, {name: weights[name] for name in names}, [each for each in beside if each.weight_name in names]
    )
    rounded.producer_name, rounded.producer_version = model.producer_name, model.producer_version
    return rounded


def spared_nodes(model: onnx.ModelProto, spared: Spared) -> set[str]:
    """Return the names of all nodes that compute in float32 for what is spared."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = set(spared.nodes)
    for node in model.graph.node:
        reads = spared.tensors.intersection(node.input)
        gives = spared.tensors.intersection(node.output)
        if reads or (gives and not (node.op_type in PRODUCTS and not constants.issuperset(node.input))):
            found.add(node.name)
    return found


def float_products(model: onnx.ModelProto) -> frozenset[str]:
    """Return the outputs of the network that a matrix product gives: rounding these would be for nothing."""
    outputs = {value.name for value in model.graph.output}
    return frozenset(
        node.output[0] for node in model.graph.node if node.op_type in PRODUCTS and node.output[0] in outputs
    )


def _give_float(model: onnx.ModelProto, names: Set[str]) -> None:
    """Take the grids of tensors away that a product gives, in place; what it gives is float32 then."""
    outputs = {value.name for value in model.graph.output}
    rounding = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    back = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    gone: set[int] = set()
    renamed: dict[str, str] = {}
    for name in names:
        first = rounding.get(f"{name}{ROUNDED}")
        if first is None or (second := back.get(first.output[0])) is None:
            continue
        source, target = first.input[0], second.output[0]
        renamed |= {source: target} if target in outputs else {target: source}
        gone |= {id(first), id(second)}
    kept = [node for node in model.graph.node if id(node) not in gone]
    for node in kept:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = renamed.get(name, name)
    if renamed:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        drop_unread_initializers(model)


def _keep_apart(model: onnx.ModelProto, names: Set[str]) -> None:
    """Keep the runtime from computing nodes in int8 that stand between tensors of 8 bits, in place.

    It fuses what it finds there. A sum of one tensor is a copy that it does not look through.
    """
    back = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    nodes = []
    for node in model.graph.node:
        if node.name in names and node.op_type not in NEVER_FUSED and node.input[0] in back:
            copied = f"{node.input[0]}#{node.name}"
            nodes.append(helper.make_node("Sum", [node.input[0]], [copied], name=f"{node.name}#apart"))
            node.input[0] = copied
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _ranges(extremes: Mapping[str, tuple[float, float]]) -> TensorsData:
    return TensorsData(
        CalibrationMethod.MinMax,
        {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in extremes.items()},
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization, which talks through the root logger and prints."""
    root, runtime = logging.getLogger(), logging.getLogger("onnxruntime")
    level = runtime.level
    # Without a handler, the first logging.warning() would install one for good.
    handler = logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_reject)
    runtime.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        runtime.setLevel(level)
        root.removeFilter(_reject)
        root.removeHandler(handler)


def _reject(_record: logging.LogRecord) -> bool:
    return False
