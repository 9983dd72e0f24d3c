"""The supernet of cells against extracted networks, a twin built by hand, and all graphs of four nodes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from karui.errors import OutputError
from karui.spaces.axes.axis import Draw
from karui.spaces.axes.cells.axis import BY_COST, CellsAxis
from karui.spaces.axes.cells.cell_network import OPERATION_MODULES
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import OPERATIONS, CellGenotype
from karui.spaces.axes.cells.shared_cells import CellNetworks, most_parallel_edges, places_of
from karui.spaces.axes.supernet.supernet_training import train_supernet
from karui.spaces.axes.supernet.weights import Supernet, load_supernet, save_supernet
from karui.spaces.task import Task
from karui.spaces.training.batch_statistics import reestimate_normalization
from karui.spaces.training.recovery import TrainingSettings, metric_of

from .supernets import made_up_supernet, run

SHAPE = (1, 8, 8)
AXIS = CellsAxis(nodes=4, channels=(2, 4), cells_per_stage=(1, 2))
NETWORKS = CellNetworks(AXIS, SHAPE, 3)
TINY = CellsAxis(nodes=3, operations=("none", "skip", "conv1x1", "conv3x3"), channels=(4,), cells_per_stage=(1,))
TINY_NETWORKS = CellNetworks(TINY, SHAPE, 3)
QUICK = TrainingSettings(epochs=1, batch_size=32, learning_rate=2e-2, device="cpu")
PAIRS = [(source, end) for end in range(1, 4) for source in range(end)]

operations = st.tuples(*(st.sampled_from(OPERATIONS) for _ in PAIRS))
cells = operations.map(lambda chosen: cell_of(PAIRS, chosen)).filter(CellGenotype.is_connected)
choices = st.builds(CellNetwork, cells, st.sampled_from(AXIS.channels), st.sampled_from(AXIS.cells_per_stage))


def cell_of(pairs: Sequence[tuple[int, int]], chosen: Sequence[str]) -> CellGenotype:
    edges = tuple((*pair, operation) for pair, operation in zip(pairs, chosen, strict=True))
    return CellGenotype(max(end for _, end in pairs) + 1, edges)


def make_supernet() -> Supernet[CellNetwork]:
    return made_up_supernet(NETWORKS)


@lru_cache(maxsize=1)
def shared_supernet() -> Supernet[CellNetwork]:
    """One that examples share, for tests that leave its weights alone."""
    return make_supernet()


def images(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@given(choices)
@settings(deadline=None, max_examples=25)
def test_extracted_network_computes_exactly_what_the_supernet_does(choice: CellNetwork) -> None:
    network = shared_supernet().extract(choice)
    with torch.no_grad():
        assert torch.equal(run(shared_supernet(), choice, images(5)), network(images(5)))


@given(choices)
@settings(deadline=None, max_examples=10)
def test_so_it_does_after_estimating_normalization_anew(choice: CellNetwork) -> None:
    supernet = make_supernet()
    network = supernet.extract(choice)
    before = run(supernet, choice, images(5))
    for module in (supernet, network):
        reestimate_normalization(module, [images(16, seed) for seed in (5, 6)])
    with torch.no_grad():
        after = supernet(images(5))
        assert torch.equal(after, network(images(5)))
    assert not torch.equal(after, before)


@given(choices)
@settings(deadline=None, max_examples=10)
def test_a_graph_and_its_normal_form_inherit_the_same(choice: CellNetwork) -> None:
    normal = replace(choice, genotype=choice.genotype.canonical())
    states = [shared_supernet().extract(each).state_dict() for each in (choice, normal)]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Twin:
    """A network of one cell a stage, computed from the supernet's tensors by their names."""

    def __init__(self, supernet: Supernet[CellNetwork], channels: int) -> None:
        self._state = supernet.shared.state_dict()
        self._channels = channels

    def _layer(self, inputs: Tensor, convolution: str, normalization: str, out: int, **options: Any) -> Tensor:
        weight = self._state[f"{convolution}.weight"]
        weight = weight[:out] if "groups" in options else weight[:out, : inputs.shape[1]]
        values = functional.conv2d(inputs, weight, padding=weight.shape[-1] // 2, **options)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (
            self._state[f"{normalization}.{name}"][:out].reshape(1, -1, 1, 1) for name in names
        )
        outputs: Tensor = (values - mean) / torch.sqrt(variance + 1e-5) * scale + shift
        return outputs

    def _block(self, inputs: Tensor, place: str, **options: Any) -> Tensor:
        outputs: Tensor = self._layer(inputs, f"{place}.0", f"{place}.1", inputs.shape[1], **options).relu()
        return outputs

    def _cell(self, inputs: Tensor, layer: int) -> Tensor:
        """The cell 0-conv3x3-1, 0-skip-2, 1-separable3x3-2, 1-conv1x1-3, 2-avgpool3x3-3 of four nodes.

        Its node 2 is the sum of two edges, its output too.
        """
        edges = f"{layer}.0.edges"
        first = self._block(inputs, f"{edges}.0-conv3x3-1-0")
        deep = self._block(first, f"{edges}.1-separable3x3-2-0.0", groups=first.shape[1])
        second = inputs + self._block(deep, f"{edges}.1-separable3x3-2-0.1")
        pooled = functional.avg_pool2d(second, 3, stride=1, padding=1, count_include_pad=False)
        return self._block(first, f"{edges}.1-conv1x1-output-0") + pooled

    def __call__(self, inputs: Tensor) -> Tensor:
        stem = self._layer(inputs, "0.0", "0.1", self._channels).relu()
        inner, wide = self._cell(stem, 1), 2 * self._channels
        residual = self._layer(inner, "2.residual.0.0", "2.residual.0.1", wide, stride=2).relu()
        residual = self._layer(residual, "2.residual.1", "2.residual.2", wide)
        shortcut = self._layer(inner, "2.shortcut.0", "2.shortcut.1", wide, stride=2)
        last = self._cell((residual + shortcut).relu(), 3).mean(dim=(2, 3))
        return functional.linear(last, self._state["4.linear.weight"][:, :wide], self._state["4.linear.bias"])


