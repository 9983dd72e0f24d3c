"""What a training may still come to: by hand, and properties that any projection must have."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.search.outcome import PEERS, LearningCurve, PastTraining, is_rung, optimistic_end

KINDS = ("warm", "from scratch")
METRICS = st.floats(-100.0, 100.0)


def past(*ends: tuple[float, float], kind: str = "warm") -> list[PastTraining]:
    """Trainings of two epochs that stood at the first number after one, and came to the second."""
    return [PastTraining(LearningCurve(kind, 2, (first, end)), end) for first, end in ends]


def begun(metric: float, kind: str = "warm", epochs: int = 2) -> LearningCurve:
    return LearningCurve(kind, epochs, (metric,))


ALIKE = past((0.5, 0.6), (0.5, 0.7), (0.5, 0.65), (0.5, 0.62), (0.5, 0.61))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (0.5, 0.7),  # the best of those that stood where it stands
        (0.4, 0.7),  # lower than all of them: it may still be like the best of them
        (0.55, 0.75),  # higher: its lead stays
    ],
)
def test_a_training_is_supposed_to_be_like_its_luckiest_peer(metric: float, expected: float) -> None:
    assert optimistic_end(begun(metric), ALIKE) == pytest.approx(expected)


def test_only_the_nearest_are_peers() -> None:
    far = past((0.1, 0.95), (0.9, 0.99))
    assert optimistic_end(begun(0.5), [*far, *ALIKE]) == pytest.approx(0.7)
    # Among four as near as it and the one far below, that one counts: it has won 0.85 since.
    assert optimistic_end(begun(0.5), [far[0], *ALIKE[:4]]) == pytest.approx(0.95 + 0.4)


def test_with_too_few_of_its_kind_and_length_nothing_is_said() -> None:
    assert optimistic_end(begun(0.5), ALIKE[: PEERS - 1]) is None
    assert optimistic_end(begun(0.5, "from scratch"), ALIKE) is None
    assert optimistic_end(begun(0.5, epochs=3), ALIKE) is None


def test_the_best_epoch_so_far_counts_since_it_is_the_one_that_is_kept() -> None:
    peers = [PastTraining(LearningCurve("warm", 3, (0.8, 0.1, 0.8)), 0.8) for _ in range(PEERS)]
    assert optimistic_end(LearningCurve("warm", 3, (0.85, 0.2)), peers) == pytest.approx(0.85)


CURVES = st.lists(st.tuples(METRICS, st.floats(0.0, 50.0)), min_size=PEERS, max_size=12)


@given(pairs=CURVES, metric=METRICS, scale=st.sampled_from([0.25, 2.0, 1024.0]), shift=st.sampled_from([-64.0, 8.0]))
def test_the_unit_and_the_zero_of_the_metric_do_not_matter(
    pairs: list[tuple[float, float]], metric: float, scale: float, shift: float
) -> None:
    def told(factor: float, offset: float) -> float:
        pairs_there = [(first * factor + offset, (first + gain) * factor + offset) for first, gain in pairs]
        answer = optimistic_end(begun(metric * factor + offset), past(*pairs_there))
        assert answer is not None
        return answer

    # Which of several are the nearest five may turn on the last bit where two are equally far: those are left out.
    leads = sorted(abs(metric - first) for first, _ in pairs)
    if all(after - before > 1e-6 for before, after in pairwise(leads)):
        assert told(scale, shift) == pytest.approx(told(1.0, 0.0) * scale + shift, abs=1e-6 * scale + 1e-6)


@given(pairs=CURVES, metric=METRICS)
def test_nothing_is_projected_below_what_is_reached_already(pairs: list[tuple[float, float]], metric: float) -> None:
    projected = optimistic_end(begun(metric), past(*((first, first + gain) for first, gain in pairs)))
    assert projected is not None
    assert projected >= metric - 1e-9


def test_rungs_are_powers_of_two_below_the_last_epoch() -> None:
    assert [epoch for epoch in range(1, 13) if is_rung(epoch, 12)] == [1, 2, 4, 8]
    assert [epoch for epoch in range(1, 9) if is_rung(epoch, 8)] == [1, 2, 4]
    assert not is_rung(1, 1)
