"""The network of a probe: one kind of layer, three times in a row, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...formats.onnx.onnx_file import write_model
from ...rounding.zero_choice import pattern_counts, zero_smallest
from ...sparsity_names import ZeroPattern
from .probe_layers import STAGE, ProbedLayer

DEPTH = 3
"""Layers in a row: the runtime's changes of layout and of type at both ends count for less than for a single one."""

OPSET, IR_VERSION = 17, 8
"""Old enough for every onnxruntime that karui works with, on devices as well."""


def with_channels(layer: ProbedLayer, channels: int) -> ProbedLayer:
    """Return the layer with another number of channels; a depthwise one stays depthwise."""
    return replace(layer, channels=channels, groups=channels if layer.is_depthwise else layer.groups)


def build_probe(
    layer: ProbedLayer,
    path: Path,
    *,
    zeroed_weights: float = 0.0,
    zero_pattern: ZeroPattern = "free",
    input_channels: int | None = None,
    seed: int = 0,
) -> None:
    """Write a float32 ONNX file of three such layers, each followed by a ReLU.

    Inputs have as many channels as outputs and the extent of the output, and strides are 1, so that layers can follow
    each other: of a layer that changes the number of channels that is the square one beside it.

    Args:
        layer: The layer.
        path: Where the file goes; its one input has shape (batch, channels, *extent), or (batch, *extent, channels) for
            a product with a matrix.
        zeroed_weights: Fraction of the weights that are zero, the smallest of each output; under ``n:m`` it follows
            from the pattern.
        zero_pattern: Where the zeros lie.
        input_channels: Channels of the file's input where it has more than the layer, so that probes of several counts
            can be timed on one input; the first of them are read.
        seed: Of the weights, which are normal and keep the variance (He et al., ICCV 2015).
    """
    chance = np.random.default_rng(seed)
    read = input_channels or layer.channels
    shape: list[str | int | None] = ["batch", *probe_shape(replace(layer, channels=read))]
    nodes, weights, name = [], [], "input"
    if read > layer.channels:
        nodes.append(helper.make_node("Slice", ["input", "from", "to", "axis"], [name := "first"], name="Slice"))
        ends = {"from": 0, "to": layer.channels, "axis": 1 if layer.kernel else len(shape) - 1}
        weights += [numpy_helper.from_array(np.array([value]), end) for end, value in ends.items()]
    for index in range(DEPTH):
        weight = _zeroed(_weight(layer, chance), zeroed_weights, zero_pattern)
        weights.append(numpy_helper.from_array(weight if layer.kernel else weight.T.copy(), f"weight{index}"))
        nodes.append(_node(layer, name, index))
        nodes.append(helper.make_node("Relu", [f"layer{index}"], [name := f"relu{index}"], name=f"Relu{index}"))
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *probe_shape(layer)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    write_model(model, path, STAGE)


def probe_shape(layer: ProbedLayer) -> tuple[int, ...]:
    """Return the shape of one input of the layer's probe."""
    return (layer.channels, *layer.extent) if layer.kernel else (*layer.extent, layer.channels)


def probe_inputs(layer: ProbedLayer, batch_size: int, seed: int = 0) -> NDArray[np.float32]:
    """Return random inputs of the layer's probe, normal, shape (batch_size, *input_shape)."""
    chance = np.random.default_rng(seed)
    return chance.standard_normal((batch_size, *probe_shape(layer)), dtype=np.float32)


def _weight(layer: ProbedLayer, chance: np.random.Generator) -> NDArray[np.float32]:
    """Return a weight of shape (channels, inputs of one output, *kernel)."""
    shape = (layer.channels, layer.channels // layer.groups, *layer.kernel)
    deviation = np.sqrt(2.0 / np.prod(shape[1:]))
    weight: NDArray[np.float32] = (deviation * chance.standard_normal(shape)).astype(np.float32)
    return weight


def _zeroed(weight: NDArray[np.float32], fraction: float, pattern: ZeroPattern) -> NDArray[np.float32]:
    rows = weight.reshape(1, len(weight), -1)
    if pattern == "free":
        counts = np.full(rows.shape[:2], round(fraction * rows.shape[2]))
    else:
        counts = pattern_counts(rows, pattern)
    zeroed: NDArray[np.float32] = zero_smallest(rows, counts, pattern).reshape(weight.shape).astype(np.float32)
    return zeroed


def _node(layer: ProbedLayer, source: str, index: int) -> onnx.NodeProto:
    names: dict[str, Any] = {"inputs": [source, f"weight{index}"], "outputs": [f"layer{index}"]}
    if not layer.kernel:
        return helper.make_node("MatMul", **names, name=f"MatMul{index}")
    # Before and behind an axis differ by one where the kernel's side is even, so that the extent stays.
    before = [(side - 1) // 2 for side in layer.kernel]
    behind = [side // 2 for side in layer.kernel]
    return helper.make_node("Conv", **names, name=f"Conv{index}", pads=[*before, *behind], group=layer.groups)
