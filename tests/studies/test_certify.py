"""The table of a front that was measured again: who is in it, with which mark, in which order, and with which files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from karui.errors import OutputError
from karui.evaluators.measurement import Measurement
from karui.evaluators.row_scores import RowScores, RowStore
from karui.search.record import TrialRecord
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.candidate import Candidate
from karui.studies.certifying.certify import Certified, certify, files_to_measure
from karui.studies.certifying.fresh import Fresh
from karui.studies.certifying.front_point import front_table, write_descriptions
from karui.studies.certifying.remeasuring import MeasuredAgain
from karui.studies.commands.views import front_view
from karui.studies.results.certification import Certification
from karui.studies.results.tables import TEST_ACCURACY
from karui.studies.storage.folder import RunFolder

from .conftest import make_record

BASELINE = {
    "size_bytes": Measurement("size_bytes", 100.0, "bytes"),
    "latency_ms": Measurement("latency_ms", 10.0, "ms"),
    "accuracy": Measurement("accuracy", 0.95, "1", 0.01, 100),
    TEST_ACCURACY: Measurement(TEST_ACCURACY, 0.95, "1", 0.01, 150),
}


class Files:
    """Trials with files in a folder, and what was measured of them again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, number: int, *values: float) -> TrialRecord:
        path = self.path(number)
        path.write_text(f"file of trial {number}")
        record = make_record(number, *values, digest=file_digest(path))
        return replace(record, candidate=Candidate(weight_bits=2 + number))

    def path(self, number: int) -> Path:
        return self.folder / f"{number}.onnx"

    def fresh(self, record: TrialRecord, latency: float, accuracy: float) -> Fresh:
        assert record.outcome is not None
        again = {
            "latency_ms": Measurement("latency_ms", latency, "ms", 0.1, 20),
            "latency_ratio": Measurement("latency_ratio", latency / 10, "1", 0.01, 20),
            TEST_ACCURACY: Measurement(TEST_ACCURACY, accuracy, "1", 0.02, 150),
        }
        artifact = Artifact(self.path(record.number), record.outcome.digest)
        return Fresh(record, artifact, {**record.outcome.measurements, **again})

    # --- as a bench finds files

    def find_artifact(self, record: TrialRecord) -> Artifact:
        if not self.path(record.number).exists():
            self.path(record.number).write_text("made again, and came out different")
        return Artifact(self.path(record.number), file_digest(self.path(record.number)))

    def kept_artifact(self, record: TrialRecord) -> Artifact | None:
        return self.find_artifact(record) if self.path(record.number).exists() else None


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def certified(files: Files) -> tuple[Certified, list[TrialRecord]]:
    """Three trials of the front, of which one cannot be measured, and two from its edge, of which one comes in."""
    front = [files.record(0, 10.0, 5.0, 0.80), files.record(1, 20.0, 4.0, 0.85), files.record(2, 40.0, 3.0, 0.90)]
    edge = [files.record(3, 30.0, 4.1, 0.85), files.record(4, 12.0, 5.1, 0.80)]
    found = (
        files.fresh(front[0], 5.0, 0.80),
        files.fresh(front[2], 3.0, 0.90),
        files.fresh(edge[0], 3.9, 0.91),
        files.fresh(edge[1], 5.1, 0.79),
    )
    again = MeasuredAgain(found, {1: "answers with NaN"}, same_process="so it was")
    return certify(front, again, BASELINE, RunFolder(files.folder / "results"), {"threads": 1}), [*front, *edge]


def test_the_front_stays_and_from_its_edge_comes_what_nothing_dominates(files: Files) -> None:
    found, _ = certified(files)
    assert [(point.name, point.record.number) for point in found.points] == [("p01", 0), ("p02", 3), ("p03", 2)]
    assert [point.mark for point in found.points] == ["holds", "holds", "holds"]
    told = found.certification
    assert told.lost == ("trial 1 fell off when it was measured again: answers with NaN",)
    assert (told.points, told.edge_measured, told.edge_admitted) == (3, 2, 1)
    assert (told.same_process, told.conditions) == ("so it was", {"threads": 1})


def test_a_lost_file_of_the_edge_is_nobodys_loss(files: Files) -> None:
    front = [files.record(0, 10.0, 5.0, 0.80)]
    again = MeasuredAgain((files.fresh(front[0], 5.0, 0.8),), {9: "answers with NaN"})
    found = certify(front, again, BASELINE, RunFolder(files.folder / "results"), {})
    assert (found.certification.lost, found.certification.edge_measured) == ((), 0)


def test_the_folder_of_the_front_holds_its_files_and_no_others(files: Files) -> None:
    folder = files.folder / "results" / "front"
    folder.mkdir(parents=True)
    (folder / "p09-old.onnx").touch()
    (folder / "p09-old.json").touch()
    found, _ = certified(files)
    write_descriptions(found.points, "study", BASELINE)
    names = {f"{point.name}-{point.record.key}" for point in found.points}
    assert {path.name for path in folder.iterdir()} == {f"{name}.{end}" for name in names for end in ("onnx", "json")}
    for point in found.points:
        assert point.file.read_text() == f"file of trial {point.record.number}"
        described: dict[str, Any] = json.loads(point.file.with_suffix(".json").read_text())
        assert (described["mark"], described["holds"]) == (point.mark, True)
        assert described["front_probability"] == point.front_probability


