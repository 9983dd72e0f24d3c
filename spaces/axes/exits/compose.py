"""Two halves of a network and an exit head between them, in one file that decides for each input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...formats.onnx.onnx_file import names_in_subgraphs
from ...formats.onnx.packing.chain import Chain
from .head import ExitHead


def with_exit(first: onnx.ModelProto, second: onnx.ModelProto, head: ExitHead, threshold: float) -> onnx.ModelProto:
    """Return the model that runs the second half only where the head is not sure (BranchyNet, ICPR 2016).

    The file takes one input at a time: its batch axis is 1. Where the head's largest probability is above the
    threshold, its logits are the output; otherwise the second half computes it from the tensor at the cut. The second
    half lies in a branch of ``If`` with all of its constants: ONNX Runtime folds what unpacks them there, too.

    Args:
        first: Computes the tensor at the cut, shape (batch, channels, height, width), of any type; packed or not.
        second: Goes on from that tensor; packed or not.
        head: Reads the tensor's channel means.
        threshold: Confidence above which the exit is taken; 0 takes it always, 1 or more never.

    Raises:
        ValueError: Where the halves do not fit together, or the threshold has no meaning.
    """
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: a number of 0 or more expected, got {threshold!r}")
    _check_halves(first, second, head)
    prefix, output = _unused_prefix(first.graph, second.graph), second.graph.output[0].name
    own = 2 * prefix
    main = onnx.ModelProto()
    main.CopyFrom(first)
    main.ir_version = max(first.ir_version, second.ir_version)
    # The first half does not know what the output is called.
    _rename(main.graph, lambda name: own + name if name == output else name)
    cut = main.graph.output[0].name
    rest = _branch(second.graph, cut, prefix)
    chain = Chain(own, next(entry.version for entry in first.opset_import if entry.domain == ""))
    logits, sure = _decide(chain, cut, first.graph.output[0].type.tensor_type.elem_type, head, threshold)
    early = helper.make_graph([helper.make_node("Identity", [logits], [f"{own}out"])], "exit", [], [rest.output[0]])
    early.output[0].name = f"{own}out"
    chain.add("If", sure, output=output, then_branch=early, else_branch=rest)
    main.graph.node.extend(chain.nodes)
    main.graph.initializer.extend(chain.initializers)
    main.graph.output[0].CopyFrom(rest.output[0])
    main.graph.output[0].name = output
    main.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(main)
    return main


def _check_halves(first: onnx.ModelProto, second: onnx.ModelProto, head: ExitHead) -> None:
    for half in (first, second):
        if len(half.graph.input) != 1 or len(half.graph.output) != 1 or names_in_subgraphs(half) or half.functions:
            raise ValueError("a half: one input, one output, no control flow and no functions expected")
    given, taken = first.graph.output[0].type.tensor_type, second.graph.input[0].type.tensor_type
    shapes = [[axis.dim_value for axis in kind.shape.dim][1:] for kind in (given, taken)]
    if given.elem_type != taken.elem_type or shapes[0] != shapes[1]:
        raise ValueError(f"the second half takes {shapes[1]}, the first gives {shapes[0]}, or their types differ")
    if len(shapes[0]) != 3 or shapes[0][0] != head.weights.shape[1]:
        raise ValueError(f"the head takes {head.weights.shape[1]} channels, the first half gives {shapes[0]}")
    domains = [{entry.domain: entry.version for entry in half.opset_import} for half in (first, second)]
    if domains[0] != domains[1]:
        raise ValueError(f"the halves are of different sets of operators: {domains[0]} and {domains[1]}")


def _branch(graph: onnx.GraphProto, cut: str, prefix: str) -> onnx.GraphProto:
    """Return the second half as a branch: it reads the tensor at the cut from around it; other names are its own."""
    branch = onnx.GraphProto()
    branch.CopyFrom(graph)
    start = graph.input[0].name
    _rename(branch, lambda name: cut if name == start else prefix + name)
    del branch.input[:]
    branch.name = "rest"
    branch.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    return branch


def _decide(chain: Chain, cut: str, kind: int, head: ExitHead, threshold: float) -> tuple[str, str]:
    """Add the head; return the names of its logits, shape (1, classes), and of whether it is sure, one truth value."""
    images = cut if kind == TensorProto.FLOAT else chain.add("Cast", cut, to=TensorProto.FLOAT)
    features = chain.add("Flatten", chain.add("GlobalAveragePool", images))
    weights, biases = chain.constant(head.weights), chain.constant(head.biases)
    logits = chain.add("Gemm", features, weights, biases, transB=1)
    confidence = chain.add("ReduceMax", chain.add("Softmax", logits, axis=-1), keepdims=0)
    return logits, chain.add("Greater", confidence, chain.constant(np.array(threshold, dtype=np.float32)))


def _rename(graph: onnx.GraphProto, new_name: Callable[[str], str]) -> None:
    """Give all tensors of a graph other names, in place; what describes them by their old names goes."""
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new_name(value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = new_name(name) if name else ""


def _unused_prefix(*graphs: onnx.GraphProto) -> str:
    names = {value.name for graph in graphs for value in (*graph.input, *graph.output, *graph.initializer)}
    names.update(name for graph in graphs for node in graph.node for name in (*node.input, *node.output))
    prefix = "_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
