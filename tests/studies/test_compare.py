"""Two runs beside each other: coverage against brute force, volumes by hand, and what is said where they differ."""

from __future__ import annotations

import json
import math
from io import StringIO
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from karui.evaluators.row_scores import RowScores, RowStore
from karui.search.objectives import OBJECTIVES
from karui.studies.comparing.common_candidates import compare_common
from karui.studies.comparing.compare import Comparison, compare_runs, covered_by, load_run
from karui.studies.comparing.compare_plot import draw_comparison
from karui.studies.comparing.compare_view import comparison_table, comparison_view
from karui.studies.comparing.matched import matched_by
from karui.studies.storage.folder import RunFolder

from .conftest import Command
from .made_results import DEVICE, Point, make_results

POINTS = st.lists(st.tuples(*(st.integers(1, 4).map(float) for _ in range(3))), max_size=8)
ONE, OTHER = [(0.1, 0.5, 0.90), (0.5, 0.25, 0.95)], [(0.1, 0.25, 0.92), (0.9, 0.9, 0.93)]


def compared(tmp_path: Path, one: list[Point] = ONE, other: list[Point] = OTHER, **changed: object) -> Comparison:
    first = make_results(tmp_path / "first", one, keys=["aaaa", "bbbb"][: len(one)])
    second = make_results(tmp_path / "second", other, keys=["aaaa", "cccc"][: len(other)], **changed)  # type: ignore[arg-type]
    return compare_runs(load_run(first), load_run(second))


# --- the fronts -------------------------------------------------------------------------------------------------------


@given(points=POINTS, others=POINTS)
def test_coverage_is_what_brute_force_finds(points: list[Point], others: list[Point]) -> None:
    found = covered_by(np.array(points).reshape(-1, 3), np.array(others).reshape(-1, 3))
    assert found == tuple(any(o[0] <= p[0] and o[1] <= p[1] and o[2] >= p[2] for o in others) for p in points)


