"""Scores of rows: what is kept of which metric, and differences of two files against simulation and exact tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from karui.evaluators.accuracy import AccuracyEvaluator
from karui.evaluators.row_scores import RowScores, RowStore, difference_spreads
from karui.spaces.artifact import Artifact
from karui.spaces.task import Metric, Pairs, top1_accuracy

MakeArtifact = Callable[..., Artifact]
INPUTS = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0]]).repeat(4, 1)[:10]
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 1])
RIGHT = [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def scores_of(metric: Metric, artifact: Artifact, folder: Path, targets: torch.Tensor = TARGETS) -> RowScores | None:
    split = cast("Pairs", TensorDataset(INPUTS, targets))
    store = RowStore(folder)
    AccuracyEvaluator(split, metric, "metric", "test", rows=store).measure(artifact)
    return store.get("test", artifact.digest)


def rows(values: Any, split: str = "a") -> RowScores:
    return RowScores(np.asarray(values, dtype=np.float64), split)


def square_error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return -float(((outputs[:, 0] - targets) ** 2).mean())


def root_of_it(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return -math.sqrt(-square_error(outputs, targets))


def balanced(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    right = outputs.argmax(dim=1) == targets
    return float(torch.stack([right[targets == each].double().mean() for each in torch.arange(3)]).mean())


def no_single_row(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    if len(outputs) < 2:
        raise ValueError("two rows at least")
    return top1_accuracy(outputs, targets)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (top1_accuracy, RIGHT),
        (lambda outputs, targets: 100 * top1_accuracy(outputs, targets), [100 * each for each in RIGHT]),
        (square_error, [-float((given - target) ** 2) for given, target in zip(INPUTS[:, 0], TARGETS, strict=True)]),
        (root_of_it, None),
        (balanced, None),
        (no_single_row, None),
    ],
)
def test_rows_are_kept_of_metrics_that_are_their_mean(
    metric: Metric, expected: list[float] | None, scaling: Artifact, tmp_path: Path
) -> None:
    artifact = scaling
    found = scores_of(metric, artifact, tmp_path)
    assert (found is None) == (expected is None)
    if found is not None:
        outputs = INPUTS if metric is not square_error else None
        assert outputs is None or found.scores.tolist() == expected
        assert len(found.scores) == 10


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=70), st.sampled_from([1.0, 100.0, -3.0]))
def test_what_was_kept_is_read_again(values: list[float], unit: float) -> None:
    kept = rows([unit * value for value in values])
    found = RowScores.from_bytes(kept.to_bytes())
    assert found.scores.tolist() == kept.scores.tolist()
    assert found.split_digest == "a"


def test_a_bit_a_row() -> None:
    chance = np.random.default_rng(0)
    assert len(rows(chance.integers(2, size=50_000)).to_bytes()) < 50_000 / 8 + 1500
    assert len(rows(chance.normal(size=1000)).to_bytes()) < 4 * 1000 + 1500


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", rows([0, 1, 1]).to_bytes()[:-40]])
def test_what_is_damaged_pairs_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "aa.npz").write_bytes(content)
    assert RowStore(tmp_path).get("test", "aa") is None
    assert RowStore(tmp_path).get("test", "../aa") is None


def test_other_targets_are_another_split(make_scaling: MakeArtifact, tmp_path: Path) -> None:
    one, other = make_scaling(name="one.onnx"), make_scaling(name="other.onnx", factor=2.0)
    first = scores_of(top1_accuracy, one, tmp_path)
    second = scores_of(top1_accuracy, other, tmp_path)
    elsewhere = scores_of(top1_accuracy, other, tmp_path, TARGETS.flip(0))
    assert first is not None
    assert second is not None
    assert elsewhere is not None
    assert first.difference_spread(second) is not None
    assert first.difference_spread(elsewhere) is None
    assert first.difference_spread(rows(RIGHT[:9], first.split_digest)) is None


# --- differences ------------------------------------------------------------------------------------------------------


def differing(count: int, gained: int, lost: int) -> tuple[RowScores, RowScores]:
    one, other = np.ones(count), np.ones(count)
    other[:gained] = 0
    one[gained : gained + lost] = 0
    return rows(one), rows(other)


def exact_p(gained: int, lost: int) -> float:
    """McNemar's exact test, both sides: the rows on which two differ fall to either by a fair coin."""
    count, least = gained + lost, min(gained, lost)
    return float(min(1.0, 2 * sum(math.comb(count, k) for k in range(least + 1)) / 2**count))


@pytest.mark.parametrize("lost", [0, 1, 3, 8])
def test_who_is_better_is_told_as_by_the_exact_test(lost: int) -> None:
    for gained in range(41):
        one, other = differing(1000, gained, lost)
        is_certain = abs(gained - lost) / 1000 > (one.difference_spread(other) or 0.0)
        p = exact_p(gained, lost) if gained + lost else 1.0
        assert is_certain or p > 0.02, "what the exact test is sure of is told"
        assert not is_certain or p < 0.08, "and hardly anything else"


def test_two_alike_are_still_known_by_their_rows_only() -> None:
    one, other = differing(1000, 0, 0)
    assert one.difference_spread(other) == pytest.approx(1.96 / 1002)


@pytest.mark.parametrize("unit", [1.0, 100.0, 1e-3])
def test_the_interval_of_a_difference_holds_what_it_says(unit: float) -> None:
    chance = np.random.default_rng(1)
    within = paired = apart = 0.0
    for _ in range(2000):
        hard = chance.random(400)
        one, other = hard < 0.93, np.where(chance.random(400) < 0.04, chance.random(400) < 0.5, hard < 0.93)
        # by 0.04 chances in 2 of a coin: true accuracies of .93 and .93 * .96 + .02
        truth = unit * (0.93 - (0.93 * 0.96 + 0.02))
        spread = rows(unit * one).difference_spread(rows(unit * other))
        assert spread is not None
        within += abs(unit * (one.mean() - other.mean()) - truth) <= spread
        paired += spread / 2000
        apart += unit * 1.96 * math.hypot(one.std(), other.std()) / 20 / 2000
    assert 0.93 < within / 2000 < 0.98
    assert paired < 0.7 * apart, "what both stumble over is no noise of the difference"


@given(st.integers(0, 2**32 - 1))
def test_scores_that_are_no_bits_are_compared_as_their_differences(seed: int) -> None:
    chance = np.random.default_rng(seed)
    one, other = chance.normal(size=30), chance.normal(size=30)
    expected = 1.96 * np.std(one - other, ddof=1) / math.sqrt(30)
    assert rows(one).difference_spread(rows(other)) == pytest.approx(expected)


def test_every_two_files_are_compared() -> None:
    one, other = differing(100, 5, 1)
    found = difference_spreads([one, None, other, rows([1, 0], "b")])
    assert found.shape == (4, 4)
    assert found[0, 2] == found[2, 0] == one.difference_spread(other)
    assert np.isnan(found[0, [1, 3]]).all()
    assert not np.diag(found).any()