def test_points_that_fell_off_or_are_covered_are_in_the_table_and_say_so(files: Files) -> None:
    front = [files.record(0, 10.0, 5.0, 0.80), files.record(1, 20.0, 4.0, 0.82), files.record(2, 21.0, 9.0, 0.825)]
    found = (
        files.fresh(front[0], 5.0, 0.80),
        files.fresh(front[1], 5.2, 0.70),  # slower than the search saw, and it loses 12 points more on test
        files.fresh(front[2], 9.0, 0.82),  # nearly twice as slow as the smallest, for 2.5 points of accuracy
    )
    done = certify(front, MeasuredAgain(found, {}), BASELINE, RunFolder(files.folder / "results"), {})
    table = front_table(done.points, BASELINE)
    assert table["mark"].to_list() == ["holds", "fell off", "holds"]
    assert table["holds"].to_list() == [True, False, True]
    assert table["covered_by"].fillna("").to_list() == ["", "p01", "p01"]
    assert table["search_latency_ms"].to_list() == [5.0, 4.0, 9.0]
    assert table["latency_ms"].to_list() == [5.0, 5.2, 9.0]
    # They belong to the front as often as validation accuracy is higher than that of all smaller ones, known to 0.02.
    drawn = np.random.default_rng(0).normal([0.80, 0.82, 0.825], 0.02 / 1.96, (100_000, 3))
    higher = [float(np.mean(drawn[:, place] > drawn[:, :place].max(axis=1))) for place in (1, 2)]
    assert table["front_probability"].to_list() == pytest.approx([1.0, *higher], abs=0.04)


def test_the_view_shows_marks_and_says_where_there_is_no_certain_gain(files: Files) -> None:
    front = [files.record(0, 10.0, 5.0, 0.80), files.record(1, 20.0, 9.0, 0.79)]
    again = MeasuredAgain((files.fresh(front[0], 5.0, 0.80), files.fresh(front[1], 9.0, 0.81)), {})
    done = certify(front, again, BASELINE, RunFolder(files.folder / "results"), {})
    console = Console(width=200, _environ={})
    with console.capture() as capture:
        console.print(front_view(front_table(done.points, BASELINE)))
    head, first, candidate, second, other, *_ = capture.get().splitlines()
    assert head.endswith("test accuracy  mark")
    assert first.startswith("p01")
    assert first.endswith("  holds")
    assert second.endswith("  within noise")
    assert max(map(len, (head, first, second))) <= 80
    assert candidate.strip() == "baseline, w2 a32"
    assert other.strip() == "baseline, w3 a32; no certain gain over p01"


def test_a_front_of_an_earlier_version_is_shown_without_marks(files: Files) -> None:
    done, _ = certified(files)
    table = front_table(done.points, BASELINE).drop(columns=["mark", "front_probability", "covered_by"])
    table["holds"] = [True, False, True]
    lines = front_view(table).plain.splitlines()
    assert [lines[row].split()[-1] for row in (1, 3, 5)] == ["holds", "dominated", "holds"]


# --- chosen by validation, reported on test ---------------------------------------------------------------------------


def test_what_the_test_split_says_neither_admits_nor_dominates(files: Files) -> None:
    front = [files.record(0, 10.0, 5.0, 0.80)]
    edge = [files.record(1, 10.0, 5.0, 0.79), files.record(2, 12.0, 5.0, 0.79)]
    # both are better on test by six points, and that is no reason to have them
    found = (files.fresh(front[0], 5.0, 0.80), *(files.fresh(each, 5.0, 0.86) for each in edge))
    done = certify(front, MeasuredAgain(found, {}), BASELINE, RunFolder(files.folder / "results"), {})
    assert [point.record.number for point in done.points] == [0]
    assert done.certification.chosen_by == "validation"
    two = [files.record(0, 10.0, 5.0, 0.80), files.record(1, 20.0, 6.0, 0.81)]
    again = (files.fresh(two[0], 5.0, 0.80), files.fresh(two[1], 6.0, 0.795))
    done = certify(two, MeasuredAgain(again, {}), BASELINE, RunFolder(files.folder / "results"), {})
    assert [point.mark for point in done.points] == ["holds", "holds"]


def test_a_certification_of_an_earlier_version_says_that_test_chose(files: Files) -> None:
    done, _ = certified(files)
    plain = done.certification.to_dict()
    assert "test accuracies" not in done.certification.describe()
    del plain["chosen_by"]
    assert "chosen by the very test accuracies" in Certification.from_dict(plain).describe()


# --- compared row by row ----------------------------------------------------------------------------------------------


