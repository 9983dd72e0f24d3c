"""Operators that torch's exporter does not know, in terms of those that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.onnx import symbolic_helper


def register_symbolics(opset: int) -> None:
    """Teach torch's exporter these operators, for the whole process."""
    torch.onnx.register_custom_op_symbolic("aten::rms_norm", _rms_norm, opset)  # type: ignore[attr-defined]
    torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, opset)  # type: ignore[attr-defined]


def _transposed(graph: Any, values: Any) -> Any:
    """Swap the last two axes, as ``values.mT`` does."""
    rank = symbolic_helper._get_tensor_rank(values)
    if rank is None:
        return symbolic_helper._unimplemented("aten::mT", "of a tensor of unknown rank", values)
    return graph.op("Transpose", values, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _rms_norm(graph: Any, values: Any, shape: Any, weight: Any, epsilon: Any) -> Any:
    """Divide by the root of the mean square over the last axes (Zhang and Sennrich, NeurIPS 2019, section 4)."""
    sizes: Sequence[int] = symbolic_helper._get_const(shape, "is", "normalized_shape")  # type: ignore[no-untyped-call]
    added = symbolic_helper._get_const(epsilon, "f", "eps")  # type: ignore[no-untyped-call]
    if added is None:
        added = torch.finfo(torch.float32).eps
    axes = graph.op("Constant", value_t=torch.arange(-len(sizes), 0))
    square = graph.op("ReduceMean", graph.op("Mul", values, values), axes, keepdims_i=1)
    steady = graph.op("Add", square, graph.op("Constant", value_t=torch.tensor(added)))
    normalized = graph.op("Div", values, graph.op("Sqrt", steady))
    return normalized if symbolic_helper._is_none(weight) else graph.op("Mul", normalized, weight)
