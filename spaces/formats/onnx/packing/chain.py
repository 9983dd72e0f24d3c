"""Nodes and initializers under construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OLDEST_OPSET = 13
"""The first set of operators whose ``Split`` and ``Cast`` are those that the nodes are written for."""

FIRST_BITWISE_OPSET = 18
"""The first set of operators with ``BitwiseAnd`` and ``BitwiseOr``."""


@dataclass
class Chain:
    """Nodes and initializers under construction; their names begin with ``prefix``, which nothing else may use.

    Args:
        prefix: What every name begins with.
        opset: Version of the set of operators that the nodes will run in, ``OLDEST_OPSET`` or newer.
    """

    prefix: str
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    names: int = 0

    @property
    def bitwise(self) -> bool:
        """Whether the set of operators has those that work on the bits of integers."""
        return self.opset >= FIRST_BITWISE_OPSET

    def fresh_name(self) -> str:
        """Return a name that was not given before."""
        self.names += 1
        return f"{self.prefix}{self.names}"

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        output = output or self.fresh_name()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Append an initializer and return its name; equal ones are merged when the file is stripped."""
        name = self.fresh_name()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, name: str, *shape: int, output: str | None = None) -> str:
        """Append a node that gives a tensor another shape, and return the output's name."""
        return self.add("Reshape", name, self.constant(np.array(shape, dtype=np.int64)), output=output)
