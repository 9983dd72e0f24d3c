"""What a deployed graph does not need, taken away without changing what it computes."""

from __future__ import annotations

import hashlib
import itertools
import math
import string
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..onnx_file import drop_unread_initializers, names_in_subgraphs

_MOST_VARIABLE_LENGTH_ELEMENTS = 4096
_VARIABLE_LENGTH: dict[int, str] = {
    TensorProto.INT64: "int64_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT8: "int32_data",
    TensorProto.UINT8: "int32_data",
}


def strip(model: onnx.ModelProto) -> None:
    """Make a model smaller in place: merge equal initializers, drop unused ones, shorten names, drop descriptions.

    Names of the graph's inputs and outputs, everything inside sub-graphs and what sub-graphs read stay untouched, as
    do the operators, their versions and the model's own metadata.
    """
    _drop_descriptions(model)
    fixed = fixed_names(model)
    merge_initializers(model, fixed)
    _shorten_names(model, fixed)
    for tensor in model.graph.initializer:
        _compact(tensor)


def fixed_names(model: onnx.ModelProto) -> set[str]:
    """Return the names that may not change: inputs, outputs, and what is referred to from outside the nodes."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    fixed.update(tensor.values.name for tensor in graph.sparse_initializer)
    for annotation in graph.quantization_annotation:
        fixed.add(annotation.tensor_name)
        fixed.update(entry.value for entry in annotation.quant_parameter_tensor_names)
    return fixed | names_in_subgraphs(model)


def merge_initializers(model: onnx.ModelProto, fixed: set[str]) -> None:
    """Keep one of each set of equal initializers and none that nothing reads, in place."""
    _merge_equal_initializers(model, fixed)
    drop_unread_initializers(model, fixed=fixed)


def _drop_descriptions(model: onnx.ModelProto) -> None:
    graph = model.graph
    model.doc_string = ""
    graph.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
    for node in graph.node:
        node.name = ""
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
    for tensor in graph.initializer:
        tensor.doc_string = ""


def _merge_equal_initializers(model: onnx.ModelProto, fixed: set[str]) -> None:
    # Digests stand in for the bytes: no second copy of all weights.
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    replaced: dict[str, str] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.STRING or tensor.name in fixed:
            continue
        digest = hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
        key = (tensor.data_type, tuple(tensor.dims), digest)
        known = first.setdefault(key, tensor.name)
        if known != tensor.name:
            replaced[tensor.name] = known
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in replaced:
                node.input[position] = replaced[name]


def _shorten_names(model: onnx.ModelProto, fixed: set[str]) -> None:
    uses: Counter[str] = Counter()
    for node in model.graph.node:
        uses.update(name for name in (*node.input, *node.output) if name)
    uses.update(tensor.name for tensor in model.graph.initializer)
    fresh = (name for name in _short_names() if name not in fixed)
    short = {name: next(fresh) for name, _ in uses.most_common() if name not in fixed}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = short.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)


def _short_names() -> Iterator[str]:
    """Yield a, b, ..., Z, aa, ab, ...: letters first, as an identifier must begin with one."""
    letters = string.ascii_letters
    yield from letters
    for length in itertools.count(1):
        for tail in itertools.product(letters + string.digits, repeat=length):
            yield from (head + "".join(tail) for head in letters)


def _compact(tensor: TensorProto) -> None:
    """Store a tensor as raw bytes or as integers of variable length, whichever is shorter."""
    if tensor.data_type not in (*_VARIABLE_LENGTH, TensorProto.FLOAT):
        return
    if tensor.HasField("raw_data") and math.prod(tensor.dims) > _MOST_VARIABLE_LENGTH_ELEMENTS:
        return
    array = numpy_helper.to_array(tensor)
    forms = [numpy_helper.from_array(array, tensor.name)]
    if tensor.data_type in _VARIABLE_LENGTH and array.size <= _MOST_VARIABLE_LENGTH_ELEMENTS:
        variable = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape)
        getattr(variable, _VARIABLE_LENGTH[tensor.data_type]).extend(array.astype(np.int64).ravel().tolist())
        forms.append(variable)
    tensor.CopyFrom(min(forms, key=lambda form: form.ByteSize()))
