"""A float32 network whose activations are rounded on demand, to see what grids do without making a file for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from ....data.named import feeds_of
from ....rounding.learned import ActivationGrid
from ..onnx_file import Arrays, copy_of, open_session


class EmulatedRounding:
    """Runs a network with some of its tensors rounded, as the runtime's int8 kernels do but for the last bit.

    Args:
        network: The float32 network with its rounded weights.
        names: The tensors that may be rounded.
    """

    def __init__(self, network: onnx.ModelProto, names: Collection[str]) -> None:
        self._fed, self._names = [value.name for value in network.graph.input], tuple(names)
        self._session = open_session(_with_switches(network, set(names)))
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Arrays, grids: Mapping[str, ActivationGrid]) -> list[np.ndarray]:
        """Return the network's outputs where the tensors that have a grid are rounded to it.

        Args:
            inputs: Shape (n, *input_shape).
            grids: By tensor name; the others stay as they are.
        """
        feeds = dict(feeds_of(self._fed, inputs))
        for name in self._names:
            grid = grids.get(name, ActivationGrid(1.0, 0))
            feeds[f"{name}#rounded"] = np.array(name in grids)
            feeds[f"{name}#scale"] = np.array(grid.scale, np.float32)
            feeds[f"{name}#zero"] = np.array(grid.zero_point, np.uint8)
        return [np.asarray(each) for each in self._session.run(list(self.outputs), feeds)]


def _with_switches(network: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return the network with three more inputs for each tensor: whether it is rounded, and its grid."""
    changed = copy_of(network)
    del changed.graph.node[:], changed.graph.value_info[:]
    fed = {value.name for value in network.graph.input}
    for name in fed & names:
        _round(changed, name, name, f"{name}#chosen")
    for node in network.graph.node:
        copied = changed.graph.node.add()
        copied.CopyFrom(node)
        for place, name in enumerate(copied.input):
            if name in names and name in fed:
                copied.input[place] = f"{name}#chosen"
        rounded = [name for name in node.output if name in names]
        for place, name in enumerate(node.output):
            if name in names:
                copied.output[place] = f"{name}#float"
        for name in rounded:
            _round(changed, name, f"{name}#float", name)
    return changed


def _round(model: onnx.ModelProto, name: str, source: str, target: str) -> None:
    for what, kind in (
        ("rounded", onnx.TensorProto.BOOL),
        ("scale", onnx.TensorProto.FLOAT),
        ("zero", onnx.TensorProto.UINT8),
    ):
        model.graph.input.append(helper.make_tensor_value_info(f"{name}#{what}", kind, []))
    grid = [f"{name}#scale", f"{name}#zero"]
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [source, *grid], [f"{name}#integers"]),
            helper.make_node("DequantizeLinear", [f"{name}#integers", *grid], [f"{name}#near"]),
            helper.make_node("Where", [f"{name}#rounded", f"{name}#near", source], [target]),
        ]
    )
