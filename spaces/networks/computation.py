"""What a network computes, read off a run of it: whatever its forward reads, and wherever that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data.named import Named
from .code_digest import Description
from .code_state import array_digest
from .quiet import quiet
from .running import copy_network


def describe_computation(network: nn.Module, example: Any) -> Description:
    """Tell which operations a network runs, in evaluation and in training mode, on which constants.

    Parameters and buffers are told by their names. What depends on the values of inputs is told as this run shows it;
    random numbers are drawn from the global generators.

    Args:
        network: Left as it is: a copy is run.
        example: A batch of inputs, shape (n, *input_shape); n >= 2, since normalization in training wants so many.
    """
    told = []
    for training in (False, True):
        try:
            told.append(_trace(network, example, training))
        except Exception as error:  # a user's forward may raise anything, and not every network can be traced
            mode = "training" if training else "evaluation"
            return Description("untraced", (f"the network in {mode} ({type(error).__name__})",))
    return Description(" ".join(told))


def _trace(network: nn.Module, example: Any, training: bool) -> str:
    module = copy_network(network).cpu().train(training)
    copied = example.detach().clone()
    given = copied.tensors if isinstance(copied, Named) else copied
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(module, given, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    digest = hashlib.sha256()
    for line in _lines(traced.inlined_graph, {}):
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _lines(block: Any, names: dict[str, int]) -> Iterator[str]:
    """Yield a line for each node of a graph or block; values are numbered in the order in which they come up."""

    def number(value: Any) -> int:
        return names.setdefault(value.debugName(), len(names))

    yield f"inputs {[number(value) for value in block.inputs()]}\n"
    for node in block.nodes():
        attributes = [f"{name}={_attribute(node, name)}" for name in sorted(node.attributeNames())]
        read, written = ([number(value) for value in values] for values in (node.inputs(), node.outputs()))
        yield f"{node.kind()} {attributes} {read} -> {written}\n"
        for inner in node.blocks():
            yield from _lines(inner, names)
    yield f"outputs {[number(value) for value in block.outputs()]}\n"


def _attribute(node: Any, name: str) -> str:
    kind = node.kindOf(name)
    value = getattr(node, kind)(name)
    if isinstance(value, Tensor):
        return array_digest(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return str([array_digest(item) for item in value])
    return repr(value)
