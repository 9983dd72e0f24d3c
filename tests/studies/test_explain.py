"""Why this point: its neighbours against brute force, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.evaluators.row_scores import RowScores, RowStore
from karui.studies.choosing.choose import Budget, choose
from karui.studies.choosing.explain import Difference, explain_choice, find_neighbours
from karui.studies.choosing.judge import judge_front

from .conftest import Command
from .made_results import make_results

BASELINE = {"size_bytes": 100.0, "latency_ms": 10.0, "accuracy": 0.9}
POINTS = st.lists(
    st.tuples(st.integers(1, 6).map(float), st.integers(1, 6).map(float), st.integers(1, 6).map(lambda n: n / 10)),
    min_size=1,
    max_size=9,
    unique=True,
)
# of the baseline: 100,000 bytes, 2 ms
FRONT = [(0.1, 0.6, 0.90), (0.2, 0.2, 0.93), (0.4, 0.3, 0.955), (0.8, 0.9, 0.96)]


@settings(deadline=None, max_examples=200)
@given(points=POINTS, data=st.data())
def test_neighbours_are_those_that_brute_force_finds(
    points: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(points) - 1))
    table = pd.DataFrame(points, columns=["size_bytes", "latency_ms", "accuracy"])
    table = table.assign(point=[f"p{row}" for row in range(len(points))], candidate="c")
    found = find_neighbours(judge_front(table, Budget(), BASELINE), chosen)
    losses = [(size, latency, -accuracy) for size, latency, accuracy in points]
    for column, neighbour in enumerate(found):
        better = [loss for loss in losses if loss[column] < losses[chosen][column]]
        if not better:
            assert neighbour is None
            continue
        assert neighbour is not None
        # The worst of the better ones; of several that are alike there, the best in the others.
        expected = min(better, key=lambda loss: (-loss[column], *(loss[i] for i in range(3) if i != column)))
        row = neighbour.row
        assert (row["size_bytes"], row["latency_ms"], -row["accuracy"]) == expected
        here = [difference.here for difference in neighbour.differences]
        assert here == list(points[chosen])


def test_a_difference_is_noise_where_it_is_no_larger_than_both_spreads_together() -> None:
    assert Difference(0.9, 0.905, 0.01).within_noise
    assert not Difference(0.9, 0.92, 0.01).within_noise
    assert not Difference(0.9, 0.9, 0.01).within_noise, "nothing to tell apart"


def test_what_rounds_to_no_difference_is_one_of_less_than_a_tenth_of_a_percent(tmp_path: Path) -> None:
    # 1 % of 0.6 ms, twice: 0.0085 ms on the difference
    results = make_results(tmp_path / "results", [(0.4, 0.300005, 0.955), (0.8, 0.3, 0.96)])
    said = explain_choice(choose(results, prefer="size"))
    assert "less than 0.1% faster (0.6 ± 0.0085 ms, within noise)" in " ".join(said)
    assert " 0.0%" not in " ".join(said)


def test_the_sentences_say_what_neighbours_give_and_cost(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", FRONT)
    said = explain_choice(choose(results, budget=Budget(max_size="50KB", min_accuracy=0.91), prefer="accuracy"))
    assert said[0] == "p03 is the most accurate of the 2 points that keep the budget, of 4 on the front."
    assert said[1] == "size_bytes <= 50000 leaves out 1 of 4: p04."
    assert said[2] == "accuracy >= 0.91 leaves out 1 of 4: p01."
    # p02: half of 40 KB; 0.2 of 2 ms instead of 0.3; 0.02 on each accuracy is 2.83 points on their difference
    assert said[3].startswith(
        "Next smaller: p02 (candidate p02), 50.0% smaller (20.0 KB instead of 40.0 KB); 33.3% faster"
    )
    assert "2.50 ± 2.83 points of accuracy fewer on validation, within noise (0.9300 instead of 0.9550)" in said[3]
    assert "It breaks" not in said[3]
    # 1 % of 0.4 and of 0.6 ms
    assert "(0.4 ms instead of 0.6 ms, -0.2 ± 0.0072 ms)" in said[4]
    assert said[4].startswith("Next faster: p02")
    assert said[5].startswith(
        "Next more accurate: p04 (candidate p04), 0.50 ± 2.83 points of accuracy more on validation"
    )
    assert said[5].endswith("It breaks size_bytes <= 50000.")


def test_the_knee_is_told_with_its_distances(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", [(0.1, 0.1, 0.90), (0.1, 0.2, 0.91), (1.0, 0.4, 0.95)])
    said = explain_choice(choose(results, prefer="knee"))
    # p01: (0, 0, 1); p02: (0, log 2 / log 4, 0.8), sqrt(0.25 + 0.64) = 0.94 away; p03: (1, 1, 0)
    assert said[0].startswith("p02 is the best compromise among the 3 points that keep the budget")
    assert (
        "it lies at 0.00 in size, 0.50 in latency (both by their logarithm) and 0.80 in accuracy: 0.94 away" in said[0]
    )
    assert "Next comes p01, 1.00 away." in said[0]
    assert "Yu 1973" in said[1]


def test_what_is_recommended_is_explained_among_those_that_lose_a_point_at_most(tmp_path: Path) -> None:
    # the baseline has 0.98: the first loses two points, and would be the best compromise of all
    points = [(0.1, 0.1, 0.96), (0.4, 0.3, 0.97), (0.5, 0.4, 0.974), (0.9, 0.8, 0.98)]
    results = make_results(tmp_path / "results", points)
    said = explain_choice(choose(results))
    among = "the 3 points that keep the budget and lose at most 1 point of accuracy on validation, of 4 on the front."
    assert said[0].startswith(f"p03 is the best compromise among {among}")
    assert explain_choice(choose(results, prefer="knee"))[0].startswith("p02 is the best compromise among the 4")
    none = make_results(tmp_path / "none", [(0.1, 0.1, 0.9), (0.4, 0.3, 0.95)])
    assert explain_choice(choose(none))[0].startswith("No point loses at most 1 point of accuracy on validation")


def test_accuracies_of_two_points_are_compared_row_by_row(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", [(0.1, 0.6, 0.92), (0.2, 0.7, 0.94)])
    digests = pd.read_csv(results / "front.csv")["sha256"]
    store = RowStore(results / "build" / "rows")
    for digest, wrong in zip(digests, (24, 18), strict=True):
        store.keep("validation", digest, RowScores((np.arange(300) >= wrong).astype(float), "split"))
    said = explain_choice(choose(results, point="p01"))[-1]
    # 6 of 300 rows, all in favour of one: 1.96 sqrt(7 - 36 / 302) / 302
    assert "2.00 ± 1.70 points of accuracy more on validation (" in said


def test_a_point_that_is_alone_or_named_says_so(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", FRONT)
    only = explain_choice(choose(results, budget=Budget(max_size="15KB")))
    assert only[0] == "p01 is the only one of 4 points that keeps the budget."
    assert "No point of the front is smaller." in only
    named = explain_choice(choose(results, point="p04"))
    assert named[0] == "p04 was named; it is one of 4 of 4 points that keep the budget."
    assert "No point of the front is more accurate." in named


def test_a_front_so_far_is_explained_by_validation(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", FRONT)
    front = pd.read_csv(results / "front.csv")
    without = front.drop(columns=["test_accuracy", "test_accuracy_spread", "size_x", "speed_x", "drop_points", "holds"])
    without.assign(accuracy=[0.5, 0.6, 0.7, 0.8]).to_csv(results / "front.csv", index=False)
    said = explain_choice(choose(results, point="p01"))
    # The spread of validation is 2 points on each.
    assert "10.00 ± 2.83 points of accuracy more on validation (0.6000 instead of 0.5000)" in said[-1]


def test_the_command_explains_and_counts(tmp_path: Path, karui_command: Command) -> None:
    results = make_results(tmp_path / "results", FRONT)
    finished = karui_command(
        *("pick", results, "--point", "p02", "--explain", "--requests", "10M/month", "--price", "0.04/core-hour")
    )
    assert (finished.code, finished.err) == (0, "")
    assert "p02 was named" in finished.out
    assert "Next smaller: p01" in finished.out
    # 10 million runs of 2 ms on 2 threads: 11.1 core-hours; a fifth of that with this file
    assert "10,000,000 requests a month take 2.22 core-hours instead of 11.1" in finished.out
    # The spreads, 1 % of the baseline's 2 ms and 1 % of the ratio 0.2: hypot(0.8 x 0.02, 2 x 0.002) of 2 ms.
    assert "saves 0.3556 ± 0.0037 a month (80.0%)" in finished.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--requests", "10M/month"], ["belong together", "--requests alone"]),
        (["--price", "1/core-hour"], ["belong together", "--price alone"]),
        (["--requests", "10m/month", "--price", "1/core-hour"], ["--requests", "'10m/month'", "10M/month"]),
        (["--requests", "10M/month", "--price", "1/hour"], ["--price", "'1/hour'", "0.04/core-hour"]),
        (["--point", "p9"], ["--point", "p01, p02, p03, p04"]),
    ],
)
def test_a_wrong_use_is_told(tmp_path: Path, karui_command: Command, options: list[str], words: list[str]) -> None:
    finished = karui_command("pick", make_results(tmp_path / "results", FRONT), *options)
    assert finished.code == 2
    assert finished.err.startswith("error: ")
    assert [word for word in words if word not in finished.err] == []
    assert finished.out == ""