@pytest.mark.parametrize("channels", AXIS.channels)
def test_networks_are_the_leading_channels_of_the_operations_at_their_places(channels: int) -> None:
    chosen = ("conv3x3", "skip", "separable3x3", "none", "conv1x1", "avgpool3x3")
    choice = CellNetwork(cell_of(PAIRS, chosen), channels, 1)
    found = run(shared_supernet(), choice, images(4))
    torch.testing.assert_close(found, Twin(shared_supernet(), channels)(images(4)), rtol=1e-4, atol=1e-5)


def test_more_cells_a_stage_keep_those_of_fewer() -> None:
    supernet = shared_supernet()
    one, two = (supernet.extract(replace(AXIS.largest(), cells_per_stage=count)).state_dict() for count in (1, 2))
    assert set(one) < set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(two["1.0.edges.0.0.weight"], two["1.1.edges.0.0.weight"])


def test_equal_operations_between_the_same_nodes_have_weights_of_their_own() -> None:
    """Both inner nodes copy the input; were the weights one, recovery could never tell the three edges apart."""
    chosen = ("skip", "skip", "none", "conv3x3", "conv3x3", "conv3x3")
    network = shared_supernet().extract(CellNetwork(cell_of(PAIRS, chosen), 4, 1))
    weights = [network.get_parameter(f"1.0.edges.{number}.0.weight") for number in range(3)]
    shared = shared_supernet().shared
    for number, weight in enumerate(weights):
        assert torch.equal(weight, shared.get_parameter(f"1.0.edges.0-conv3x3-output-{number}.0.weight"))
    assert not torch.equal(weights[0], weights[1])


def test_a_shared_weight_changes_every_network_that_has_it_and_no_other() -> None:
    supernet = make_supernet()
    with_three = AXIS.largest()
    with_one = replace(with_three, genotype=cell_of(PAIRS, ("conv1x1",) * 6))
    networks = (with_three, replace(with_three, cells_per_stage=1), with_one)
    before = [run(supernet, choice, images(4)) for choice in networks]
    with torch.no_grad():
        supernet.shared.get_parameter("1.0.edges.1-conv3x3-2-0.0.weight").add_(0.5)
    changed = [
        not torch.equal(run(supernet, choice, images(4)), old) for choice, old in zip(networks, before, strict=True)
    ]
    assert changed == [True, True, False]


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_every_normal_form_finds_its_places_and_the_bound_is_reached(nodes: int) -> None:
    """All graphs over two operations and none: no edge lies beyond the bound, and every bound is some graph's."""
    pairs = [(source, end) for end in range(1, nodes) for source in range(end)]
    most: Counter[tuple[int, int | None]] = Counter()
    for chosen in product(("none", "skip", "conv3x3"), repeat=len(pairs)):
        normal = cell_of(pairs, chosen).canonical()
        counts = Counter((source, end, name) for source, end, name in normal.edges if name == "conv3x3")
        for (source, end, _), count in counts.items():
            key = (source, None if end == normal.nodes - 1 else end)
            most[key] = max(most[key], count)
    inner = {(source, end) for source in range(nodes) for end in range(source + 1, nodes - 1)}
    expected = {*inner, *((source, None) for source in range(nodes - 1))}
    assert dict(most) == {ends: most_parallel_edges(*ends, nodes) for ends in expected}


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_cells_of_up_to_seven_nodes_fit(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(2, 7))
    pairs = [(source, end) for end in range(1, nodes) for source in range(end)]
    genotype = cell_of(pairs, [data.draw(st.sampled_from(["none", "skip", "conv1x1"])) for _ in pairs])
    assume(genotype.is_connected())
    counts = Counter(place.rpartition("-")[0] for place in places_of(genotype.canonical()))
    for place, count in counts.items():
        source, operation, end = place.split("-")
        if operation == "conv1x1":
            assert count <= most_parallel_edges(int(source), None if end == "output" else int(end), nodes)


