"""Reading and writing one ONNX file: whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from ....errors import CandidateFailure
from ...artifact import write_bytes
from ...data.named import Named, feeds_of, joined

Arrays = Any
"""A batch of arrays: one, or several in a :class:`~karui.spaces.data.named.Named`."""

LARGEST_FILE_BYTES = 2**31 - 1
"""What one protobuf message, and so one ONNX file, can hold."""


def read_model(path: Path, stage: str) -> onnx.ModelProto:
    """Read an ONNX file that holds its own weights.

    Raises:
        CandidateFailure: In ``stage``, where the file is missing, no ONNX, or keeps weights in other files.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise CandidateFailure(stage, f"{path.name} cannot be read as ONNX: {error}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise CandidateFailure(stage, f"{path.name} cannot be read as ONNX: it holds no graph with an output")
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            raise CandidateFailure(stage, f"{path.name} keeps weights in other files; it must be one file below 2 GB")
    return model


def write_model(model: onnx.ModelProto, path: Path, stage: str) -> None:
    """Write an ONNX file beside its final place, then move it there.

    Raises:
        CandidateFailure: In ``stage``, where the model is larger than one ONNX file can be.
    """
    size_bytes = model.ByteSize()
    if size_bytes > LARGEST_FILE_BYTES:
        raise CandidateFailure(stage, f"the model has {size_bytes} bytes, one ONNX file holds {LARGEST_FILE_BYTES}")
    write_bytes(model.SerializeToString(), path)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard set of operators that a model is written for; 0 where it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn top-level ``Constant`` nodes that hold a tensor into initializers, in place."""
    graph = model.graph
    kept = []
    for node in graph.node:
        value = next((entry for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and value is not None:
            initializer = graph.initializer.add()
            initializer.CopyFrom(value.t)
            initializer.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        replacement = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(replacement)


def drop_unread_initializers(
    model: onnx.ModelProto, *, fixed: Set[str] = frozenset(), among: Set[str] | None = None
) -> None:
    """Remove the initializers that nothing reads, in place.

    Args:
        model: The model.
        fixed: Names that stay, whether read or not.
        among: Where given, only initializers of these names go.
    """
    graph = model.graph
    read = {*fixed, *names_in_subgraphs(model), *(value.name for value in graph.output)}
    read.update(name for node in graph.node for name in node.input)
    for index in reversed(range(len(graph.initializer))):
        name = graph.initializer[index].name
        if name not in read and (among is None or name in among):
            del graph.initializer[index]


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Open a model in memory on one thread of the CPU; what goes wrong is told by exceptions, not by a log."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def open_watching(model: onnx.ModelProto, names: Set[str]) -> onnxruntime.InferenceSession:
    """Open a model as :func:`open_session` does, with the named tensors among its outputs; its inputs never are."""
    watching = copy_of(model)
    missing = names - {value.name for value in (*model.graph.output, *model.graph.input)}
    watching.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(missing))
    return open_session(watching)


def feeds_for(model: onnx.ModelProto, batch: Arrays) -> Mapping[str, np.ndarray]:
    """Return what a model is fed with for a batch."""
    return feeds_of([value.name for value in model.graph.input], batch)


def run_in_batches(model: onnx.ModelProto, inputs: Arrays, batch_size: int) -> Arrays:
    """Return the output of a model for any number of inputs, shape (n, ...), or its outputs by name."""
    session = open_session(model)
    names = [value.name for value in session.get_outputs()]
    batches = []
    for start in range(0, len(inputs), batch_size):
        answers = session.run(names, feeds_for(model, inputs[start : start + batch_size]))
        batches.append(answers[0] if len(names) == 1 else Named(dict(zip(names, answers, strict=True))))
    return joined(batches)


def names_in_subgraphs(model: onnx.ModelProto) -> set[str]:
    """Return every tensor name that occurs inside the sub-graphs of control flow; passes leave these alone."""
    names: set[str] = set()
    pending = [graph for node in model.graph.node for graph in _subgraphs(node)]
    while pending:
        graph = pending.pop()
        names.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
        for node in graph.node:
            names.update(node.input)
            names.update(node.output)
            pending.extend(_subgraphs(node))
    return names


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    for attribute in node.attribute:
        found.extend(attribute.graphs)
    return found
