"""Weights stored in 16 bits, as floating point: half of the bytes for next to no accuracy, and no calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .....errors import CandidateFailure
from ....data.named import parts_of
from ....notes import Note, untold
from ..onnx_file import (
    Arrays,
    constants_to_initializers,
    copy_of,
    names_in_subgraphs,
    read_model,
    run_in_batches,
    write_model,
)
from .preparation import RUNTIME_ERRORS, STAGE
from .weight_only import prepend_nodes

FEWEST_VALUES = 64
"""Tensors of fewer values stay as they are: the node that casts one back takes as many bytes as are won."""


_SAMPLES = 8
_TOLERANCE = 1e-5
"""Share of the largest output by which outputs may differ where values beyond float16 are replaced: they are to do the
same, not nearly the same."""


def store_in_half(source: Path, destination: Path, inputs: Arrays | None = None, note: Note = untold) -> int:
    """Store the large float32 tensors of an ONNX file as float16, which the runtime casts back when it loads the file.

    The computation stays float32: kernels of 16 bits are slower than those of 32 on most processors.

    Values beyond float16, such as the lowest float32 of an attention mask, become its largest or infinite, whichever
    leaves the outputs as they are; a tensor of which neither can be said stays float32.

    Args:
        source: Float32 file.
        destination: Where the result goes; it is written whole or not at all.
        inputs: On which that is tried, shape (n, *input_shape); without them a value beyond float16 is a failure.
        note: Is told what stays float32, and why.

    Returns:
        How many tensors are stored in 16 bits.

    Raises:
        CandidateFailure: Where a weight is beyond the range of float16 and there are no inputs, or there is nothing to
            store.
    """
    model = read_model(source, STAGE)
    constants_to_initializers(model)
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | names_in_subgraphs(model)
    large = {
        tensor.name: values
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and tensor.name not in fixed
        and (values := numpy_helper.to_array(tensor)).size >= FEWEST_VALUES
    }
    halves = _halves(model, large, inputs, note)
    stored = {name: numpy_helper.from_array(values, f"{name}#half") for name, values in halves.items()}
    casts = [helper.make_node("Cast", [f"{name}#half"], [name], to=onnx.TensorProto.FLOAT) for name in stored]
    if not stored:
        few = f"{source.name} has no float32 tensor of {FEWEST_VALUES} values or more"
        raise CandidateFailure(STAGE, f"{few} that float16 could hold" if large else few)
    for index, tensor in enumerate(graph.initializer):
        if tensor.name in stored:
            graph.initializer[index].CopyFrom(stored[tensor.name])
    prepend_nodes(model, casts)
    write_model(model, destination, STAGE)
    return len(stored)


def _halves(
    model: onnx.ModelProto, large: Mapping[str, np.ndarray], inputs: Arrays | None, note: Note
) -> dict[str, np.ndarray]:
    """Return these tensors as float16, without those that stay float32."""
    with np.errstate(over="ignore"):
        halves = {name: values.astype(np.float16) for name, values in large.items()}
    limit = np.finfo(np.float16).max
    for name, values in large.items():
        beyond = np.isfinite(values) & ~np.isfinite(halves[name])  # a mask's own infinities stay what they are
        if not beyond.any():
            continue
        largest = np.abs(values[beyond]).max()
        told = f"{name} holds a weight of {largest:g}; float16 reaches to {limit:g}"
        if inputs is None:
            raise CandidateFailure(STAGE, told)
        largest_halves = np.where(beyond, np.copysign(limit, values), halves[name]).astype(np.float16)
        same = (each for each in (largest_halves, halves[name]) if _computes_the_same(model, name, each, inputs))
        if (found := next(same, None)) is None:
            note(f"{told}: it stays float32.")
            del halves[name]
        else:
            halves[name] = found
    return halves


def _computes_the_same(model: onnx.ModelProto, name: str, values: np.ndarray, inputs: Arrays) -> bool:
    """Say whether a model's outputs are the same where one tensor holds other values."""
    other = copy_of(model)
    for index, tensor in enumerate(other.graph.initializer):
        if tensor.name == name:
            other.graph.initializer[index].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    try:
        expected, found = (run_in_batches(each, inputs[:_SAMPLES], _SAMPLES) for each in (model, other))
    except RUNTIME_ERRORS:
        return False
    return all(map(_are_the_same, parts_of(found).values(), parts_of(expected).values()))


def _are_the_same(found: np.ndarray, expected: np.ndarray) -> bool:
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected.astype(np.float64)).max(initial=0.0)))
    return bool((np.abs(found.astype(np.float64) - expected) <= allowed).all())
