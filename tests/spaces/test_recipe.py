"""Recipes and registries: what is told of a candidate before anything is made."""

from __future__ import annotations

import random
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from karui.errors import KaruiError
from karui.spaces import registry
from karui.spaces.axes.students.choice import Student
from karui.spaces.building.recipe import steps_of, trainings_of, trains_network, trains_on
from karui.spaces.candidate import BuildStage, Candidate, network_of
from karui.spaces.registry import Registry

FIXED: list[tuple[Candidate, list[str]]] = [
    (Candidate(), ["architecture", "export", "packing"]),
    (Candidate(weight_bits=16), ["architecture", "export", "quantization", "packing"]),
    (
        Candidate(removed_channels=0.5, weight_bits=2, bit_training="aware"),
        ["architecture", "architecture", "recovery", "export", "aware training", "quantization", "packing"],
    ),
    (
        Candidate(zeroed_weights=0.5, zeroing="one_shot", weight_bits=16),
        ["architecture", "export", "zeroing", "quantization", "packing"],
    ),
    (
        Candidate(zeroed_weights=0.5, zeroing="one_shot", weight_bits=4, exit_depth=0.5, exit_threshold=0.9),
        ["architecture", "export", "quantization", "exit"],  # zeros and bits make good each other's error
    ),
    (
        Candidate(Student("shallower", 0.5, 0.5), zeroed_weights=0.8),
        ["architecture", "recovery", "export", "packing"],
    ),
]


@pytest.mark.parametrize(("candidate", "names"), FIXED)
def test_the_steps_of_a_candidate(candidate: Candidate, names: list[str]) -> None:
    assert [step.name for step in steps_of(candidate.canonical())] == names


def drawn(chance: random.Random) -> Candidate:
    return Candidate(
        removed_channels=chance.choice([0.0, 0.5]),
        zeroed_weights=chance.choice([0.0, 0.5]),
        zeroing=chance.choice(["gradual", "one_shot"]),
        weight_bits=chance.choice([2, 8, 16, 32]),
        activation_bits=chance.choice([8, 32]),
        bit_training=chance.choice(["post", "aware"]),
        exit_depth=chance.choice([0.0, 0.4]),
        exit_threshold=0.9,
    ).canonical()


def test_steps_say_what_whoever_measures_and_describes_wants_to_know() -> None:
    chance = random.Random(2)
    for _ in range(300):
        candidate = drawn(chance)
        steps = steps_of(candidate)
        assert any(step.in_integers for step in steps) == (candidate.activation_bits == 8)
        assert any(step.one_by_one for step in steps) == (candidate.exit_depth > 0)
        gradually = candidate.zeroed_weights > 0 and candidate.zeroing == "gradual"
        assert trains_network(candidate) == (candidate.removed_channels > 0 or gradually)


def test_trainings_are_those_of_the_network_and_of_rounded_weights() -> None:
    chance = random.Random(1)
    for _ in range(300):
        candidate = drawn(chance)
        network = network_of(candidate)
        expected = [("recovery", network.key)] if network != Candidate() else []
        if candidate.bit_training == "aware":  # whether and where it is left early comes after all training
            expected.append(("aware training", replace(candidate, exit_depth=0.0).key))
        assert list(trainings_of(candidate)) == expected
        assert trains_on(candidate) == (candidate.bit_training == "aware")
        assert candidate.is_trained == bool(expected)


def test_what_is_undone_grows_less_with_each_stage_and_the_last_is_the_candidate() -> None:
    chance = random.Random(2)
    for _ in range(300):
        candidate = drawn(chance)
        made = [candidate.through(stage) for stage in BuildStage]
        assert made[-1] == candidate
        for earlier, stage in zip(made, BuildStage, strict=True):
            assert candidate.through(stage).through(stage) == earlier, "once undone, it stays so"
            assert all(later.through(stage) == earlier for later in made[stage - 1 :])


def test_choices_of_packages_are_kept_in_the_key_and_read_back() -> None:
    plain = Candidate(weight_bits=4)
    added = plain.choosing("b", "silu").choosing("a", 2)
    assert added == plain.choosing("a", 2).choosing("b", "silu")
    assert Candidate.from_dict(added.to_dict()) == added
    assert len({plain.key, added.key, added.choosing("a", 3).key}) == 3
    assert added.choosing("a", None).choosing("b", None).key == plain.key
    assert "further" not in plain.to_dict()
    with pytest.raises(ValueError, match="nothing that an axis chooses"):
        Candidate.from_dict({**plain.to_dict(), "further": {"a": [1]}})


def test_two_things_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("pi", "math:tau", "karui.numbers")
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]))
    with pytest.raises(KaruiError, match="two things are called 'pi'"):
        Registry[float]("karui.numbers", {"pi": "math:pi"}).names  # noqa: B018
    both = Registry[float]("karui.numbers", {"e": "math:e"})
    assert both.names == ("e", "pi")
    assert round(both["pi"], 2) == 6.28
    assert both.own == ("e",)
