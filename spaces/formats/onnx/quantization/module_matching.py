"""Which weight of an exported file is which module's: known by what the weights hold, bit for bit."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from ....bit_names import FLOAT_BITS
from ....rounding.layers import Layer
from ....rounding.rounded_weights import RoundedWeight
from ....training.qat.rounded_network import STAGE, quantizable_modules
from ...format import PARITY_SAMPLES
from ..export import export_onnx
from ..onnx_file import constants_to_initializers, read_model
from .static import has_int8_kernel
from .weight_layers import find_layers, name_nodes, read_weights, separate_shared_weights

_MOVERS = ("Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move values or drop some; the runtime wants their output on the grid of their input."""

_Key = tuple[tuple[int, ...], bytes]


@dataclass(frozen=True)
class Exported:
    """A network as a file holds it.

    Args:
        model: Float32 model.
        layers: Its layers that can be rounded.
        readers: By module name, the layers that read its weight.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    readers: Mapping[str, list[Layer]]

    def tensors_read(self, name: str) -> set[str]:
        """Return what a module's weight is multiplied with, and the tensors that it is merely moved from."""
        producers = {output: node for node in self.model.graph.node for output in node.output}
        readers = Counter(tensor for node in self.model.graph.node for tensor in node.input)
        inputs = {node.name: node.input[0] for node in self.model.graph.node}
        pending = {inputs[layer.node_name] for layer in self.readers[name]}
        found: set[str] = set()
        while pending:
            found.add(tensor := pending.pop())
            node = producers.get(tensor)
            # a tensor that others read as well keeps a grid that serves them too
            if node is not None and node.op_type in _MOVERS and readers[node.input[0]] == 1:
                pending.add(node.input[0])
        return found


def export_folded(folded: nn.Module, example: Tensor, activation_bits: int) -> Exported:
    """Return a network, folded already, as a file holds it; beside 8-bit activations, with its int8 layers alone."""
    with tempfile.TemporaryDirectory(prefix="karui-aware-") as folder:
        path = Path(folder) / "folded.onnx"
        export_onnx(folded, example[:PARITY_SAMPLES], path)
        model, layers = read_layers(path)
    if activation_bits != FLOAT_BITS:
        layers = [layer for layer in layers if has_int8_kernel(model, layer)]
    weights = {name: module.weight.detach().numpy() for name, module in quantizable_modules(folded).items()}
    return Exported(model, layers, readers_of(weights, model, layers))


def read_layers(path: Path) -> tuple[onnx.ModelProto, list[Layer]]:
    """Return a float32 model in the form that quantization knows, and its layers.

    Raises:
        CandidateFailure: Where the file cannot be read.
    """
    model = read_model(path, STAGE)
    name_nodes(model)
    constants_to_initializers(model)
    separate_shared_weights(model)
    return model, find_layers(model)


def readers_of(
    weights: Mapping[str, np.ndarray], model: onnx.ModelProto, layers: list[Layer]
) -> dict[str, list[Layer]]:
    """Return by name of a weight the layers that read it; weights that no layer reads are left out.

    Args:
        weights: Weights as torch keeps them, the outputs along the first axis.
        model: The exported model.
        layers: Layers of that model. They read a weight as it is where they number their outputs along the first axis
            too, and its transpose where along the last.
    """
    stored = read_weights(model, {layer.weight_name for layer in layers})
    keys = {name: _key(weight) for name, weight in stored.items()}
    readers: dict[tuple[int, _Key], list[Layer]] = defaultdict(list)
    for layer in layers:
        if layer.channel_axis == 0 or stored[layer.weight_name].ndim == 2:
            readers[layer.channel_axis, keys[layer.weight_name]].append(layer)
    found = {}
    for name, weight in weights.items():
        direct = readers.get((0, _key(weight)), [])
        transposed = readers.get((1, _key(weight.T)), []) if weight.ndim == 2 else []
        if direct or transposed:
            found[name] = [*direct, *transposed]
    return found


def _key(array: np.ndarray) -> _Key:
    return array.shape, hashlib.sha256(array.tobytes()).digest()


def along(weight: RoundedWeight, layer: Layer) -> RoundedWeight:
    """Turn a weight from a layer's order of axes to that of its module, or back."""
    if layer.channel_axis == 0:
        return weight
    axis = None if weight.channel_axis is None else 1 - weight.channel_axis
    return RoundedWeight(np.ascontiguousarray(weight.integers.T), weight.scales, axis)
