"""Giving batch normalization that could not be folded the statistics of what rounding has made of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....rounding.settings import QuantizationSettings
from ..onnx_file import Arrays, copy_of, drop_unread_initializers, feeds_for, open_session, opset_of

_BATCH = 64
_LEAST_VARIANCE = 1e-12

_AXES_ARE_AN_INPUT = 18
"""Since this set of operators, ``ReduceMean`` takes its axes as an input."""


@dataclass(frozen=True)
class Statistics:
    """Of what a normalization reads, over all but the channels.

    Args:
        mean: Shape (channels,).
        variance: Shape (channels,).
    """

    mean: np.ndarray
    variance: np.ndarray


def correct_normalization(
    model: onnx.ModelProto, after: onnx.ModelProto, before: onnx.ModelProto, calibration: np.ndarray
) -> None:
    """Move the statistics of each BatchNormalization as its inputs' have moved, in place.

    Behind a convolution it is folded, and there biases are corrected; elsewhere, such as behind a concatenation, its
    mean and variance are still those of the float network. Both networks are run on the same inputs, each normalizing
    by the statistics of its own batches, so that one layer's correction is known to the next; what counts is by how
    much these differ, so that without a difference nothing moves, however few the inputs are.

    Args:
        model: Whose statistics are moved, its nodes named.
        after: The same network with the weights that it will have; it may be the model itself.
        before: The same network as it was.
        calibration: float32, shape (n, *input_shape).
    """
    old, new = normalization_statistics(before, calibration), normalization_statistics(after, calibration)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    replaced: set[str] = set()
    for node in _normalizations(model):
        if node.name not in old or node.name not in new:
            continue
        first, then = old[node.name], new[node.name]
        steady = np.maximum(first.variance, _LEAST_VARIANCE)
        growth = np.where(first.variance > _LEAST_VARIANCE, then.variance / steady, 1.0)
        changed = {3: then.mean - first.mean + _array(tensors, node, 3), 4: growth * _array(tensors, node, 4)}
        if not all(np.isfinite(values).all() for values in changed.values()):
            continue
        for place, values in changed.items():
            name = f"{node.name}#{'mean' if place == 3 else 'variance'}"  # its own: another may read the same tensor
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
            replaced.add(node.input[place])
            node.input[place] = name
    drop_unread_initializers(model, among=replaced)


def copy_if_normalized(model: onnx.ModelProto, settings: QuantizationSettings) -> onnx.ModelProto | None:
    """Return a copy of the model where there is something to correct and the settings ask for it, else None."""
    wanted = settings.rounding == "feedback" and settings.bias_correction == "on"
    return copy_of(model) if wanted and _normalizations(model) else None


def normalization_statistics(model: onnx.ModelProto, inputs: Arrays) -> dict[str, Statistics]:
    """Return what each BatchNormalization reads where all of them normalize by their own batches, by node name.

    Args:
        model: Float32 model with one input, its nodes named.
        inputs: float32, shape (n, *input_shape).
    """
    watching, names = _normalizing_by_batches(model)
    if not names:
        return {}
    session = open_session(watching)
    wanted = [output for name in names for output in _outputs(name)]
    sums: list[np.ndarray] = [np.zeros(()) for _ in wanted]
    for start in range(0, len(inputs), _BATCH):
        batch = inputs[start : start + _BATCH]
        found = [np.asarray(each, dtype=np.float64).ravel() for each in session.run(wanted, feeds_for(model, batch))]
        # the mean square in place of the variance, since those add up
        squares = [var + mean**2 for mean, var in zip(found[::2], found[1::2], strict=True)]
        both = [each for pair in zip(found[::2], squares, strict=True) for each in pair]
        sums = [total + len(batch) / len(inputs) * each for total, each in zip(sums, both, strict=True)]
    return {
        name: Statistics(np.asarray(mean), np.asarray(square - mean**2))
        for name, mean, square in zip(names, sums[::2], sums[1::2], strict=True)
    }


def _normalizations(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the BatchNormalization nodes that use constant statistics."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type == "BatchNormalization" and constants.issuperset(node.input[1:5]) and len(node.output) == 1
    ]


def _normalizing_by_batches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the model with its normalizations spelled out, their statistics among its outputs, and their names."""
    changed = copy_of(model)
    ranks = _ranks(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    spelled = {node.name for node in _normalizations(model) if ranks.get(node.input[0], 0) >= 2}
    del changed.graph.node[:]
    for node in model.graph.node:
        if node.name not in spelled:
            changed.graph.node.add().CopyFrom(node)
            continue
        _spell_out(changed, node, ranks[node.input[0]], tensors)
        changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _outputs(node.name))
    return changed, [node.name for node in model.graph.node if node.name in spelled]


def _spell_out(
    model: onnx.ModelProto, node: onnx.NodeProto, rank: int, tensors: Mapping[str, onnx.TensorProto]
) -> None:
    """Append what a normalization does to a batch in training."""
    prefix, axes = f"{node.name}#", np.array([0, *range(2, rank)], dtype=np.int64)
    mean, variance = _outputs(node.name)

    def constant(name: str, values: np.ndarray) -> str:
        model.graph.initializer.append(numpy_helper.from_array(values, prefix + name))
        return prefix + name

    def add(operator: str, *inputs: str, output: str, **attributes: Any) -> str:
        model.graph.node.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def average(of: str, output: str) -> str:
        if opset_of(model) >= _AXES_ARE_AN_INPUT:
            return add("ReduceMean", of, constant(f"axes of {output}", axes), output=output, keepdims=1)
        return add("ReduceMean", of, output=output, keepdims=1, axes=axes.tolist())

    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    shape = (1, -1, *(1 for _ in range(2, rank)))
    scale, shift = (numpy_helper.to_array(tensors[name]).reshape(shape) for name in node.input[1:3])
    centred = add("Sub", node.input[0], average(node.input[0], mean), output=prefix + "centred")
    square = add("Mul", centred, centred, output=prefix + "square")
    steady = add(
        "Add", average(square, variance), constant("epsilon", np.array(epsilon, np.float32)), output=prefix + "steady"
    )
    normal = add("Div", centred, add("Sqrt", steady, output=prefix + "deviation"), output=prefix + "normal")
    scaled = add("Mul", normal, constant("scale", scale), output=prefix + "scaled")
    add("Add", scaled, constant("shift", shift), output=node.output[0])


def _outputs(name: str) -> tuple[str, str]:
    return f"{name}#batch mean", f"{name}#batch variance"


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}


def _array(tensors: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, place: int) -> np.ndarray:
    return numpy_helper.to_array(tensors[node.input[place]]).astype(np.float64)
