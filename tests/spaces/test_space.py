"""The search space: conditions, enumeration, initial design, and that the sampler can reach just what is enumerated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from karui.spaces.axes.axis import Axis
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.exits.axis import ExitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.axes.students.choice import Student
from karui.spaces.candidate import Baseline, Candidate
from karui.spaces.space import SearchSpace, problem_of

FULL = SearchSpace(
    students=StudentsAxis(families=("shallower", "resnet18"), widths=(0.5, 1.0), depths=(0.5, 1.0)),
    cells=CellsAxis(nodes=3, operations=("none", "conv3x3"), channels=(8,), cells_per_stage=(1, 2)),
    sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.8)),
    bits=BitsAxis(weights=(4, 32), activations=(8, 32)),
)


def test_enumeration_counts_what_the_conditions_allow() -> None:
    bits = 2 + 1  # four bits with either activations, float32 with none to choose
    baselines = 2 * 2 * bits
    shallower, resnet18 = 2 * 2 * 2 * bits, 2 * 2 * bits
    cells = 2**3 * 1 * 2 * 2 * bits
    points = list(FULL.points())
    assert len(points) == baselines + shallower + resnet18 + cells
    assert len({tuple(sorted(parameters.items())) for parameters, _ in points}) == len(points)


@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler(seed=1), optuna.samplers.NSGAIISampler(seed=1)])
def test_whatever_is_sampled_is_enumerated(sampler: optuna.samplers.BaseSampler) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    enumerated = {tuple(sorted(parameters.items())): candidate for parameters, candidate in FULL.points()}
    study = optuna.create_study(directions=["minimize"], sampler=sampler)
    for _ in range(60):
        trial = study.ask()
        candidate = FULL.suggest(trial)
        assert enumerated[tuple(sorted(trial.params.items()))] == candidate
        study.tell(trial, 0.0)


@given(st.integers(0, 10_000))
def test_a_random_point_is_enumerated_and_repeats_under_its_seed(seed: int) -> None:
    enumerated = {tuple(sorted(parameters.items())) for parameters, _ in FULL.points()}
    parameters, candidate = FULL.random_point(Random(seed))
    assert tuple(sorted(parameters.items())) in enumerated
    assert FULL.random_point(Random(seed)) == (parameters, candidate)


def test_parameters_exist_only_where_they_mean_something() -> None:
    for parameters, candidate in FULL.points():
        architecture = candidate.architecture
        assert ("sparsity.removed_channels" in parameters) == isinstance(architecture, Baseline)
        assert ("student.family" in parameters) == isinstance(architecture, Student)
        assert ("student.depth" in parameters) == (parameters.get("student.family") == "shallower")
        assert any(name.startswith("cell.") for name in parameters) == isinstance(architecture, CellNetwork)
        assert ("bits.activations" in parameters) == (parameters["bits.weights"] != 32)


def test_resolutions_are_asked_of_shallower_students_where_there_are_several() -> None:
    students = StudentsAxis(families=("shallower", "resnet18"), widths=(1.0,), depths=(0.5, 1.0), resolutions=(0.5, 1))
    points = list(SearchSpace(students=students).points())
    assert len(points) == 1 + 2 * 2 + 1  # the baseline, shallower by depth and resolution, resnet18
    for parameters, candidate in points:
        asked = "student.resolution" in parameters
        assert asked == (parameters.get("student.family") == "shallower")
        if asked:
            assert isinstance(candidate.architecture, Student)
            assert candidate.architecture.resolution == parameters["student.resolution"]


def test_initial_design_is_what_everyone_tries_first() -> None:
    space = SearchSpace(sparsity=SparsityAxis(), bits=BitsAxis(weights=(2, 8, 32)), students=StudentsAxis())
    found = [space.suggest(_Fixed(parameters)) for parameters in space.initial_design()]
    assert found == [Candidate(), *(Candidate(weight_bits=bits, activation_bits=8) for bits in (8, 2))]
    spread = SearchSpace(bits=BitsAxis(weights=(16, 2.5, 2, 8), allocations=("budget", "uniform")))
    assert [spread.suggest(_Fixed(parameters)) for parameters in spread.initial_design()] == [
        Candidate(weight_bits=16),
        Candidate(weight_bits=8, activation_bits=8),
        Candidate(weight_bits=2, activation_bits=8),  # where all have 8 bits there is nothing to spread
        Candidate(weight_bits=2, activation_bits=8, bit_allocation="budget"),
    ]
    always_sparse = SearchSpace(sparsity=SparsityAxis(zeroed_weights=(0.5,)), bits=BitsAxis())
    assert always_sparse.initial_design() == []
    only_students = SearchSpace(students=StudentsAxis())
    assert [only_students.suggest(_Fixed(found)) for found in only_students.initial_design()] == [Candidate()]


def test_trained_initial_design_are_the_model_with_less_of_one_thing() -> None:
    space = SearchSpace(
        sparsity=SparsityAxis(removed_channels=(0.5, 0.0, 0.25)),
        students=StudentsAxis(families=("resnet18", "shallower"), widths=(0.5, 0.75), depths=(0.34, 1.0, 0.67),
                              resolutions=(0.5, 1.0)),
        bits=BitsAxis(weights=(2, 8, 5, 3, 32), activations=(32, 8), allocations=("budget", "uniform")),
    )  # fmt: skip
    found = [space.suggest(_Fixed(parameters)) for parameters in space.trained_initial_design()]
    rounded: dict[str, Any] = {"weight_bits": 5, "activation_bits": 8}
    assert found == [
        Candidate(removed_channels=0.25, **rounded),
        Candidate(Student("shallower", 0.75, 0.67, 1.0), **rounded),
        Candidate(Student("shallower", 0.75, 1.0, 0.5), **rounded),
        Candidate(removed_channels=0.5, **rounded),
        Candidate(Student("shallower", 0.75, 0.34, 1.0), **rounded),
    ]


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (None, Candidate()),
        (BitsAxis(weights=(32,)), Candidate()),
        (BitsAxis(weights=(2, 3), activations=(32,)), Candidate(weight_bits=3)),
        (BitsAxis(weights=(2, 4, 8), activations=(8,)), Candidate(weight_bits=4, activation_bits=8)),
        (
            BitsAxis(weights=(8,), activations=(8,), allocations=("budget",)),
            Candidate(weight_bits=8, activation_bits=8, bit_allocation="budget"),
        ),
    ],
)
def test_trained_initial_design_have_the_bits_that_harm_least(bits: BitsAxis | None, rounded: Candidate) -> None:
    sparsity = SparsityAxis(removed_channels=(0.0, 0.5), importances=("taylor", "magnitude"))
    space = SearchSpace(sparsity=sparsity, bits=bits)
    found = [space.suggest(_Fixed(parameters)) for parameters in space.trained_initial_design()]
    assert found == [replace(rounded, removed_channels=0.5, channel_importance="taylor")]


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace(bits=BitsAxis()),
        SearchSpace(students=StudentsAxis(families=("resnet18",))),
        SearchSpace(students=StudentsAxis(families=("shallower",), depths=(1.0,))),
        SearchSpace(sparsity=SparsityAxis(removed_channels=(0.5,), zeroed_weights=(0.8,))),
        SearchSpace(sparsity=SparsityAxis(removed_channels=(0.0,))),
    ],
)
def test_where_the_model_cannot_have_less_of_one_thing_alone_there_is_no_trained_initial_design(
    space: SearchSpace,
) -> None:
    assert space.trained_initial_design() == []


class _Fixed:
    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert self.parameters[name] in choices
        return self.parameters[name]


def test_network_parameters_are_all_but_bits() -> None:
    networks: dict[tuple[Any, ...], set[Any]] = {}
    for parameters, candidate in FULL.points():
        network = tuple(sorted(FULL.network_parameters(parameters).items()))
        networks.setdefault(network, set()).add((candidate.architecture, candidate.zeroed_weights))
    assert all(len(found) == 1 for found in networks.values())
    assert len(networks) == 2 * 2 + (2 * 2 + 2) * 2 + 2**3 * 2 * 2


def test_siblings_are_all_that_share_the_network() -> None:
    everything = list(FULL.points())
    for parameters, _ in everything[::7]:
        network = FULL.network_parameters(parameters)
        expected = [candidate for other, candidate in everything if FULL.network_parameters(other) == network]
        assert [candidate for _, candidate in FULL.siblings(parameters)] == expected


def test_dear_training_is_no_sibling_and_no_follower() -> None:
    space = SearchSpace(bits=BitsAxis(weights=(4, 32), activations=(8,), training=("post", "aware")))
    assert {candidate.bit_training for _, candidate in space.points()} == {"post", "aware"}
    assert {candidate.bit_training for _, candidate in space.siblings({})} == {"post"}
    assert space.follower_parameters({"bits.weights": 4}) == {"bits.training": "post"}
    assert FULL.follower_parameters({"architecture": "baseline", "bits.weights": 4}) == {"architecture": "baseline"}


def test_bits_of_groups_are_asked_group_by_group() -> None:
    space = SearchSpace(bits=BitsAxis(weights=(2, 4, 32), activations=(32,), allocations=("groups",), groups=3))
    found = {candidate.group_bits for _, candidate in space.points()}
    assert found == set(product((2, 4), repeat=3))


def test_a_mean_of_bits_is_kept_by_a_budget_only() -> None:
    axis = BitsAxis(weights=(2.5, 3), activations=(32,), allocations=("uniform", "budget"))
    found = {(candidate.weight_bits, candidate.bit_allocation) for _, candidate in SearchSpace(bits=axis).points()}
    assert found == {(2.5, "budget"), (3, "uniform"), (3, "budget")}
    with pytest.raises(ValidationError, match=r"2\.5 bits are a mean"):
        BitsAxis(weights=(2.5, 3))
    with pytest.raises(ValidationError, match="at least one whole number"):
        BitsAxis(weights=(32,), allocations=("groups",))


EARLY = SearchSpace(
    sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0,)),
    bits=BitsAxis(weights=(4, 32), activations=(8,), training=("post", "aware")),
    exits=ExitsAxis(depths=(0.0, 0.3, 0.6), thresholds=(0.8, 0.9)),
)


def test_a_threshold_is_asked_only_where_there_is_an_exit() -> None:
    found = []
    for parameters, candidate in EARLY.points():
        assert ("exit.threshold" in parameters) == (parameters["exit.depth"] > 0) == (candidate.exit_depth > 0)
        found.append((candidate.exit_depth, candidate.exit_threshold))
    networks_and_bits = 2 * (2 + 1)  # four bits trained either way, float32 with nothing to choose
    assert len(found) == networks_and_bits * (1 + 2 * 2)
    assert set(found) == {(0.0, 0.0), *product((0.3, 0.6), (0.8, 0.9))}


def test_one_threshold_is_not_asked_for() -> None:
    space = SearchSpace(exits=ExitsAxis(depths=(0.0, 0.5), thresholds=(0.9,)))
    assert [parameters for parameters, _ in space.points()] == [{"exit.depth": 0.0}, {"exit.depth": 0.5}]
    assert {candidate.exit_threshold for _, candidate in space.points()} == {0.0, 0.9}


def test_exits_share_the_network_of_what_has_none() -> None:
    parameters = {"sparsity.removed_channels": 0.5, "bits.weights": 4, "exit.depth": 0.3, "exit.threshold": 0.8}
    assert EARLY.network_parameters(parameters) == {"sparsity.removed_channels": 0.5}
    assert EARLY.follower_parameters(parameters) == {"sparsity.removed_channels": 0.5, "bits.training": "post"}
    siblings = [candidate for _, candidate in EARLY.siblings({**parameters, "sparsity.zeroed_weights": 0.0})]
    exits = {(candidate.exit_depth, candidate.weight_bits) for candidate in siblings}
    assert exits == set(product((0.0, 0.3, 0.6), (4, 32)))
    assert {candidate.removed_channels for candidate in siblings} == {0.5}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (SearchSpace(sparsity=SparsityAxis()), False),
        (SearchSpace(sparsity=SparsityAxis(), exits=ExitsAxis()), True),
        (SearchSpace(sparsity=SparsityAxis(), bits=BitsAxis()), True),
    ],
)
def test_followers_need_something_that_costs_no_training(space: SearchSpace, expected: bool) -> None:
    assert space.has_followers is expected


def test_initial_design_has_no_exit() -> None:
    found = [EARLY.suggest(_Fixed(parameters)) for parameters in EARLY.initial_design()]
    assert found == [Candidate(), Candidate(weight_bits=4, activation_bits=8)]
    always = SearchSpace(bits=BitsAxis(weights=(4, 32)), exits=ExitsAxis(depths=(0.5,)))
    assert always.initial_design() == []


def test_patterns_of_zeros_are_asked_of_half_of_the_weights_only() -> None:
    axis = SparsityAxis(removed_channels=(0.0,), zeroed_weights=(0.0, 0.5, 0.8), patterns=("free", "2:4"))
    found = {(candidate.zeroed_weights, candidate.zero_pattern) for _, candidate in SearchSpace(sparsity=axis).points()}
    assert found == {(0.0, "free"), (0.5, "free"), (0.5, "2:4"), (0.8, "free")}
    with pytest.raises(ValidationError, match="the pattern 2:4 zeroes half"):
        SparsityAxis(zeroed_weights=(0.8,), patterns=("2:4",))


def test_a_cell_without_a_path_has_a_problem() -> None:
    broken = CellGenotype(3, ((0, 1, "conv3x3"), (0, 2, "none"), (1, 2, "none")))
    whole = CellGenotype(3, ((0, 1, "conv3x3"), (0, 2, "none"), (1, 2, "skip")))
    assert problem_of(Candidate(CellNetwork(broken, 8, 1))) == "the cell has no path from its input to its output"
    assert problem_of(Candidate(CellNetwork(whole, 8, 1))) is None
    assert problem_of(Candidate()) is None


AXES: tuple[type[Axis], ...] = (StudentsAxis, CellsAxis, SparsityAxis, BitsAxis, ExitsAxis)


@pytest.mark.parametrize("axis", AXES)
class TestEveryAxis:
    """The contract of an axis, whichever it is."""

    def test_refuses_unknown_keys(self, axis: type[Axis]) -> None:
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            axis(**{"nonsense": [1]})

    def test_refuses_empty_and_repeated_choices(self, axis: type[Axis]) -> None:
        for name, field in axis.model_fields.items():
            if not isinstance(field.default, tuple):
                continue
            with pytest.raises(ValidationError, match="at least 1 item"):
                axis(**{name: []})
            with pytest.raises(ValidationError, match="stands twice"):
                axis(**{name: [field.default[0]] * 2})

    def test_is_frozen(self, axis: type[Axis]) -> None:
        name = next(iter(axis.model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(axis(), name, getattr(axis(), name))

    def test_suggests_every_combination_it_holds(self, axis: type[Axis]) -> None:
        field = axis.__name__.removesuffix("Axis").lower()
        small = {"nodes": 2} if axis is CellsAxis else {}
        made = axis(**small)
        points = list(SearchSpace(**{field: made}).points())
        lengths = [len(getattr(made, name)) for name in axis.model_fields if isinstance(getattr(made, name), tuple)]
        keys = {candidate.to_dict().__repr__() for _, candidate in points}
        assert len(points) == len(keys), "each combination is a candidate of its own"
        assert len(points) <= prod(lengths) + 1, "and there are no more than the product of the choices (and baseline)"

    def test_round_trips_through_json(self, axis: type[Axis]) -> None:
        assert axis.model_validate_json(axis().model_dump_json()) == axis()


@pytest.mark.parametrize(
    ("axis", "name", "value"),
    [
        (StudentsAxis, "families", ["resnet9000"]),
        (StudentsAxis, "widths", [0.0]),
        (StudentsAxis, "depths", [1.5]),
        (StudentsAxis, "resolutions", [0.7]),
        (CellsAxis, "operations", ["conv7x7"]),
        (CellsAxis, "channels", [0]),
        (CellsAxis, "nodes", 1),
        (SparsityAxis, "removed_channels", [1.0]),
        (SparsityAxis, "zeroed_weights", [-0.1]),
        (BitsAxis, "weights", [1]),
        (BitsAxis, "activations", [4]),
        (ExitsAxis, "depths", [1.0]),
        (ExitsAxis, "depths", [-0.1]),
        (ExitsAxis, "depths", [float("nan")]),
        (ExitsAxis, "thresholds", [0.0]),
        (ExitsAxis, "thresholds", [1]),
    ],
)
def test_values_out_of_range_are_refused(axis: type[Axis], name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        axis(**{name: value})
