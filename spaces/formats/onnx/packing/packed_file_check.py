"""The pass over one file: strip it, pack its weights, keep whichever result is smallest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .....errors import CandidateFailure
from ....artifact import write_bytes
from ..onnx_file import LARGEST_FILE_BYTES, opset_of, read_model
from .chain import OLDEST_OPSET, Chain
from .derive import derive_bias_constants
from .plan import Group, add_group, plan
from .report import PackedTensor, PackingReport
from .strip import fixed_names, merge_initializers, strip

_STAGE = "packing"
_PACKABLE = (TensorProto.INT8, TensorProto.FLOAT16, TensorProto.FLOAT)


def pack(source: Path, destination: Path) -> PackingReport:
    """Write the smallest file that computes, bit for bit, what the source computes.

    Weights are stored in the fewest bits that hold them, or as a mask and their non-zeros, and are unpacked by
    standard operators that ONNX Runtime folds when it loads the file, so that inference runs the same kernels.

    Args:
        source: An ONNX file.
        destination: Where the result goes; it is written whole or not at all.

    Raises:
        CandidateFailure: Where the source cannot be read, is not valid, or is too large for one ONNX file.
    """
    model = read_model(source, _STAGE)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise CandidateFailure(_STAGE, f"{source.name} is not valid ONNX: {error}") from error
    original = source.read_bytes()
    if len(original) > LARGEST_FILE_BYTES:
        raise CandidateFailure(_STAGE, f"{source.name} has {len(original)} bytes, one ONNX file holds 2 GB")
    # Where functions of the model's own bind names, in ways that this pass does not follow, the file stays as it is.
    obstacle = _obstacle(model)
    followed = not model.functions
    del model
    smallest, tensors = _smallest(original, packable=not obstacle) if followed else (original, ())
    write_bytes(smallest, destination)
    return PackingReport(len(original), len(smallest), tensors, obstacle)


def _obstacle(model: onnx.ModelProto) -> str:
    """Return why the weights of a file cannot be packed, whatever they are; empty where they can."""
    if model.functions:
        return "the model has functions of its own"
    if (opset := opset_of(model)) < OLDEST_OPSET:
        return f"the file's set of operators is version {opset}, unpacking needs {OLDEST_OPSET} or newer"
    return ""


def _smallest(original: bytes, *, packable: bool) -> tuple[bytes, tuple[PackedTensor, ...]]:
    """Return the shortest of the file as it is, stripped, and packed; one of them is in memory at a time."""
    results: list[tuple[bytes, tuple[PackedTensor, ...]]] = [(original, ())]
    for pack_weights in (False, True)[: 1 + packable]:
        model = onnx.ModelProto.FromString(original)
        tensors = _pack_weights(model) if pack_weights else ()
        strip(model)
        results.append((model.SerializeToString(), tensors))
        results = [min(results, key=lambda result: len(result[0]))]
    return results[0]


def _pack_weights(model: onnx.ModelProto) -> tuple[PackedTensor, ...]:
    """Replace initializers by packed ones and the nodes that unpack them, in place."""
    fixed = fixed_names(model)
    chain = Chain(_unused_prefix(model), opset_of(model))
    derive_bias_constants(model, fixed, chain.prefix)
    merge_initializers(model, fixed)
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in _PACKABLE and tensor.name not in fixed
    }
    groups = plan(weights, chain.opset)
    for group in groups:
        add_group(chain, group.form, {name: weights[name] for name in group.names})
    _replace(model, {name for group in groups for name in group.names}, chain)
    return tuple(_describe(group, name, weights[name]) for group in groups for name in group.names)


def _replace(model: onnx.ModelProto, names: set[str], chain: Chain) -> None:
    graph = model.graph
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in names:
            del graph.initializer[index]
    graph.initializer.extend(chain.initializers)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*chain.nodes, *nodes])


def _describe(group: Group, name: str, tensor: np.ndarray) -> PackedTensor:
    return PackedTensor(name=name, bits=group.form.bits, sparse=group.form.sparse, elements=int(tensor.size))


def _unused_prefix(model: onnx.ModelProto) -> str:
    names = fixed_names(model).union(*([*node.input, *node.output] for node in model.graph.node))
    prefix = "packed"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
