"""The normal form of a cell against a symbolic twin that knows only what the edges compute."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.spaces.axes.cells.genotype import OPERATIONS, CellGenotype, Edge


@st.composite
def genotypes(draw: st.DrawFn) -> CellGenotype:
    nodes = draw(st.integers(2, 5))
    pairs = [(source, end) for end in range(nodes) for source in range(end)]
    names = draw(st.lists(st.sampled_from(OPERATIONS), min_size=len(pairs), max_size=len(pairs)))
    edges = [(source, end, name) for (source, end), name in zip(pairs, names, strict=True)]
    return CellGenotype(nodes, tuple(draw(st.permutations(edges))))


def symbolic(genotype: CellGenotype) -> Counter[object]:
    """What the output computes: a multiset of terms, each an input seen through one operation of one value.

    Skips vanish and sums merge because a value *is* its multiset of terms. Every edge with weights counts as one
    function of its own; which edge it is does not show, only the value that it reads.
    """
    values: list[Counter[object]] = [Counter({"input": 1})]
    for node in range(1, genotype.nodes):
        value: Counter[object] = Counter()
        for source, end, name in genotype.edges:
            before = values[source] if source < node else None
            if end != node or name == "none" or not before:
                continue
            value += before if name == "skip" else Counter({(name, frozenset(before.items())): 1})
        values.append(value)
    return values[-1]


@given(genotypes())
@settings(deadline=None, max_examples=200)
def test_normal_form_computes_the_same_function(genotype: CellGenotype) -> None:
    normal = genotype.canonical()
    assert symbolic(normal) == symbolic(genotype)
    assert normal.is_connected() == bool(symbolic(genotype))


@given(genotypes())
@settings(deadline=None, max_examples=200)
def test_normal_form_is_idempotent(genotype: CellGenotype) -> None:
    assert genotype.canonical().canonical() == genotype.canonical()


@given(genotypes(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_renaming_inner_nodes_and_reordering_edges_changes_nothing(genotype: CellGenotype, random: object) -> None:
    inner = range(1, genotype.nodes - 1)
    for order in permutations(inner):
        label = {0: 0, genotype.nodes - 1: genotype.nodes - 1} | dict(zip(inner, order, strict=True))
        renamed = [(label[source], label[end], name) for source, end, name in genotype.edges if name != "none"]
        if all(source < end for source, end, _ in renamed):
            random.shuffle(renamed)  # type: ignore[attr-defined]
            assert CellGenotype(genotype.nodes, tuple(renamed)).canonical() == genotype.canonical()


@given(genotypes(), st.sampled_from(OPERATIONS), st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=150)
def test_dead_edges_change_nothing(genotype: CellGenotype, name: str, place: int, leads_nowhere: bool) -> None:
    """A new inner node that nothing leaves, or that nothing enters, at a random place in the order."""
    place = 1 + place % (genotype.nodes - 1)
    shifted: list[Edge] = [
        (source + (source >= place), end + (end >= place), operation) for source, end, operation in genotype.edges
    ]
    dead = (0, place, name) if leads_nowhere else (place, genotype.nodes, name)
    assert CellGenotype(genotype.nodes + 1, (*shifted, dead)).canonical() == genotype.canonical()


@pytest.mark.parametrize(
    ("edges", "same"),
    [
        (((0, 1, "conv3x3"), (1, 2, "skip")), ((0, 2, "conv3x3"),)),
        (((0, 1, "skip"), (1, 2, "conv3x3")), ((0, 2, "conv3x3"),)),
        (((0, 1, "skip"), (1, 2, "skip")), ((0, 2, "skip"),)),
        (((0, 1, "none"), (1, 2, "conv3x3"), (0, 2, "skip")), ((0, 2, "skip"),)),
        # a partial sum: node 1 does nothing but add one more term to the output
        (((0, 1, "conv3x3"), (1, 2, "skip"), (0, 2, "skip")), ((0, 2, "conv3x3"), (0, 2, "skip"))),
        (
            ((0, 1, "conv1x1"), (0, 1, "skip"), (1, 2, "skip"), (0, 2, "skip")),
            ((0, 2, "conv1x1"), (0, 2, "skip"), (0, 2, "skip")),
        ),
        (((1, 2, "conv3x3"),), ()),
    ],
)
def test_hand_made_pairs_are_equal(edges: tuple[Edge, ...], same: tuple[Edge, ...]) -> None:
    direct = CellGenotype(2, tuple((source, 1, name) for source, _, name in same)).canonical()
    assert CellGenotype(3, edges).canonical() == direct


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (((0, 1, "conv3x3"),), ((0, 1, "conv1x1"),)),
        # x + x is not x
        (((0, 1, "skip"),), ((0, 1, "skip"), (0, 1, "skip"))),
        # the shared convolution is one set of weights, the other cell holds two
        (
            ((0, 1, "conv3x3"), (1, 2, "skip"), (1, 2, "avgpool3x3")),
            ((0, 1, "conv3x3"), (1, 2, "avgpool3x3"), (0, 2, "conv3x3")),
        ),
        # the order of two different operations matters
        (((0, 1, "conv3x3"), (1, 2, "conv1x1")), ((0, 1, "conv1x1"), (1, 2, "conv3x3"))),
    ],
)
def test_different_cells_stay_different(first: tuple[Edge, ...], second: tuple[Edge, ...]) -> None:
    size = max(end for _, end, _ in (*first, *second)) + 1
    assert CellGenotype(size, first).canonical() != CellGenotype(size, second).canonical()


def test_no_inner_node_of_any_four_node_cell_only_copies() -> None:
    """All 729 cells of four nodes over three operations: no skip is left that merging its ends would remove."""
    pairs = [(source, end) for end in range(4) for source in range(end)]
    for names in product(("none", "skip", "conv3x3"), repeat=len(pairs)):
        genotype = CellGenotype(4, tuple((*pair, name) for pair, name in zip(pairs, names, strict=True)))
        normal = genotype.canonical()
        enters = Counter(end for _, end, _ in normal.edges)
        leaves = Counter(source for source, _, _ in normal.edges)
        for source, end, name in normal.edges:
            copies = name == "skip" and end != normal.nodes - 1 and enters[end] == 1
            assert not copies
            assert not (name == "skip" and source != 0 and leaves[source] == 1)


@pytest.mark.parametrize(
    ("edge", "reason"),
    [
        ((1, 1, "skip"), "expected 0 <= source < destination < 3"),
        ((2, 1, "skip"), "expected 0 <= source < destination < 3"),
        ((0, 3, "skip"), "expected 0 <= source < destination < 3"),
        ((0, 1, "conv5x5"), "'conv5x5' is none of none, skip"),
    ],
)
def test_an_edge_without_meaning_is_refused(edge: Edge, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CellGenotype(3, (edge,))


@given(genotypes())
@settings(deadline=None, max_examples=50)
def test_json_form_reads_back(genotype: CellGenotype) -> None:
    plain = {"nodes": genotype.nodes, "edges": [list(edge) for edge in genotype.edges]}
    assert CellGenotype.from_dict(plain) == genotype