def test_coverage_and_volumes_are_those_by_hand(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.first.covered == (True, False)
    # (0.9, 0.9, 0.93) has less accuracy than (0.5, 0.25, 0.95) and no less of anything else
    assert found.second.covered == (False, True)
    assert (found.first.covered_share, found.second.covered_share) == (0.5, 0.5)
    # Against the baseline, 1 in size and latency, and ten points below its 0.96: boxes in logarithms.
    big, small = math.log(10) * math.log(2), math.log(2) * math.log(4)
    shared = math.log(2) * math.log(2)
    assert found.first.hypervolume == pytest.approx(big * 0.04 + small * 0.09 - shared * 0.04)
    inner = math.log(1 / 0.9) ** 2
    assert found.second.hypervolume == pytest.approx(math.log(10) * math.log(4) * 0.06 + inner * 0.01)


@given(points=POINTS, others=POINTS, noise=st.integers(0, 2))
def test_what_is_matched_is_what_brute_force_finds(points: list[Point], others: list[Point], noise: int) -> None:
    own, theirs = (np.array(each).reshape(-1, 3) for each in (points, others))
    within = np.full((len(points), len(others), 3), float(noise))

    def no_worse(other: Point, point: Point) -> bool:
        worse_by = (other[0] - point[0], other[1] - point[1], point[2] - other[2])
        return all(each <= 0 or each < noise for each in worse_by)

    found = matched_by(own, theirs, within, OBJECTIVES)
    assert found == tuple(any(no_worse(other, point) for other in others) for point in points)


def test_accuracies_of_two_runs_are_compared_row_by_row(tmp_path: Path) -> None:
    """0.95 and 0.94 with 0.02 each: may be noise, but not where one file is right wherever the other is."""

    def told() -> Comparison:
        return compare_runs(load_run(tmp_path / "first"), load_run(tmp_path / "second"))

    folders = [
        make_results(tmp_path / name, [(0.5, 0.5, accuracy)], keys=[name])
        for name, accuracy in (("first", 0.95), ("second", 0.94))
    ]
    assert (told().first.covered, told().first.matched, told().paired) == ((False,), (True,), False)
    assert "count as independent" in comparison_view(told()).plain
    for place, (folder, wrong) in enumerate(zip(folders, (50, 60), strict=True)):
        front = pd.read_csv(folder / "front.csv").assign(sha256=str(place) * 64)
        front.to_csv(folder / "front.csv", index=False)
        scores = RowScores((np.arange(1000) >= wrong).astype(float), "one split")
        RowStore(RunFolder(folder).rows).keep("test", str(place) * 64, scores)
    found = told()
    assert (found.first.matched, found.second.matched, found.paired) == ((False,), (True,), True)
    assert "row by row" in comparison_view(found).plain
    assert comparison_table(found)["matched_by_other"].tolist() == [False, True]
    assert json.loads(json.dumps(found.to_dict()))["first"]["matched"] == [False]


def test_a_run_beside_itself_is_covered_whole(tmp_path: Path) -> None:
    found = compared(tmp_path, other=ONE)
    assert found.first.covered_share == found.second.covered_share == 1.0
    assert found.first.hypervolume == found.second.hypervolume > 0
    assert found.common.median_change == 1.0


def test_an_empty_front_has_no_share(tmp_path: Path) -> None:
    first = make_results(tmp_path / "first", ONE)
    second = make_results(tmp_path / "second", OTHER)
    (second / "front.csv").write_text("point\n")
    found = compare_runs(load_run(first), load_run(second))
    assert (found.second.covered_share, found.second.hypervolume) == (None, 0.0)
    assert found.first.covered == (False, False)
    assert not found.on_test, "an empty front was measured on no split"


# --- what can be compared ---------------------------------------------------------------------------------------------


def test_the_same_baseline_and_device_are_compared_in_units(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.absolute
    assert [note.split(".")[0] for note in found.notes] == ["One baseline, one kind of device"]


def test_devices_and_baselines_that_differ_are_told(tmp_path: Path) -> None:
    found = compared(tmp_path, device={**DEVICE, "processor": "Q", "threads": 4}, baseline_digest="cc" * 32)
    assert not found.absolute
    assert "The devices differ (processor 'P' and 'Q', threads 2 and 4): only ratios" in found.notes[0]
    assert "The baselines are two files" in found.notes[1]
    # Ratios are compared all the same.
    assert found.first.covered == (True, False)


def test_a_run_that_names_no_runtime_was_made_by_onnxruntime(tmp_path: Path) -> None:
    assert compared(tmp_path / "a", device={**DEVICE, "runtime": "onnxruntime"}).absolute
    found = compared(tmp_path / "b", device={**DEVICE, "runtime": "openvino"})
    assert "runtime 'onnxruntime' and 'openvino'" in found.notes[0]


def test_without_the_test_split_in_both_validation_counts(tmp_path: Path) -> None:
    first, second = make_results(tmp_path / "a", ONE), make_results(tmp_path / "b", OTHER)
    front = pd.read_csv(second / "front.csv").drop(columns=["test_accuracy", "test_accuracy_spread"])
    front.assign(accuracy=[0.5, 0.6]).to_csv(second / "front.csv", index=False)
    found = compare_runs(load_run(first), load_run(second))
    assert not found.on_test
    assert found.second.accuracies == (0.5, 0.6)
    assert found.first.baseline_accuracy == 0.98
    assert any("validation split" in note for note in found.notes)


# --- what both have measured ------------------------------------------------------------------------------------------


def trials_of(ratios: dict[str, float], spread: float = 0.01) -> pd.DataFrame:
    rows = [
        {"key": key, "candidate": f"c{key}", "state": "evaluated", "latency_ratio": ratio, "accuracy": 0.9}
        | {"latency_ratio_spread": spread * ratio}
        for key, ratio in ratios.items()
    ]
    return pd.DataFrame([*rows, {"key": "failed", "candidate": "", "state": "failed"}])


def test_the_change_of_a_candidate_is_the_ratio_of_its_ratios() -> None:
    found = compare_common(trials_of({"a": 0.5, "b": 0.2, "c": 1.0}), trials_of({"a": 0.75, "b": 0.2, "d": 1.0}))
    assert [item.key for item in found.candidates] == ["a", "b"], "what changed most comes first"
    assert found.candidates[0].change == pytest.approx(1.5)
    assert found.candidates[0].change_spread == pytest.approx(1.5 * math.hypot(0.01, 0.01))
    assert found.median_change == pytest.approx(1.25)


RATIOS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 12).map(lambda n: n / 4), max_size=7)


