"""Choices that mean the same network for one model: told apart by what the networks really are."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.axes.students.choice import Student
from karui.spaces.axes.students.shallower import shallower
from karui.spaces.building.equivalence import Equivalence
from karui.spaces.candidate import Baseline, Candidate
from karui.spaces.space import SearchSpace
from karui.spaces.task import Task

SPACE = SearchSpace(
    students=StudentsAxis(families=("shallower", "resnet18"), widths=(0.5, 1.0), depths=(0.1, 0.5, 1.0)),
    sparsity=SparsityAxis(removed_channels=(0.0, 0.05, 0.25, 0.5), zeroed_weights=(0.0, 0.5)),
)


def weights_of(task: Task, candidate: Candidate, multiple: int) -> dict[str, torch.Tensor]:
    """Make the network that starts from the baseline's weights, as the build does, and return its weights."""
    example = task.calibration_batch(2)
    architecture = candidate.architecture
    if isinstance(architecture, Student):
        network = shallower(
            task.model, example, width=architecture.width, depth=architecture.depth, channel_multiple=multiple
        )
    else:
        network = remove_channels(task.model, example, candidate.removed_channels, multiple=multiple)
    return network.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("multiple", [1, 4])
def test_keys_are_equal_exactly_where_the_networks_are(tiny_task: Task, multiple: int) -> None:
    equivalence = Equivalence(tiny_task, SPACE, multiple)
    warm = [
        *(Candidate(removed_channels=fraction) for fraction in (0.0, 0.05, 0.25, 0.5)),
        *(Candidate(Student("shallower", width, depth)) for width in (0.5, 1.0) for depth in (0.1, 0.5, 1.0)),
    ]
    networks = [weights_of(tiny_task, candidate, multiple) for candidate in warm]
    found = 0
    for (one, first), (other, second) in combinations(zip(warm, networks, strict=True), 2):
        equal = equivalence(one).key == equivalence(other).key
        assert equal == same(first, second), f"{one.describe()} and {other.describe()}"
        found += equal
    # At least: full depth and half the width is half the channels; and two of the depths drop the same blocks.
    assert found >= 2


def test_a_depth_that_drops_nothing_is_the_baseline(tiny_task: Task) -> None:
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    equivalence = Equivalence(replace(tiny_task, model=plain), SPACE, 1)
    shallow = Candidate(Student("shallower", 1.0, 0.5), zeroed_weights=0.5, weight_bits=4, activation_bits=8)
    assert equivalence(shallow) == replace(shallow, architecture=Baseline())
    narrow = Candidate(Student("shallower", 0.5, 0.1))
    assert equivalence(narrow) == Candidate(removed_channels=0.5)


def test_networks_of_equal_weights_and_other_resolutions_are_not_the_same(tiny_task: Task) -> None:
    students = StudentsAxis(families=("shallower",), widths=(1.0,), depths=(0.1, 0.5, 1.0), resolutions=(0.5, 1.0))
    equivalence = Equivalence(tiny_task, SearchSpace(students=students), 1)
    for depth in students.depths:
        coarse, fine = (equivalence(Candidate(Student("shallower", 1.0, depth, share))) for share in (0.5, 1.0))
        assert coarse.key != fine.key
        assert isinstance(coarse.architecture, Student)
        assert coarse.architecture.resolution == 0.5
    # tiny_task's stages lose the same blocks at both depths, whatever the resolution
    assert len({equivalence(Candidate(Student("shallower", 1.0, depth, 0.5))).key for depth in (0.1, 0.5)}) == len(
        {equivalence(Candidate(Student("shallower", 1.0, depth))).key for depth in (0.1, 0.5)}
    )


def test_what_does_not_start_from_the_baseline_is_left_alone(tiny_task: Task) -> None:
    equivalence = Equivalence(tiny_task, SPACE, 4)
    for candidate in (Candidate(Student("resnet18", 0.5)), Candidate(Student("resnet18", 1.0), weight_bits=4)):
        assert equivalence(candidate) == candidate.canonical()


def test_every_candidate_of_the_space_is_a_fixed_point_after_once(tiny_task: Task) -> None:
    equivalence = Equivalence(tiny_task, SPACE, 4)
    candidates = [candidate for _, candidate in SPACE.points()]
    once = [equivalence(candidate) for candidate in candidates]
    assert [equivalence(candidate) for candidate in once] == once
    assert len({candidate.key for candidate in once}) < len({candidate.key for candidate in candidates})


def test_a_model_that_loses_no_channels_keeps_its_choices(tiny_task: Task) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.head = nn.Linear(8 * 8 * 8, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.head(self.conv(inputs).reshape(-1, 8 * 8 * 8))
            return outputs

    equivalence = Equivalence(replace(tiny_task, model=Fixed()), SPACE, 1)
    assert equivalence(Candidate(removed_channels=0.5)) == Candidate(removed_channels=0.5)
