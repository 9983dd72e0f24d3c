"""Weights stored in 16 bits, as floating point: half of the bytes for next to no accuracy, and no calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...errors import CandidateFailure
from ..onnx_file import constants_to_initializers, names_in_subgraphs, read_model, write_model
from .preparation import STAGE
from .weight_only import prepend_nodes

FEWEST_VALUES = 64
"""Tensors of fewer values stay as they are: the node that casts one back takes as many bytes as are won."""


def store_in_half(source: Path, destination: Path) -> int:
    """Store the large float32 tensors of an ONNX file as float16, which the runtime casts back when it loads the file.

    The computation stays float32: kernels of 16 bits are slower than those of 32 on most processors.

    Args:
        source: Float32 file.
        destination: Where the result goes; it is written whole or not at all.

    Returns:
        How many tensors are stored in 16 bits.

    Raises:
        CandidateFailure: Where a weight is beyond the range of float16, or there is none to store.
    """
    model = read_model(source, STAGE)
    constants_to_initializers(model)
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | names_in_subgraphs(model)
    casts, stored = [], {}
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in fixed:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < FEWEST_VALUES:
            continue
        stored[tensor.name] = numpy_helper.from_array(_halved(values, tensor.name), f"{tensor.name}#half")
        casts.append(helper.make_node("Cast", [f"{tensor.name}#half"], [tensor.name], to=onnx.TensorProto.FLOAT))
    if not stored:
        raise CandidateFailure(STAGE, f"{source.name} has no float32 tensor of {FEWEST_VALUES} values or more")
    for index, tensor in enumerate(graph.initializer):
        if tensor.name in stored:
            graph.initializer[index].CopyFrom(stored[tensor.name])
    prepend_nodes(model, casts)
    write_model(model, destination, STAGE)
    return len(stored)


def _halved(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    beyond = np.isfinite(values) & ~np.isfinite(half)  # an attention mask's own infinities stay what they are
    if beyond.any():
        largest = np.abs(values[beyond]).max()
        limit = np.finfo(np.float16).max
        raise CandidateFailure(STAGE, f"{name} holds a weight of {largest:g}; float16 reaches to {limit:g}")
    return half
