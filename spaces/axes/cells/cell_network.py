"""The network stacked from one cell: stem, stages of cells, reductions between them, head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .choice import CellNetwork
from .genotype import CellGenotype

STAGES = 3
SMALLEST_SIDE = 4
"""A reduction is left out where it would make the shorter side of the image shorter than this."""


def build_cell_network(choice: CellNetwork, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return the untrained network of a cell, made from the cell's normal form so that equal keys give equal networks.

    The skeleton follows NAS-Bench-201 (Dong & Yang, ICLR 2020, section 2.1). Unlike there, an operation is
    convolution, batch normalization, ReLU in this order, which folds into one operator when exported.

    Args:
        choice: The cell and how it is stacked.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.

    Raises:
        ValueError: Where the cell's output is not connected to its input, or the input is not an image.
    """
    if len(input_shape) != 3:
        raise ValueError(f"a cell network needs inputs of shape (channels, height, width), not {input_shape}")
    genotype = choice.genotype.canonical()
    if not genotype.is_connected():
        raise ValueError(f"the cell's output is not connected to its input: [{choice.genotype.text()}]")
    return stack_cells(
        lambda channels: Cell(genotype, channels), choice.channels, choice.cells_per_stage, input_shape, outputs
    )


def stack_cells(
    make_cell: Callable[[int], nn.Module],
    channels: int,
    cells_per_stage: int,
    input_shape: tuple[int, ...],
    outputs: int,
) -> nn.Module:
    """Return stem, stages of cells, reductions between them, and head.

    The cells' modules have names such as ``3.1``: the second cell of the second stage.

    Args:
        make_cell: Returns a cell of so many channels.
        channels: Channels of the first stage; each later stage doubles them.
        cells_per_stage: Cells stacked in each stage.
        input_shape: Shape of one input, (channels, height, width).
        outputs: Length of the output vector.
    """
    layers: list[nn.Module] = [_convolution(input_shape[0], channels, 3)]
    for stage in range(_stage_count(min(input_shape[1:]))):
        if stage:
            layers.append(Reduction(channels, 2 * channels))
            channels *= 2
        layers.append(nn.Sequential(*(make_cell(channels) for _ in range(cells_per_stage))))
    return nn.Sequential(*layers, Head(channels, outputs))


class Cell(nn.Module):
    """A connected cell: every node is the sum of its incoming edges.

    Args:
        genotype: The cell; its edges become the modules ``edges[0]``, ``edges[1]``, ... in their order.
        channels: Channels of every node.
    """

    def __init__(self, genotype: CellGenotype, channels: int) -> None:
        super().__init__()
        self.ends = [(source, destination) for source, destination, _ in genotype.edges]
        self.output = genotype.nodes - 1
        self.edges = nn.ModuleList(OPERATION_MODULES[operation](channels) for _, _, operation in genotype.edges)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to the same shape."""
        nodes = {0: inputs}
        # sorted edges visit every node after its predecessors, because each edge points to a higher number
        for (source, destination), operation in zip(self.ends, self.edges, strict=True):
            value = operation(nodes[source])
            nodes[destination] = nodes[destination] + value if destination in nodes else value
        return nodes[self.output]


class Reduction(nn.Module):
    """A residual block that halves height and width (He et al. 2016, figure 5, with the projection of table 3 B)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(channels, out_channels, 3, stride=2),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, out_channels, ceil(height / 2), ceil(width / 2))."""
        outputs: Tensor = self.relu(self.residual(inputs) + self.shortcut(inputs))
        return outputs


class Head(nn.Module):
    """Mean over the image, linear layer.

    NAS-Bench-201 normalizes and rectifies first. Here every term of the last sum already is, and a batch normalization
    behind a sum folds into nothing: it would stay float32 in a quantized file. On digits it brought no accuracy.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, outputs)."""
        outputs: Tensor = self.linear(torch.flatten(self.pool(inputs), 1))
        return outputs


def _convolution(channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _separable(channels: int) -> nn.Module:
    return nn.Sequential(_convolution(channels, channels, 3, groups=channels), _convolution(channels, channels, 1))


OPERATION_MODULES: dict[str, Callable[[int], nn.Module]] = {
    "skip": lambda _channels: nn.Identity(),
    "conv1x1": lambda channels: _convolution(channels, channels, 1),
    "conv3x3": lambda channels: _convolution(channels, channels, 3),
    "separable3x3": _separable,
    "avgpool3x3": lambda _channels: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
}
"""What makes each operation of a cell, from its number of channels; shapes stay as they are."""


def _stage_count(shorter_side: int) -> int:
    count = 1
    while count < STAGES and (shorter_side := (shorter_side + 1) // 2) >= SMALLEST_SIDE:
        count += 1
    return count
