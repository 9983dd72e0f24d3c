"""Working out beforehand what a graph computes from constants alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from .onnx_file import drop_unread_initializers, names_in_subgraphs, opset_of

MOST_GROWTH_BYTES = 4_096
"""By so much at most a tensor that is worked out may be larger than what it is made of: a file is to become light."""

_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_STANDARD = ("", "ai.onnx")


def fold_constants(model: onnx.ModelProto) -> bool:
    """Replace what is computed from constants alone by what comes of it, in place; say whether there was anything.

    The runtime does the same whenever it opens a file, but passes over the graph do not see it: a weight that is
    transposed or standardized is no constant to a quantizer, nor are the widths of a padding that is put together.
    Tensors that take much more bytes than what they are made of stay as they are, and so does a graph with control
    flow, and what is drawn at random.

    Args:
        model: Its constants are initializers.
    """
    if names_in_subgraphs(model):
        return False
    nodes = _constant_nodes(model)
    if not nodes:
        return False
    values = _computed(model, nodes, _read_elsewhere(model, nodes))
    folded = _small_enough(model, nodes, values)
    if not folded:
        return False
    model.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in folded)
    _drop_folded(model, nodes, set(folded))
    drop_unread_initializers(model, among={name for node in nodes for name in node.input})
    return True


def _constant_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that read constants alone, in the order of the graph."""
    fed = {value.name for value in model.graph.input}
    known = {tensor.name for tensor in model.graph.initializer} - fed
    known.update(tensor.values.name for tensor in model.graph.sparse_initializer)
    found = []
    for node in model.graph.node:
        is_plain = node.domain in _STANDARD and node.op_type not in _RANDOM
        if is_plain and all(name in known for name in node.input if name):
            found.append(node)
            known.update(node.output)
    return found


def _read_elsewhere(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> list[str]:
    """Return what these nodes make that others read."""
    inside = {id(node) for node in nodes}
    read = {name for node in model.graph.node if id(node) not in inside for name in node.input}
    read -= {value.name for value in model.graph.output}  # an output is computed, whatever it is made of
    return [name for node in nodes for name in node.output if name in read]


def _computed(model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, np.ndarray]:
    """Return the wanted tensors, as far as the runtime can work them out."""
    try:
        graph = helper.make_graph(nodes, "constants", [], [onnx.ValueInfoProto(name=name) for name in wanted])
        read = {name for node in nodes for name in node.input}
        graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
        constant = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset_of(model))])
        constant.ir_version = model.ir_version
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(constant.SerializeToString(), options, ["CPUExecutionProvider"])
        found = session.run(wanted, {})
    except Exception:  # the runtime's own exceptions share no base class; the whole file is checked later, and tells
        return {}
    arrays = {name: value for name, value in zip(wanted, found, strict=True) if isinstance(value, np.ndarray)}
    return {name: value for name, value in arrays.items() if value.dtype.kind in "biuf"}


def _small_enough(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], values: dict[str, np.ndarray]
) -> list[str]:  # fmt: skip
    """Return the names of those values that take hardly more bytes than what they are made of and replace."""
    sizes = {tensor.name: _bytes_of(tensor) for tensor in model.graph.initializer}
    inside = {id(node) for node in nodes}
    kept = {name for node in model.graph.node if id(node) not in inside for name in node.input}
    folded = [name for name, value in values.items() if value.nbytes <= MOST_GROWTH_BYTES]
    for names, made_of in _connected(nodes, [name for name in values if name not in folded]):
        replaced = sum(sizes.get(name, 0) for name in made_of - kept)
        if sum(values[name].nbytes for name in names) <= replaced + MOST_GROWTH_BYTES:
            folded += names
    return folded


def _connected(nodes: list[onnx.NodeProto], wanted: list[str]) -> Iterator[tuple[list[str], set[str]]]:
    """Yield wanted tensors that are made of the same ones, together with all that they are made of."""
    made_of: dict[str, set[str]] = {}
    for node in nodes:
        for output in node.output:
            made_of[output] = {name for read in node.input for name in (read, *made_of.get(read, ()))}
    groups: list[tuple[list[str], set[str]]] = []
    for name in wanted:
        touching = [group for group in groups if group[1] & made_of[name]]
        groups = [group for group in groups if group not in touching]
        joined = [each for group in touching for each in group[0]]
        groups.append(([*joined, name], made_of[name].union(*(group[1] for group in touching))))
    yield from groups


def _bytes_of(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _drop_folded(model: onnx.ModelProto, nodes: list[onnx.NodeProto], folded: set[str]) -> None:
    """Remove the constant nodes of which nothing is read any more."""
    graph = model.graph
    constant = {name for node in nodes for name in node.output}
    read = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if constant.issuperset(node.output) and read.isdisjoint(node.output):
            continue
        kept.append(node)
        read.update(name for name in node.input if name not in folded)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(copies)
