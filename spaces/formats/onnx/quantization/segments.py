"""A file of 8-bit activations cut wherever it holds integers: every operator alone, as the runtime runs it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from ....rounding.learned import LARGEST_UINT8, ActivationGrid
from ..onnx_file import copy_of, drop_unread_initializers, open_session
from .insertion import ROUNDED

_FED = "#fed"

_MOVERS = ("AveragePool", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose output takes the grid of their input."""


@dataclass(frozen=True)
class Segments:
    """The pieces of a QDQ model between its 8-bit tensors.

    Args:
        model: The QDQ model.
        grids: The grid of each 8-bit activation, by the name of the float32 tensor.
        outputs: The network's outputs that are not rounded.
    """

    model: onnx.ModelProto
    grids: Mapping[str, ActivationGrid]
    outputs: tuple[str, ...]

    def run(self, tensors: Mapping[str, np.ndarray], *, fused: bool = True) -> dict[str, np.ndarray]:
        """Return what each piece gives where all it reads are the float32 tensors, rounded.

        Args:
            tensors: The float32 network's tensors, those that have a grid and its input.
            fused: Whether the runtime fuses and rearranges operators as it does in a deployed file.
        """
        given = {value.name: tensors[value.name] for value in self.model.graph.input}
        feeds = {f"{name}{_FED}": to_integers(tensors[name], grid) for name, grid in self.grids.items()}
        session = _open(_cut(self.model, self.grids, tensors, self.outputs), fused=fused)
        names = [value.name for value in session.get_outputs()]
        given = dict(zip(names, session.run(None, {**given, **feeds}), strict=True))
        rounded = {name: to_floats(given[f"{name}{ROUNDED}"], grid) for name, grid in self.grids.items()}
        return {**rounded, **{name: np.asarray(given[name]) for name in self.outputs}}


def segments_of(model: onnx.ModelProto) -> Segments:
    """Return the pieces of a QDQ model, its names as :func:`~.insertion.insert_grids` gives them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    grids, rounded_outputs = {}, set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            grids[node.output[0].removesuffix(ROUNDED)] = ActivationGrid(float(scale), int(zero_point))
        elif node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            rounded_outputs.add(node.output[0])
    outputs = tuple(value.name for value in model.graph.output if value.name not in rounded_outputs)
    return Segments(model, grids, outputs)


def origin_of(model: onnx.ModelProto, name: str, grids: Container[str]) -> str:
    """Return the tensor, of those that have a grid, that one is merely moved from: it has that one's grid."""
    return [name, *_moved_from(model, name, grids)][-1]


def with_origins(model: onnx.ModelProto, name: str) -> frozenset[str]:
    """Return a tensor and all that it is merely moved from."""
    return frozenset([name, *_moved_from(model, name, None)])


def _moved_from(model: onnx.ModelProto, name: str, within: Container[str] | None) -> Iterator[str]:
    producers = {output: node for node in model.graph.node for output in node.output}
    while (node := producers.get(name)) is not None and node.op_type in _MOVERS:
        name = node.input[0]
        if within is not None and name not in within:
            return
        yield name


def to_integers(values: np.ndarray, grid: ActivationGrid) -> np.ndarray:
    """Return the integers that stand for values."""
    scaled = np.rint(values / np.float32(grid.scale)) + np.float32(grid.zero_point)
    return np.asarray(np.clip(scaled, 0, LARGEST_UINT8), dtype=np.uint8)


def to_floats(integers: np.ndarray, grid: ActivationGrid) -> np.ndarray:
    """Return the values that integers stand for."""
    return np.asarray((integers.astype(np.float32) - np.float32(grid.zero_point)) * np.float32(grid.scale))


def on_grid(values: np.ndarray, grid: ActivationGrid) -> np.ndarray:
    """Return the nearest points of the grid."""
    return to_floats(to_integers(values, grid), grid)


@dataclass(frozen=True)
class FloatPiece:
    """The float32 operators between some tensors and one that follows from these.

    Args:
        output: What they give.
        inputs: What they read, constants aside.
        nodes: Their names.
    """

    output: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]


def piece_before(model: onnx.ModelProto, output: str, ends: Iterable[str]) -> FloatPiece:
    """Return the operators that give a tensor, back to where others of the named ones, or inputs, begin."""
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    known, pending = set(ends) - {output}, [output]
    inputs: dict[str, None] = {}
    nodes: dict[str, None] = {}
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if not name or name in seen or name in constants:
            continue
        seen.add(name)
        node = producers.get(name)
        if name in known or node is None:
            inputs[name] = None
            continue
        nodes[node.name] = None
        pending.extend(reversed(node.input))
    return FloatPiece(output, tuple(inputs), tuple(nodes))


def run_piece(model: onnx.ModelProto, piece: FloatPiece, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what some operators of a float32 model give for the tensors that they read."""
    cut = copy_of(model)
    wanted = set(piece.nodes)
    kept = [node for node in model.graph.node if node.name in wanted]
    del cut.graph.node[:], cut.graph.input[:], cut.graph.output[:], cut.graph.value_info[:]
    cut.graph.node.extend(kept)
    cut.graph.input.extend(_value(name, tensors[name]) for name in piece.inputs)
    cut.graph.output.append(onnx.ValueInfoProto(name=piece.output))
    drop_unread_initializers(cut)
    (given,) = open_session(cut).run(None, {name: tensors[name] for name in piece.inputs})
    return np.asarray(given)


def _cut(
    model: onnx.ModelProto,
    grids: Mapping[str, ActivationGrid],
    tensors: Mapping[str, np.ndarray],
    outputs: tuple[str, ...],
) -> onnx.ModelProto:
    """Return the model with every 8-bit activation once as an output, and once, for who reads it, as an input."""
    cut = copy_of(model)
    integers = {f"{name}{ROUNDED}": name for name in grids}
    for node in cut.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in integers:
            node.input[0] = f"{integers[node.input[0]]}{_FED}"
    cut.graph.input.extend(_value(f"{name}{_FED}", tensors[name], onnx.TensorProto.UINT8) for name in grids)
    del cut.graph.output[:], cut.graph.value_info[:]
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (*integers, *outputs))
    return cut


def _value(name: str, values: np.ndarray, kind: int | None = None) -> onnx.ValueInfoProto:
    kind = kind or helper.np_dtype_to_tensor_dtype(values.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * values.ndim)


def _open(model: onnx.ModelProto, *, fused: bool) -> onnxruntime.InferenceSession:
    if fused:
        return open_session(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
