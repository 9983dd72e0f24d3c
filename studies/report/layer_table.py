"""What a file holds, layer by layer: channels, bits, zeros and bytes, read from the ONNX file itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ...spaces.formats.onnx.packing.bits import fewest_bits

_WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1}


@dataclass(frozen=True)
class Layer:
    """One layer of a file.

    Args:
        name: Name of its node, or its number where names are stripped.
        operation: ``Conv``, ``Gemm``, ...
        shape: Of its weight, as stored.
        channels: Output channels.
        bits: Fewest bits that hold every stored value: 1 to 8, 16 for float16, 32 for float32.
        elements: Weights, zeros included.
        nonzeros: Weights that are not zero.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    channels: int
    bits: int
    elements: int
    nonzeros: int

    @property
    def stored_bytes(self) -> float:
        """About how many bytes its weight takes: its values, or a mask and its non-zeros where that is less."""
        dense, mask = self.elements * self.bits / 8, self.elements / 8 + self.nonzeros * self.bits / 8
        return dense if self.bits == 16 else min(dense, mask)


def read_layers(path: Path) -> tuple[Layer, ...]:
    """Return the layers of a file that have a weight of their own, in the order of the graph.

    Packed weights are unpacked by the file's own operators.

    Raises:
        ValueError: Where it is no ONNX file.
        OSError: Where it cannot be read.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own errors have no common base
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} is no ONNX file: {error}") from error
    graph = _Constants(model)
    found = []
    for node in graph.nodes:
        if node.op_type in _WEIGHT_INPUT:
            name = node.input[_WEIGHT_INPUT[node.op_type]]
            if name in graph.constant:
                found.append((node, graph.stored(name)))
    values = graph.evaluate({name for _, name in found})
    return tuple(_layer(rank, node, values[name]) for rank, (node, name) in enumerate(found, start=1))


def _layer(rank: int, node: onnx.NodeProto, values: NDArray[np.generic]) -> Layer:
    shape = tuple(int(length) for length in values.shape)
    return Layer(
        name=node.name or f"layer {rank}",
        operation=node.op_type,
        shape=shape,
        channels=_channels(node, shape),
        bits=_bits(values),
        elements=int(values.size),
        nonzeros=int(np.count_nonzero(values)),
    )


def _bits(values: NDArray[np.generic]) -> int:
    if values.dtype == np.int8:
        return fewest_bits(values)
    return 8 * values.dtype.itemsize


def _channels(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    if node.op_type == "ConvTranspose":
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        return shape[1] * int(groups)
    if node.op_type == "Gemm":
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        return shape[0] if transposed else shape[-1]
    return shape[-1] if node.op_type.startswith("MatMul") else shape[0]


class _Constants:
    """The part of a model that no input reaches, subgraphs included, and how to compute it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        graphs = list(_graphs(model.graph))
        self._initializers = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
        self.nodes = [node for graph in graphs for node in graph.node]
        self.constant = set(self._initializers)
        self._producers: dict[str, onnx.NodeProto] = {}
        for node in self.nodes:
            has_subgraph = any(attribute.HasField("g") for attribute in node.attribute)
            if not has_subgraph and all(name in self.constant for name in node.input if name):
                self.constant |= set(node.output)
                self._producers |= dict.fromkeys(node.output, node)

    def stored(self, name: str) -> str:
        """Return the tensor of stored values behind a weight: before its scale, and before it becomes a float."""
        node = self._producers.get(name)
        if node is None:
            return name
        # weights beside float activations are the product of a cast tensor and its scale
        factor = self._producers.get(node.input[0]) if node.op_type == "Mul" else None
        if factor is not None and factor.op_type == "Cast":
            node = factor
        return str(node.input[0]) if node.op_type in ("DequantizeLinear", "Cast") else name

    def evaluate(self, names: set[str]) -> dict[str, NDArray[np.generic]]:
        """Return the values of constant tensors."""
        values = {
            name: onnx.numpy_helper.to_array(self._initializers[name]) for name in names if name in self._initializers
        }
        computed = sorted(names - set(values))
        return values | (self._run(computed) if computed else {})

    def _run(self, names: list[str]) -> dict[str, NDArray[np.generic]]:
        import onnxruntime

        needed = self._behind(names)
        nodes = [node for node in self.nodes if needed.intersection(node.output)]
        graph = onnx.helper.make_graph(nodes, "weights", [], [onnx.ValueInfoProto(name=name) for name in names])
        graph.initializer.extend(self._initializers[name] for name in sorted(needed & set(self._initializers)))
        model = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(names, session.run(names, {}), strict=True))

    def _behind(self, names: Iterable[str]) -> set[str]:
        needed: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name and name not in needed:
                needed.add(name)
                node = self._producers.get(name)
                waiting.extend(node.input if node is not None else ())
        return needed


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