@given(one=RATIOS, other=RATIOS, spread=st.sampled_from([0.0, 0.1, 0.4]))
def test_flips_are_those_that_brute_force_finds(one: dict[str, float], other: dict[str, float], spread: float) -> None:
    found = compare_common(trials_of(one, spread), trials_of(other, spread))
    keys = sorted(set(one) & set(other))
    noise = math.hypot(spread, spread)
    pairs = [(i, j) for place, i in enumerate(keys) for j in keys[place + 1 :]]
    certain = [
        (i, j)
        for i, j in pairs
        if abs(math.log(one[i] / one[j])) > noise and abs(math.log(other[i] / other[j])) > noise
    ]
    turned = {frozenset((f"c{i}", f"c{j}")) for i, j in certain if (one[i] < one[j]) != (other[i] < other[j])}
    assert found.told_apart == len(certain)
    assert {frozenset((flip.faster_in_first, flip.faster_in_second)) for flip in found.flips} == turned
    assert all(flip.first_share < 1 < flip.second_share for flip in found.flips)
    certainty = [min(-math.log(flip.first_share), math.log(flip.second_share)) for flip in found.flips]
    assert all(before >= after - 1e-12 for before, after in pairwise(certainty))


def test_runs_with_nothing_in_common_say_so(tmp_path: Path, karui_command: Command) -> None:
    first = make_results(tmp_path / "first", ONE, keys=["a" * 4, "b" * 4])
    second = make_results(tmp_path / "second", OTHER, keys=["c" * 4, "d" * 4])
    assert "No candidate was measured in both runs." in karui_command("compare", first, second).out


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_picture_and_a_table(tmp_path: Path, karui_command: Command) -> None:
    first = make_results(tmp_path / "first", ONE, keys=["aaaa", "bbbb"])
    second = make_results(tmp_path / "second", OTHER, keys=["aaaa", "cccc"])
    shown = karui_command("compare", first, second)
    assert (shown.code, shown.err) == (0, "")
    assert "A p01 10.0 KB 10.0x 1.000 ms 2.00x 0.9000 ± 0.0100 by B" in " ".join(shown.out.split())
    assert "C(B, A) = 0.50" in shown.out
    assert "Measured in both: 1." in shown.out
    assert "picture: compare.png" in shown.out
    picture = matplotlib.image.imread(tmp_path / "compare.png")
    assert picture.shape[:2] == (round(5.2 * 130), 12 * 130)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10, "something is drawn"
    other = tmp_path / "elsewhere" / "two.png"
    table = pd.read_csv(StringIO(karui_command("compare", first, second, "--format", "csv", "--plot", other).out))
    assert other.exists()
    assert table["run"].to_list() == ["A", "A", "B", "B"]
    assert table["size_x"].to_list() == pytest.approx([10, 2, 10, 1 / 0.9])
    assert table["covered_by_other"].to_list() == [True, False, False, True]
    plain = json.loads(karui_command("compare", first, second, "--format", "json").out)
    assert plain["covered_shares"] == {"first": 0.5, "second": 0.5}
    assert plain["common"]["candidates"][0]["change"] == pytest.approx(0.5)


def test_other_devices_are_shown_in_ratios(tmp_path: Path, karui_command: Command) -> None:
    first = make_results(tmp_path / "first", ONE)
    second = make_results(tmp_path / "second", OTHER, device={**DEVICE, "processor": "Q"})
    shown = karui_command("compare", first, second)
    assert "The devices differ" in shown.out
    assert " ms " not in shown.out.split("covered\n")[1].split("Hypervolume")[0]


def test_a_name_that_looks_like_a_formula_is_shown_as_it_is(tmp_path: Path) -> None:
    figure = Figure()
    axes = figure.subplots()
    first = make_results(tmp_path / r"$\frac{$" / "same", ONE)
    second = make_results(tmp_path / "b$c" / "same", OTHER)
    draw_comparison(axes, compare_runs(load_run(first), load_run(second)), "size")
    texts = axes.legend().get_texts()
    assert texts[0].get_text().replace("\\$", "$") == f"A: {first}"
    figure.draw_without_rendering()  # where a formula that is none would raise


def test_what_cannot_be_compared_is_told(tmp_path: Path, karui_command: Command) -> None:
    first = make_results(tmp_path / "first", ONE)
    finished = karui_command("compare", first, "digits")
    assert finished.code == 2
    assert finished.err.startswith("error: there are no results of 'digits' yet")
    finished = karui_command("compare", first, first, "--plot", "/proc/karui/two.png")
    assert finished.code == 2
    assert finished.err.startswith("error: the picture cannot be written")
    (first / "trials.csv").write_text("")
    finished = karui_command("compare", first, first)
    assert (finished.code, "the trials cannot be read" in finished.err) == (2, True)
