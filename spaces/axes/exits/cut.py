"""Where an ONNX graph can be cut in two: the tensors that every path from the input to the output passes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ....errors import CandidateFailure
from ...formats.onnx.multiply_adds import Shapes, multiply_adds_of, shapes_of_one_input
from ...formats.onnx.onnx_file import names_in_subgraphs

STAGE = "exit"

_IMAGE_AXES = 4


@dataclass(frozen=True)
class Cut:
    """One tensor at which a graph falls into two halves.

    Args:
        tensor: Name of the tensor; in a graph with 8-bit activations, the integers themselves.
        share: Fraction of the graph's multiply-adds that come before it, in (0, 1).
    """

    tensor: str
    share: float


def one_tensor_cuts(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the computed tensors that every path from the input to the output passes, in the order of the graph.

    Args:
        model: One input, one output, no control flow.

    Raises:
        CandidateFailure: Where the model has several inputs or outputs, control flow, or functions of its own.
    """
    _check(model)
    nodes = _nodes_on_paths(model)
    last_read = {name: index for index, node in enumerate(nodes) for name in node.input if name}
    last_read[model.graph.output[0].name] = len(nodes)
    cuts: list[str] = []
    live = {model.graph.input[0].name}
    for index, node in enumerate(nodes):
        live = {name for name in {*live, *node.output} if last_read.get(name, -1) > index}
        # All that comes before a tensor on every path is done when it is made, and nothing behind it has begun.
        if len(live) == 1:
            cuts += live
    return tuple(cuts)


def find_cuts(model: onnx.ModelProto) -> tuple[Cut, ...]:
    """Return the cuts at activations of four axes, in the order of the graph, one per share of multiply-adds.

    Of the tensors between two layers the last is taken: activation functions and pooling are done then, and fused with
    the layer before. Beside 8-bit activations the cut lies between ``QuantizeLinear`` and ``DequantizeLinear``: the
    layer before needs the one, the layer behind the other to run in int8.

    Args:
        model: One input whose first axis is the batch, one output, no control flow; float32 or quantized, not packed.

    Raises:
        CandidateFailure: Where the model has several inputs or outputs, control flow, or shapes that are not known.
    """
    names = set(one_tensor_cuts(model))
    nodes = _nodes_on_paths(model)
    shapes = shapes_of_one_input(model)
    counts = [_multiply_adds(node, shapes) for node in nodes]
    total, before = sum(counts), 0
    last: dict[int, str] = {}
    for node, count in zip(nodes, counts, strict=True):
        before += count
        for name in names.intersection(node.output):
            images = len(shapes.get(name, ())) == _IMAGE_AXES
            if images and node.op_type != "DequantizeLinear" and 0 < before < total:
                last[before] = name
    return tuple(Cut(name, done / total) for done, name in last.items())


def nearest_cut(model: onnx.ModelProto, depth: float) -> Cut:
    """Return the cut before which the share of the multiply-adds is nearest to ``depth``.

    Args:
        model: As for :func:`find_cuts`.
        depth: Share that is aimed at, in (0, 1); of two cuts equally near, the earlier is taken.

    Raises:
        CandidateFailure: Where there is no cut, or as :func:`find_cuts` does.
        ValueError: Where the depth has no meaning.
    """
    if not 0 < depth < 1:
        raise ValueError(f"depth: a share in (0, 1) expected, got {depth!r}")
    cuts = find_cuts(model)
    if not cuts:
        raise CandidateFailure(STAGE, "no activation of four axes lies on every path from the input to the output")
    return min(cuts, key=lambda cut: abs(cut.share - depth))


def _check(model: onnx.ModelProto) -> None:
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        found = f"{len(graph.input)} inputs and {len(graph.output)} outputs"
        raise CandidateFailure(STAGE, f"a graph of one input and one output can be cut, this one has {found}")
    if names_in_subgraphs(model) or model.functions:
        raise CandidateFailure(STAGE, "a graph with control flow (If, Loop, Scan) or functions cannot be cut")


def _nodes_on_paths(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes between input and output, without those that compute constants or what nothing reads."""
    reached = {model.graph.input[0].name}
    forward = []
    for node in model.graph.node:
        if reached.intersection(node.input):
            reached.update(name for name in node.output if name)
            forward.append(node)
    needed = {model.graph.output[0].name}
    kept = []
    for node in reversed(forward):
        if needed.intersection(node.output):
            needed.update(name for name in node.input if name)
            kept.append(node)
    return kept[::-1]


def _multiply_adds(node: onnx.NodeProto, shapes: Shapes) -> int:
    count = multiply_adds_of(node, shapes)
    if count is None:
        raise CandidateFailure(STAGE, f"the shapes of {node.op_type} {node.name!r} are not known")
    return count