def test_the_largest_network_is_the_dearest_and_the_smallest_the_cheapest() -> None:
    counted = {
        choice: sum(parameter.numel() for parameter in NETWORKS.build(choice).parameters())
        for choice in (NETWORKS.draw(Draw(Random(seed))) for seed in range(60))
    }
    ends = [
        sum(parameter.numel() for parameter in NETWORKS.build(end()).parameters())
        for end in (NETWORKS.smallest, NETWORKS.largest)
    ]
    assert ends[0] == min(ends[0], *counted.values())
    assert ends[1] == max(ends[1], *counted.values())
    assert NETWORKS.smallest().genotype.canonical() == CellGenotype(2, ((0, 1, "skip"),))
    assert {name for *_, name in NETWORKS.largest().genotype.edges} == {"conv3x3"}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (("conv3x3", "none"), "0-none-1 0-conv3x3-2 1-none-2"),
        (("conv1x1", "separable3x3"), "0-conv1x1-1 0-conv1x1-2 1-conv1x1-2"),
        (("avgpool3x3", "none", "conv1x1"), "0-none-1 0-avgpool3x3-2 1-none-2"),
    ],
)
def test_the_smallest_network_is_connected_whatever_the_operations(chosen: tuple[Any, ...], expected: str) -> None:
    smallest = CellsAxis(nodes=3, operations=chosen).smallest()
    assert smallest.genotype.text() == expected
    assert smallest.genotype.is_connected()


def test_operations_stand_in_the_order_of_their_weights() -> None:
    weights = {name: sum(each.numel() for each in make(16).parameters()) for name, make in OPERATION_MODULES.items()}
    ordered = [weights[name] for name in BY_COST if name != "none"]
    assert ordered == sorted(ordered)
    assert set(BY_COST) == set(OPERATIONS)


def test_networks_are_drawn_from_the_axis_and_connected() -> None:
    """Over none and skip on two nodes, half of the graphs have no path."""
    networks = CellNetworks(CellsAxis(nodes=2, operations=("none", "skip"), channels=(2, 4)), SHAPE, 3)
    draw = Draw(Random(0))
    drawn = [networks.draw(draw) for _ in range(40)]
    assert {choice.genotype.edges for choice in drawn} == {((0, 1, "skip"),)}
    assert {(choice.channels, choice.cells_per_stage) for choice in drawn} == set(product((2, 4), (1, 2)))


@pytest.mark.parametrize(
    "choice",
    [
        replace(AXIS.largest(), channels=8),
        replace(AXIS.largest(), cells_per_stage=3),
        replace(AXIS.largest(), genotype=CellGenotype(5, tuple((node, node + 1, "conv3x3") for node in range(4)))),
    ],
)
def test_network_that_does_not_fit_is_refused(choice: CellNetwork) -> None:
    with pytest.raises(ValueError, match=r"^cell .* does not fit into the supernet of cell 4ch x2 .*: no weights for "):
        shared_supernet().extract(choice)


def test_operation_that_the_axis_has_not_is_refused() -> None:
    supernet = Supernet(TINY_NETWORKS)
    with pytest.raises(ValueError, match=r"no weights for 1\.0\.edges\.0-separable3x3-output-0"):
        supernet.extract(CellNetwork(CellGenotype(2, ((0, 1, "separable3x3"),)), 4, 1))