def keep_rows(folder: RunFolder, digest: str, split: str, right: NDArray[np.bool_]) -> float:
    RowStore(folder.rows).keep(split, digest, RowScores(right.astype(float), split))
    return float(right.mean())


def on_rows(files: Files) -> tuple[list[TrialRecord], MeasuredAgain, RunFolder, dict[str, Measurement]]:
    """Two files on 1,000 rows, the larger and slower one right wherever the other is, and on 12 rows more."""
    folder = RunFolder(files.folder / "results")
    hard = np.arange(1000)
    baseline = {
        **BASELINE,
        "latency_ms": Measurement("latency_ms", 10.0, "ms", conditions={"reference_digest": "ba" * 32}),
        "accuracy": Measurement("accuracy", keep_rows(folder, "ba" * 32, "validation", hard >= 70), "1", 0.016, 1000),
        TEST_ACCURACY: Measurement(TEST_ACCURACY, keep_rows(folder, "ba" * 32, "test", hard >= 70), "1", 0.016, 1000),
    }
    front, found = [], []
    for number, wrong in enumerate((100, 88)):
        record = files.record(number, 10.0 * (1 + number), 5.0 + number, 1 - wrong / 1000)
        assert record.outcome is not None
        for split in ("validation", "test"):
            keep_rows(folder, record.outcome.digest, split, hard >= wrong)
        front.append(record)
        found.append(files.fresh(record, 5.0 + number, 1 - wrong / 1000))
    return front, MeasuredAgain(tuple(found), {}), folder, baseline


def test_two_files_on_the_same_rows_are_told_apart(files: Files) -> None:
    front, again, folder, baseline = on_rows(files)
    paired = front_table(certify(front, again, baseline, folder, {}).points, baseline)
    assert paired["covered_by"].isna().all(), "12 rows to none: it is certain that the larger one is better"
    assert paired["front_probability"].to_list() == pytest.approx([1.0, 1.0], abs=0.01)
    assert paired["test_accuracy_lost"].to_list() == pytest.approx([0.03, 0.018])
    # 30 rows of 1,000 and 18, all lost, with half a row more in each cell
    expected = [1.96 * np.sqrt(lost + 1 - lost**2 / 1002) / 1002 for lost in (30, 18)]
    assert paired["test_accuracy_lost_spread"].to_list() == pytest.approx(expected)
    assert paired["accuracy_lost_spread"].to_list() == pytest.approx(expected)


def test_without_rows_they_count_as_independent(files: Files) -> None:
    front, again, folder, baseline = on_rows(files)
    for path in folder.rows.rglob("*.npz"):
        path.unlink()
    alone = front_table(certify(front, again, baseline, folder, {}).points, baseline)
    assert alone["covered_by"].fillna("").to_list() == ["", "p01"]
    assert alone["front_probability"][1] < 0.9
    assert alone["test_accuracy_lost_spread"].to_list() == pytest.approx([np.hypot(0.02, 0.016)] * 2)


@pytest.mark.parametrize("unit", [100.0, 1000.0, -1.0])
def test_points_lost_are_hundredths_of_the_metrics_scale(files: Files, unit: float) -> None:
    front = [files.record(0, 10.0, 5.0, 0.80)]
    fresh = files.fresh(front[0], 5.0, 0.80)
    value = 0.93 * unit if unit > 0 else 1.05 * unit  # of a baseline of 0.95 or, negative, of 1
    judged = {TEST_ACCURACY: Measurement(TEST_ACCURACY, value, "1", 0.0, 150)}
    baseline = {**BASELINE, TEST_ACCURACY: Measurement(TEST_ACCURACY, 0.95 * unit if unit > 0 else unit, "1", 0.0, 150)}
    again = MeasuredAgain((replace(fresh, measurements={**fresh.measurements, **judged}),), {})
    done = certify(front, again, baseline, RunFolder(files.folder / "results"), {})
    table = front_table(done.points, baseline)
    assert table["drop_points"][0] == pytest.approx({100.0: 2.0, 1000.0: 100 * 2 / 95, -1.0: 5.0}[unit])


# --- which files are measured again -----------------------------------------------------------------------------------


def test_files_of_the_edge_are_measured_where_they_are_at_hand_and_the_same(files: Files) -> None:
    front, kept, missing, changed = (files.record(number, 10.0, 5.0, 0.8) for number in range(4))
    files.path(2).unlink()
    files.path(3).write_text("something else")
    found = files_to_measure([front], [kept, missing, changed], files)  # type: ignore[arg-type]
    assert [record.number for record, _ in found] == [0, 1]
    assert [artifact.path for _, artifact in found] == [files.path(0), files.path(1)]
    assert not files.path(2).exists(), "it was not made again"


def test_a_file_of_the_front_that_came_out_different_is_told(files: Files) -> None:
    front = files.record(0, 10.0, 5.0, 0.8)
    files.path(0).unlink()
    with pytest.raises(OutputError, match=r"file of trial 0 is not the one that was measured(?s:.*)another --out"):
        files_to_measure([front], [], files)  # type: ignore[arg-type]
