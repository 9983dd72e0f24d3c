"""Tensors that an exported graph reaches through ``Identity``, reached directly."""

from __future__ import annotations

import onnx

from .onnx_file import names_in_subgraphs


def remove_identities(model: onnx.ModelProto) -> None:
    """Give every consumer of an ``Identity`` the tensor behind it, in place; names of graph outputs stay.

    The exporter keeps one of several equal initializers and reaches it through ``Identity``, which hides weights
    from a quantizer that looks for initializers.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    fixed = outputs | names_in_subgraphs(model)
    produced = {name for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            kept.append(node)
            continue
        source, target = _final_name(node.input[0], renamed), node.output[0]
        if target not in fixed:
            renamed[target] = source
        elif target in outputs and source in produced and source not in fixed:
            # The producer takes the output's name, and so does whoever else reads it.
            renamed[source] = target
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = _final_name(name, renamed)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]


def _final_name(name: str, renamed: dict[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name
