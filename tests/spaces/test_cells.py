"""Cell networks against a direct evaluation of the graph, hand-counted parameters and the exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from karui.spaces.axes.cells.cell_network import OPERATION_MODULES, Cell, build_cell_network
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import OPERATIONS, CellGenotype
from karui.spaces.formats.onnx.export import export_onnx

CONVOLUTION = CellGenotype(2, ((0, 1, "conv3x3"),))


@st.composite
def genotypes(draw: st.DrawFn) -> CellGenotype:
    nodes = draw(st.integers(2, 5))
    pairs = [(source, end) for end in range(nodes) for source in range(end)]
    return CellGenotype(nodes, tuple((*pair, draw(st.sampled_from(OPERATIONS))) for pair in pairs))


def evaluate(genotype: CellGenotype, inputs: Tensor, functions: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Compute every node of the graph as it stands, dead or not; what nothing reaches is zero."""
    values = [inputs]
    for node in range(1, genotype.nodes):
        value = torch.zeros_like(inputs)
        reached = [edge for edge in genotype.edges if edge[1] == node and edge[2] != "none"]
        for source, _, name in reached:
            if values[source].count_nonzero():
                value = value + functions[name](values[source])
        values.append(value)
    return values[-1]


def trained_looking(module: nn.Module) -> nn.Module:
    """Give batch normalization statistics that do something."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, 0.1, 0.5)
            layer.get_buffer("running_mean").uniform_(-0.2, 0.2)
            layer.get_buffer("running_var").uniform_(0.5, 1.5)
    return module.eval()


@given(genotypes())
@settings(deadline=None, max_examples=40)
def test_cell_of_the_normal_form_computes_the_original_graph(genotype: CellGenotype) -> None:
    """Every operation is one fixed function, so both sides use the same weights whatever the edges are called."""
    if not genotype.is_connected():
        return
    torch.manual_seed(0)
    prototypes = {name: trained_looking(make(3)).double() for name, make in OPERATION_MODULES.items()}
    normal = genotype.canonical()
    cell = Cell(normal, 3).double().eval()
    for (_, _, name), edge in zip(normal.edges, cell.edges, strict=True):
        edge.load_state_dict(prototypes[name].state_dict())
    inputs = torch.rand(2, 3, 5, 5, dtype=torch.double) + 0.1
    with torch.no_grad():
        torch.testing.assert_close(cell(inputs), evaluate(genotype, inputs, prototypes))


def test_equal_keys_give_equal_networks() -> None:
    detour = CellGenotype(4, ((0, 1, "skip"), (1, 3, "conv3x3"), (0, 2, "conv1x1"), (1, 2, "none")))
    states = []
    for genotype in (detour, CONVOLUTION):
        torch.manual_seed(0)
        states.append(build_cell_network(CellNetwork(genotype, 4, 2), (1, 8, 8), 3).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("skip", 0),
        ("conv1x1", 6 * 6 + 2 * 6),
        ("conv3x3", 9 * 6 * 6 + 2 * 6),
        ("separable3x3", 9 * 6 + 2 * 6 + 6 * 6 + 2 * 6),
        ("avgpool3x3", 0),
    ],
)
def test_operation_has_the_parameters_of_its_definition(operation: str, parameters: int) -> None:
    module = OPERATION_MODULES[operation](6)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert module(torch.zeros(2, 6, 7, 5)).shape == (2, 6, 7, 5)


def test_every_operation_but_none_has_a_module() -> None:
    assert set(OPERATION_MODULES) | {"none"} == set(OPERATIONS)


def test_average_at_the_border_leaves_the_padding_out() -> None:
    pooled = OPERATION_MODULES["avgpool3x3"](1)(torch.arange(9.0).reshape(1, 1, 3, 3))
    assert pooled[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 3 + 4) / 4)
    assert pooled[0, 0, 1, 1].item() == pytest.approx(36 / 9)


def test_network_has_the_parameters_of_its_skeleton() -> None:
    """8x8 images: two stages of 4 and 8 channels. Counted by hand, batch normalization as two numbers a channel."""
    stem = 9 * 1 * 4 + 8
    cells = 2 * (9 * 4 * 4 + 8) + 2 * (9 * 8 * 8 + 16)
    reduction = (9 * 4 * 8 + 16) + (9 * 8 * 8 + 16) + (4 * 8 + 16)
    head = 8 * 3 + 3
    network = build_cell_network(CellNetwork(CONVOLUTION, 4, 2), (1, 8, 8), 3)
    assert sum(parameter.numel() for parameter in network.parameters()) == stem + cells + reduction + head


@pytest.mark.parametrize(
    ("side", "last_side", "last_channels"),
    [(4, 4, 4), (6, 6, 4), (7, 4, 8), (8, 4, 8), (12, 6, 8), (13, 4, 16), (28, 7, 16), (64, 16, 16)],
)
def test_image_is_halved_at_most_twice_and_never_below_four(side: int, last_side: int, last_channels: int) -> None:
    network = build_cell_network(CellNetwork(CONVOLUTION, 4, 1), (2, side, side + 3), 5).eval()
    seen: list[torch.Size] = []
    for layer in network.modules():
        if isinstance(layer, Cell):
            layer.register_forward_hook(lambda _layer, _inputs, outputs: seen.append(outputs.shape))
    assert network(torch.zeros(2, 2, side, side + 3)).shape == (2, 5)
    assert seen[-1][1:3] == (last_channels, last_side)


def test_export_holds_only_plain_operators(tmp_path: Path) -> None:
    """Batch normalization is folded, and nothing is computed from shapes."""
    edges = tuple((0, 1, name) for name in OPERATIONS if name != "none")
    network = build_cell_network(CellNetwork(CellGenotype(2, edges), 4, 1), (1, 8, 8), 3)
    path = tmp_path / "cell.onnx"
    export_onnx(trained_looking(network), torch.rand(2, 1, 8, 8), path)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators == {"Conv", "Relu", "Add", "AveragePool", "GlobalAveragePool", "Flatten", "Gemm"}


@pytest.mark.parametrize("edges", [(), ((0, 1, "none"),), ((1, 2, "skip"),), ((0, 1, "conv3x3"),)])
def test_unconnected_cell_is_refused(edges: tuple[tuple[int, int, str], ...]) -> None:
    with pytest.raises(ValueError, match="not connected to its input"):
        build_cell_network(CellNetwork(CellGenotype(3, edges), 4, 1), (1, 8, 8), 3)


@pytest.mark.parametrize("shape", [(8,), (8, 8), (1, 8, 8, 8)])
def test_input_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\)"):
        build_cell_network(CellNetwork(CONVOLUTION, 4, 1), shape, 3)
