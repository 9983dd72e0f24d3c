"""Candidates: JSON and back, and which candidates share a key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import OPERATIONS, CellGenotype
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.students.choice import Student
from karui.spaces.axes.students.names import RESOLUTIONS
from karui.spaces.candidate import FLOAT_BITS, Architecture, Baseline, Candidate

SHARES = st.sampled_from([0.25, 0.5, 0.7, 0.75, 1.0])


@st.composite
def genotypes(draw: st.DrawFn) -> CellGenotype:
    nodes = draw(st.integers(2, 4))
    pairs = [(source, end) for end in range(nodes) for source in range(end)]
    return CellGenotype(nodes, tuple((*pair, draw(st.sampled_from(OPERATIONS))) for pair in pairs))


FAMILIES = st.sampled_from(["shallower", "mobilenet_v2"])
ARCHITECTURES: st.SearchStrategy[Architecture] = st.one_of(
    st.just(Baseline()),
    st.builds(Student, family=FAMILIES, width=SHARES, depth=SHARES, resolution=st.sampled_from(RESOLUTIONS)),
    st.builds(CellNetwork, genotype=genotypes(), channels=st.integers(1, 64), cells_per_stage=st.integers(1, 4)),
)
STAGES = st.builds(
    Stage,
    kernel=st.sampled_from([3, 5, 7]),
    expansion=st.sampled_from([1, 3, 6]),
    squeeze_excite=st.booleans(),
    depth=st.integers(1, 3),
)
ARCHITECTURES |= st.builds(
    StageNetwork, channels=st.integers(1, 64), stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple)
)
CANDIDATES = st.builds(
    Candidate,
    architecture=ARCHITECTURES,
    removed_channels=st.sampled_from([0.0, 0.25, 0.5]),
    channel_importance=st.sampled_from(["magnitude", "taylor"]),
    channel_scope=st.sampled_from(["layer", "global"]),
    zeroed_weights=st.sampled_from([0.0, 0.5, 0.8]),
    zero_pattern=st.sampled_from(["free", "2:4"]),
    zeroing=st.sampled_from(["gradual", "one_shot"]),
    weight_bits=st.sampled_from([2, 4, 8, FLOAT_BITS]),
    bit_allocation=st.sampled_from(["uniform", "budget"]),
    activation_bits=st.sampled_from([8, FLOAT_BITS]),
    bit_training=st.sampled_from(["post", "aware"]),
    exit_depth=st.sampled_from([0, 0.0, 0.4]),
    exit_threshold=st.sampled_from([0.0, 0.9]),
    epochs_factor=st.sampled_from([1, 4]),
)


@given(CANDIDATES)
@settings(deadline=None, max_examples=100)
def test_json_reads_back(candidate: Candidate) -> None:
    assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate


@given(CANDIDATES)
@settings(deadline=None, max_examples=100)
def test_key_is_that_of_the_canonical_candidate(candidate: Candidate) -> None:
    canonical = candidate.canonical()
    assert canonical.canonical() == canonical
    assert canonical.key == candidate.key
    assert len(candidate.key) == 16
    assert set(candidate.key) <= set("0123456789abcdef")


@given(CANDIDATES, CANDIDATES)
@settings(deadline=None, max_examples=100)
def test_keys_agree_exactly_where_canonical_candidates_do(first: Candidate, second: Candidate) -> None:
    assert (first.key == second.key) == (first.canonical() == second.canonical())


@given(CANDIDATES)
@settings(deadline=None, max_examples=100)
def test_activation_bits_count_only_beside_weight_bits(candidate: Candidate) -> None:
    keys = {replace(candidate, activation_bits=bits).key for bits in (8, FLOAT_BITS)}
    assert len(keys) == (1 if candidate.weight_bits == FLOAT_BITS else 2)


@given(CANDIDATES)
@settings(deadline=None, max_examples=50)
def test_weight_bits_and_zeros_always_count(candidate: Candidate) -> None:
    assert len({replace(candidate, weight_bits=bits).key for bits in (2, 4, 8, FLOAT_BITS)}) == 4
    assert len({replace(candidate, zeroed_weights=share).key for share in (0.0, 0.5, 0.8)}) == 3


def test_what_a_choice_does_not_touch_does_not_count() -> None:
    plain = Candidate(weight_bits=4)
    changes: list[dict[str, Any]] = [
        {"channel_importance": "taylor"},
        {"channel_scope": "global"},
        {"zero_pattern": "2:4"},
        {"zeroing": "one_shot"},
    ]
    for idle in changes:
        assert replace(plain, **idle).key == plain.key
        busy = replace(plain, removed_channels=0.5, zeroed_weights=0.5)
        assert replace(busy, **idle).key != busy.key
    changes = [{"bit_allocation": "budget"}, {"bit_training": "aware"}]
    for idle in changes:
        assert replace(Candidate(), **idle).key == Candidate().key
        assert replace(plain, **idle).key != plain.key


def test_a_threshold_counts_only_where_there_is_an_exit() -> None:
    early = Candidate(weight_bits=4, exit_depth=0.4, exit_threshold=0.9)
    assert len({early.key, replace(early, exit_threshold=0.8).key, replace(early, exit_depth=0.6).key}) == 3
    assert replace(early, exit_depth=0).key == Candidate(weight_bits=4).key
    assert replace(early, exit_depth=0.0).canonical() == Candidate(weight_bits=4)


@pytest.mark.parametrize(("activation_bits", "most"), [(FLOAT_BITS, 8), (8, 7)])
def test_where_all_have_the_most_bits_there_is_nothing_to_spread(activation_bits: int, most: int) -> None:
    uniform = Candidate(weight_bits=most, activation_bits=activation_bits)
    for bits in (most, 8, most + 0.0):
        budget = replace(uniform, weight_bits=bits, bit_allocation="budget")
        groups = replace(uniform, weight_bits=bits, bit_allocation="groups", group_bits=(8, most, most))
        assert budget.canonical() == groups.canonical() == uniform.canonical() == uniform
    for other in (
        replace(uniform, weight_bits=most - 0.5, bit_allocation="budget"),
        replace(uniform, bit_allocation="groups", group_bits=(8, most - 1)),
    ):
        assert other.canonical() != uniform


def test_bits_of_groups_count_in_their_order() -> None:
    mixed = Candidate(weight_bits=4, bit_allocation="groups", group_bits=(4, 2))
    assert mixed.key != replace(mixed, group_bits=(2, 4)).key
    assert replace(mixed, weight_bits=8).key == mixed.key
    eights = replace(mixed, group_bits=(8, 2), activation_bits=8)
    assert eights.key == replace(mixed, group_bits=(7, 2), activation_bits=8).key


@given(SHARES)
def test_shallower_of_full_depth_is_the_baseline_with_fewer_channels(width: float) -> None:
    student = Candidate(architecture=Student("shallower", width=width, depth=1.0))
    assert student.key == Candidate(removed_channels=round(1.0 - width, 6)).key


def test_shallower_of_less_depth_or_another_family_is_no_baseline() -> None:
    baseline = Candidate(removed_channels=0.5)
    assert Candidate(architecture=Student("shallower", width=0.5, depth=0.5)).key != baseline.key
    assert Candidate(architecture=Student("mobilenet_v2", width=0.5, depth=1.0)).key != baseline.key


def test_a_shallower_student_of_lower_resolution_is_no_baseline() -> None:
    assert Candidate(Student("shallower", 0.5, resolution=0.5)).key != Candidate(removed_channels=0.5).key
    assert Candidate(Student("shallower", 0.5, resolution=1)).key == Candidate(removed_channels=0.5).key


def test_students_found_before_there_were_resolutions_keep_their_keys() -> None:
    assert Candidate(Student("shallower", 0.5, 0.5)).key == "d8595dd4c8b65c6a"
    assert Candidate(Student("mobilenet_v2", 0.5), weight_bits=4).key == "c71a81a7d81936bc"


def test_channels_removed_twice_are_not_channels_removed_once() -> None:
    once = Candidate(architecture=Student("shallower", width=0.5))
    assert replace(once, removed_channels=0.25).key != once.key


def test_whole_numbers_name_the_same_file_as_floats() -> None:
    assert Candidate(removed_channels=0, zeroed_weights=0).key == Candidate().key
    student = Student("mobilenet_v2", width=1, depth=1)
    assert Candidate(student).key == Candidate(Student("mobilenet_v2", width=1.0)).key


def test_cells_that_compute_the_same_share_a_key() -> None:
    detour = CellGenotype(3, ((0, 1, "conv3x3"), (1, 2, "skip"), (0, 2, "none")))
    direct = CellGenotype(2, ((0, 1, "conv3x3"),))
    assert Candidate(CellNetwork(detour, 16, 2)).key == Candidate(CellNetwork(direct, 16, 2)).key
    assert Candidate(CellNetwork(direct, 16, 1)).key != Candidate(CellNetwork(direct, 16, 2)).key


def test_key_stays_what_stored_studies_hold() -> None:
    """The key is an address in caches and databases: it may change only on purpose, with BUILD_VERSION."""
    described = (
        '{"activation_bits":32,"architecture":{"kind":"baseline"},"removed_channels":0.0,'
        '"weight_bits":32,"zeroed_weights":0.0}'
    )
    assert Candidate().key == hashlib.sha256(described.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("candidate", "key"),
    [
        (Candidate(), "317ee216716af533"),
        (Candidate(removed_channels=0.5, weight_bits=4, activation_bits=8), "da82e04d5041652c"),
        (
            Candidate(
                weight_bits=2.5, bit_allocation="budget", zeroed_weights=0.5, zero_pattern="2:4", zeroing="one_shot"
            ),
            "921d25d5e0dcb5e6",
        ),
    ],
)
def test_keys_are_those_from_before_there_were_exits(candidate: Candidate, key: str) -> None:
    assert candidate.key == key
    assert not [name for name in candidate.to_dict() if name.startswith("exit")]


def test_keys_are_those_from_before_there_were_epochs_factors() -> None:
    aware = Candidate(Student("shallower", 0.5, 0.5), weight_bits=3, activation_bits=8, bit_training="aware")
    assert aware.key == "b252d09ee6bede48"
    assert replace(aware, epochs_factor=2).key == "60886b353afd9e14"
    assert "epochs_factor" not in aware.to_dict()


@pytest.mark.parametrize(
    "untrained", [{}, {"weight_bits": 4, "activation_bits": 8}, {"weight_bits": 16}, {"exit_depth": 0.4}]
)
def test_what_is_not_trained_has_no_more_epochs(untrained: dict[str, Any]) -> None:
    once: dict[str, Any] = {"zeroed_weights": 0.5, "zeroing": "one_shot"}
    for candidate in (
        Candidate(**untrained),
        Candidate(**untrained, **once),
        Candidate(Student("shallower", 1.0), **untrained),
    ):
        assert replace(candidate, epochs_factor=4).canonical() == candidate.canonical()


@pytest.mark.parametrize(
    "trained",
    [
        Candidate(removed_channels=0.5),
        Candidate(zeroed_weights=0.5, weight_bits=4),
        Candidate(Student("shallower", 1.0, 0.5), zeroed_weights=0.5, zeroing="one_shot"),
        Candidate(Student("mobilenet_v2", 0.5), weight_bits=8, exit_depth=0.4),
        Candidate(weight_bits=2, bit_training="aware"),
    ],
)
def test_what_is_trained_is_another_candidate_for_every_number_of_epochs(trained: Candidate) -> None:
    assert len({replace(trained, epochs_factor=factor).key for factor in (1, 2, 4)}) == 3
    assert replace(replace(trained, epochs_factor=4), epochs_factor=1).key == trained.key


def test_unknown_kind_of_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of architecture: 'transformer'"):
        Candidate.from_dict({"architecture": {"kind": "transformer"}})


@pytest.mark.parametrize(
    ("candidate", "text"),
    [
        (Candidate(), "baseline, float32"),
        (Candidate(removed_channels=0.5, weight_bits=4, activation_bits=8), "baseline, -50% channels, w4 a8"),
        (
            Candidate(Student("shallower", 0.5, 0.5), zeroed_weights=0.8),
            "shallower x0.5, depth 0.5, 80% zeros, float32",
        ),
        (Candidate(Student("shallower", 1.0, 0.5, 0.25)), "shallower x1, depth 0.5, resolution 0.25, float32"),
        (
            Candidate(CellNetwork(CellGenotype(2, ((0, 1, "skip"),)), 16, 2), weight_bits=8),
            "cell 16ch x2 [0-skip-1], w8 a32",
        ),
        (
            Candidate(
                removed_channels=0.5,
                channel_importance="taylor",
                channel_scope="global",
                zeroed_weights=0.5,
                zero_pattern="2:4",
                zeroing="one_shot",
                weight_bits=2.5,
                bit_allocation="budget",
                activation_bits=8,
            ),
            "baseline, -50% channels taylor global, 50% zeros 2:4 one-shot, w2.5 budget a8",
        ),
        (
            Candidate(weight_bits=4, bit_allocation="groups", group_bits=(4, 2), bit_training="aware"),
            "baseline, w4-2 a32 aware",
        ),
        (
            Candidate(StageNetwork(16, (Stage(3, 6, True, 2), Stage(5, 1, False, 1)))),
            "stages 16ch [k3 e6 se d2 | k5 e1 d1], float32",
        ),
        (
            Candidate(weight_bits=4, activation_bits=8, exit_depth=0.4, exit_threshold=0.9),
            "baseline, w4 a8, exit 0.4 > 0.9",
        ),
        (Candidate(removed_channels=0.5, epochs_factor=4), "baseline, -50% channels, float32, 4x epochs"),
    ],
)
def test_description_names_what_was_done(candidate: Candidate, text: str) -> None:
    assert candidate.describe() == text
