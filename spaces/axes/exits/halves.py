"""The two halves of a graph, each a model that can be packed and run by itself."""

from __future__ import annotations

import onnx
from onnx import helper

from ...formats.onnx.multiply_adds import shapes_of_one_input
from ...formats.onnx.onnx_file import copy_of, drop_unread_initializers
from .cut import Cut


def split(model: onnx.ModelProto, cut: Cut) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return what comes before the cut and what comes behind it, the batch axis as free as it was.

    The first model's output and the second model's input are the tensor of the cut. Constants that both read are in
    both.

    Args:
        model: The whole graph, as for :func:`~karui.spaces.axes.exits.cut.find_cuts`.
        cut: One of its cuts.

    Raises:
        ValueError: Where the cut is not of this model.
    """
    shape = shapes_of_one_input(model).get(cut.tensor)
    if shape is None or all(cut.tensor not in node.output for node in model.graph.node):
        raise ValueError(f"cut: a tensor that the model computes expected, got {cut.tensor!r}")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    first_axis = batch.dim_value if batch.HasField("dim_value") else batch.dim_param or "batch"
    boundary = helper.make_tensor_value_info(cut.tensor, _kind(model, cut.tensor), [first_axis, *shape[1:]])
    first = _part(model, model.graph.input[0], boundary)
    second = _part(model, boundary, model.graph.output[0])
    return first, second


def _part(model: onnx.ModelProto, start: onnx.ValueInfoProto, end: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Return the model of the nodes that ``end`` needs where ``start`` is given."""
    part = copy_of(model)
    graph = part.graph
    for values, value in ((graph.input, start), (graph.output, end)):
        del values[:]
        values.append(value)
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    needed = {end.name}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output) and start.name not in node.output:
            needed.update(name for name in node.input if name)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    drop_unread_initializers(part)
    return part


def _kind(model: onnx.ModelProto, name: str) -> int:
    """Return the type of the elements of a tensor that the model computes."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    kinds: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds[name]
