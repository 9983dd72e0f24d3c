"""Weights of operators that have no int8 kernel, rounded to nearest and stored in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....rounding.bit_choice import BitChoice
from ....rounding.layers import Layer
from ....rounding.rounded_weights import RoundedWeight, round_to_nearest
from ....rounding.settings import QuantizationSettings
from ..onnx_file import drop_unread_initializers
from .weight_layers import read_weights, write_weights
from .weight_only import prepend_nodes

OPERATORS = {"ConvTranspose": (1,), "GRU": (1, 2), "LSTM": (1, 2), "RNN": (1, 2)}
"""Which inputs of an operator are weights. All of them number their outputs along the second axis: the filters of a
group of a transposed convolution, the gates of a recurrent layer."""

CHANNEL_AXIS = 1

FEWEST_BITS_APART = 4
"""Nothing makes good for what rounding to nearest loses, so that these weights keep at least so many bits."""


@dataclass(frozen=True)
class WeightApart:
    """One weight of such an operator.

    Args:
        node_name: Name of the node.
        place: Which of its inputs it is.
        weight_name: Name of the initializer.
    """

    node_name: str
    place: int
    weight_name: str


def weights_apart(model: onnx.ModelProto) -> list[WeightApart]:
    """Return the constant float32 weights of such operators, in the order of the graph; nodes are named."""
    held = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return [
        WeightApart(node.name, place, node.input[place])
        for node in model.graph.node
        for place in OPERATORS.get(node.op_type, ())
        if node.domain in ("", "ai.onnx") and len(node.input) > place and node.input[place] in held
    ]


def bits_apart(choice: BitChoice) -> int:
    """Return the bits of these weights: those of all others, of a mean the next lower, of groups the most."""
    return max(choice.group_bits) if choice.group_bits else int(choice.weight_bits)


def round_apart(
    model: onnx.ModelProto, layers: Sequence[Layer], bits: int, most_bits: int, settings: QuantizationSettings
) -> dict[str, RoundedWeight]:
    """Round these weights in place, and return them by name.

    Args:
        model: Float32 model, its nodes named.
        layers: Its layers; the first and the last of these operators and the layers together have as many bits as there
            can be.
        bits: Bits of the weights of all others.
        most_bits: Most bits of a weight.
        settings: Whether each output has a scale of its own.
    """
    places = {node.name: place for place, node in enumerate(model.graph.node)}
    found = weights_apart(model)
    names = {layer.node_name for layer in layers} | {each.node_name for each in found}
    along = sorted(places[name] for name in names)
    values = read_weights(model, {each.weight_name for each in found})
    rounded: dict[str, RoundedWeight] = {}
    for each in found:
        if not np.isfinite(values[each.weight_name]).all():
            continue
        wanted = max(bits, FEWEST_BITS_APART) if places[each.node_name] in along[1:-1] else most_bits
        rounded[each.weight_name] = round_to_nearest(
            values[each.weight_name], CHANNEL_AXIS, min(wanted, most_bits), settings
        )
    write_weights(model, {name: weight.values for name, weight in rounded.items()})
    return rounded


def store_apart(model: onnx.ModelProto, weights: dict[str, RoundedWeight]) -> None:
    """Store weights as integers that the runtime unpacks once, in place; see :func:`~.weight_only.quantize_weights`."""
    nodes = {node.name: node for node in model.graph.node}
    unpacking: list[onnx.NodeProto] = []
    for each in weights_apart(model):
        if each.weight_name not in weights:
            continue
        name = f"{each.weight_name}#apart"
        if not any(name in node.output for node in unpacking):
            rounded = weights[each.weight_name]
            model.graph.initializer.append(numpy_helper.from_array(rounded.integers, f"{name}#integers"))
            model.graph.initializer.append(numpy_helper.from_array(rounded.factors, f"{name}#scales"))
            unpacking += [
                helper.make_node("Cast", [f"{name}#integers"], [f"{name}#cast"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}#cast", f"{name}#scales"], [name]),
            ]
        nodes[each.node_name].input[each.place] = name
    prepend_nodes(model, unpacking)
    drop_unread_initializers(model, among=set(weights))
