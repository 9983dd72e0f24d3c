"""The largest layers of a network: what its probes are built of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ....errors import CandidateFailure
from ...formats.onnx.multiply_adds import Shapes, multiply_adds_of, shapes_of_one_input
from ...formats.onnx.onnx_file import read_model

STAGE = "probe"


@dataclass(frozen=True)
class ProbedLayer:
    """Layers of a network that are alike.

    Args:
        channels: Channels of the output.
        kernel: Sides of a convolution's kernel; empty for a product with a matrix.
        extent: Axes of the output beside batch and channels: height and width of an image, or a count of tokens.
        groups: Groups of a convolution; as many as channels where it is depthwise.
        share: Share of the network's multiply-adds that these layers take, in (0, 1].
    """

    channels: int
    kernel: tuple[int, ...]
    extent: tuple[int, ...]
    groups: int = 1
    share: float = 1.0

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups == self.channels > 1

    def describe(self) -> str:
        """Return a text such as ``3x3 convolution, 64 channels, 7x7``."""
        extent = "x".join(map(str, self.extent))
        if not self.kernel:
            return f"linear layer, {self.channels} channels" + (f", {extent} tokens" if extent else "")
        kind = "depthwise convolution" if self.is_depthwise else "convolution"
        groups = f", {self.groups} groups" if self.groups > 1 and not self.is_depthwise else ""
        return f"{'x'.join(map(str, self.kernel))} {kind}, {self.channels} channels{groups}, {extent}"


def largest_layers(source: Path, count: int) -> tuple[ProbedLayer, ...]:
    """Return the kinds of layers that take most of a network's multiply-adds, the largest first.

    Layers of one kernel, count of channels, extent and grouping are of one kind.

    Args:
        source: Float32 ONNX file with one input.
        count: How many kinds at most.

    Raises:
        CandidateFailure: Where no layer has a shape that is known.
    """
    model = read_model(source, STAGE)
    shapes = shapes_of_one_input(model)
    sums: dict[ProbedLayer, int] = defaultdict(int)
    for layer, multiply_adds in _layers(model, shapes):
        sums[layer] += multiply_adds
    if not sums:
        raise CandidateFailure(STAGE, f"{source.name} has no layer with weights whose shapes are known")
    total = sum(sums.values())
    largest = sorted(sums.items(), key=lambda item: -item[1])[:count]
    return tuple(replace(layer, share=multiply_adds / total) for layer, multiply_adds in largest)


def _layers(model: onnx.ModelProto, shapes: Shapes) -> Iterator[tuple[ProbedLayer, int]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        multiply_adds = multiply_adds_of(node, shapes)
        if not multiply_adds or node.input[1] not in constants:
            continue
        shape = shapes[node.output[0]]
        if node.op_type != "Conv":
            yield ProbedLayer(shape[-1], (), shape[1:-1]), multiply_adds
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        yield ProbedLayer(shape[1], shapes[node.input[1]][2:], shape[2:], groups), multiply_adds