def test_training_mode_updates_the_statistics_of_what_ran_and_nothing_else() -> None:
    supernet = make_supernet()
    before = copy.deepcopy(supernet.shared.state_dict())
    supernet.train()
    run(supernet, CellNetwork(CellGenotype(2, ((0, 1, "conv1x1"),)), 2, 1), images(8))
    after = supernet.shared.state_dict()
    moved = {name for name in after if "running_mean" in name and not torch.equal(after[name], before[name])}
    cells = {f"{layer}.0.edges.0-conv1x1-output-0.1.running_mean" for layer in (1, 3)}
    reduction = {f"2.{part}.running_mean" for part in ("residual.0.1", "residual.2", "shortcut.1")}
    assert moved == {"0.1.running_mean", *cells, *reduction}
    name = "1.0.edges.0-conv1x1-output-0.1.running_mean"
    assert torch.equal(after[name][2:], before[name][2:])


def test_training_repeats_under_its_seed_and_leaves_the_callers_random_numbers(tiny_task: Task) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    states = [train_supernet(TINY_NETWORKS, tiny_task, QUICK).state_dict()]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    states.append(train_supernet(TINY_NETWORKS, tiny_task, QUICK).state_dict())
    states.append(train_supernet(TINY_NETWORKS, tiny_task, replace(QUICK, seed=1)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@given(st.integers(0, 2**32), st.permutations(OPERATIONS), st.integers(2, 6), st.integers(2, 5))
@settings(deadline=None, max_examples=60)
def test_every_edge_gets_each_operation_once(seed: int, operations: list[Any], count: int, nodes: int) -> None:
    axis = CellsAxis(nodes=nodes, operations=tuple(operations[:count]), channels=(2, 4))
    drawn = CellNetworks(axis, SHAPE, 3).of_step(Random(seed))
    assert drawn
    assert all(choice.genotype.is_connected() for choice in drawn)
    for position, pair in enumerate(axis.pairs()):
        carried = [choice.genotype.edges[position] for choice in drawn]
        assert {edge[:2] for edge in carried} == {pair}
        assert len({operation for *_, operation in carried}) == len(carried)
    if "none" not in axis.operations:
        assert len(drawn) == count, "a cell whose edges all carry something has a path"


def test_channels_and_cells_of_a_step_are_drawn() -> None:
    chance = Random(0)
    drawn = [choice for _ in range(20) for choice in NETWORKS.of_step(chance)]
    assert {(choice.channels, choice.cells_per_stage) for choice in drawn} == set(
        product(AXIS.channels, AXIS.cells_per_stage)
    )


def test_a_step_shows_targets_to_all_networks_that_share_the_operations_fairly(
    tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[CellNetwork] = []
    set_choice = Supernet.set

    def recorded(self: Supernet[CellNetwork], choice: CellNetwork) -> None:
        ran.append(choice)
        set_choice(self, choice)

    losses = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal losses
        losses += 1
        return functional.cross_entropy(outputs, targets)

    monkeypatch.setattr(Supernet, "set", recorded)
    train_supernet(TINY_NETWORKS, replace(tiny_task, loss=loss), QUICK)
    chance = Random(QUICK.seed)
    steps = [TINY_NETWORKS.of_step(chance) for _ in range(192 // 32)]
    assert ran[1:-1] == [choice for step in steps for choice in step]
    assert losses == len(ran) - 2


def test_both_ends_and_a_network_between_learn(tiny_task: Task) -> None:
    supernet = train_supernet(TINY_NETWORKS, tiny_task, replace(QUICK, epochs=6))
    assert not any(module.training for module in supernet.modules())
    inputs = torch.stack([tiny_task.train[index][0] for index in range(192)])
    between = CellNetwork(CellGenotype(3, ((0, 1, "conv1x1"), (0, 2, "skip"), (1, 2, "conv3x3"))), 4, 1)
    for choice in (TINY.smallest(), between, TINY.largest()):
        network = supernet.extract(choice)
        reestimate_normalization(network, inputs)
        assert metric_of(network, tiny_task, tiny_task.validation) > 0.8


def test_saved_weights_read_back_and_those_of_another_axis_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    save_supernet(shared_supernet(), path)
    loaded = load_supernet(path, NETWORKS)
    choice = NETWORKS.draw(Draw(Random(4)))
    assert torch.equal(run(loaded, choice, images(4)), run(shared_supernet(), choice, images(4)))
    with pytest.raises(OutputError, match="kept weights of the supernet cannot be read"):
        load_supernet(path, TINY_NETWORKS)
