"""One small but real study: everything it leaves behind is computed again by other means."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from statistics import NormalDist
from typing import Any
from unittest.mock import DEFAULT, Mock

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau  # type: ignore[import-untyped]
from torch.utils.data import TensorDataset

import karui
from karui.errors import CandidateFailure, KaruiError, NothingFits, OutputError, StudyFileError
from karui.spaces.artifact import Artifact
from karui.spaces.formats.onnx.format import ONNX
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.studies.measuring.bench import Bench
from karui.studies.run import StudyResult
from karui.studies.study_file.task_loading import load_task
from karui.studies.watching.log import read_log
from karui.studies.watching.watcher import Watcher

from .conftest import AXES, Command, write_study

TRIALS = 20
OBJECTIVES = ["size_bytes", "latency_ms", "accuracy"]


@dataclass(frozen=True)
class Finished:
    """A study that was searched: its file, its results folder, what the search returned, its data."""

    study: Path
    folder: Path
    result: StudyResult
    splits: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "trials.csv")

    @property
    def front(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "front.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder, name="whole", workers=1)
    result = karui.run_study(study, out=folder / "results", trials=TRIALS)
    task = load_task("whole_task.py:make_task", folder, {})
    splits = {}
    for name in ("validation", "test"):
        split = getattr(task, name)
        assert isinstance(split, TensorDataset)
        splits[name] = (split.tensors[0].numpy(), split.tensors[1].numpy())
    return Finished(study, folder / "results", result, splits)


def accuracy_of(path: Path, split: tuple[np.ndarray, np.ndarray]) -> float:
    """Run the file over the split, one image at a time, with nothing but onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    hits = [
        int(session.run(None, {name: image[None]})[0][0].argmax()) == label for image, label in zip(*split, strict=True)
    ]
    return float(np.mean(hits))


def tried(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["state"].isin(["evaluated", "failed"])]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what the search leaves behind ------------------------------------------------------------------------------------


def test_everything_promised_is_there(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert {"trials.csv", "front.csv", "front.png", "front", "study.db", "baseline.onnx"} <= names
    files = {f"front/{path.name}" for path in (finished.folder / "front").glob("*.onnx")}
    assert files == set(finished.front["file"])
    described = {path.stem for path in (finished.folder / "front").glob("*.json")}
    assert described == {Path(file).stem for file in files}
    assert finished.result.ending == "all trials are done"
    assert finished.result.nearest == ()


def test_the_returned_tables_are_those_on_disk(finished: Finished) -> None:
    for returned, kept in ((finished.result.trials, finished.trials), (finished.result.front, finished.front)):
        assert list(returned.columns) == list(kept.columns)
        for column in ("size_bytes", "latency_ms", "accuracy"):
            assert returned[column].to_list() == pytest.approx(kept[column].to_list(), nan_ok=True)
    pd.testing.assert_frame_equal(karui.load_front(finished.study, finished.folder), finished.front, check_dtype=False)
    pd.testing.assert_frame_equal(karui.load_front(finished.folder), finished.front, check_dtype=False)


def test_the_budget_is_kept_and_nothing_is_tried_twice(finished: Finished) -> None:
    counted = tried(finished.trials)
    assert len(counted) == TRIALS
    assert counted["key"].is_unique
    duplicates = finished.trials[finished.trials["state"] == "duplicate"]
    assert set(duplicates["key"]) <= set(counted["key"])


def test_all_four_axes_were_searched(finished: Finished) -> None:
    evaluated = finished.trials[finished.trials["state"] == "evaluated"]
    assert {"baseline", "student", "cell"} <= set(evaluated["kind"])
    assert evaluated["bits.weights"].nunique() > 1
    assert evaluated["sparsity.zeroed_weights"].nunique() > 1
    assert evaluated["sparsity.removed_channels"].nunique() > 1


def test_the_size_is_that_of_the_file_and_the_digest_is_right(finished: Finished) -> None:
    for _, row in finished.front.iterrows():
        path = finished.folder / row["file"]
        assert path.stat().st_size == row["size_bytes"]
        assert digest_of(path) == row["sha256"]
    for _, row in finished.trials[finished.trials["state"] == "evaluated"].iterrows():
        path = finished.folder / "build" / "files" / f"{row['key']}.onnx"
        assert path.stat().st_size == row["size_bytes"]
        assert digest_of(path) == row["sha256"]


def test_accuracies_are_those_of_the_files(finished: Finished) -> None:
    for _, row in finished.front.iterrows():
        path = finished.folder / row["file"]
        assert row["test_accuracy"] == pytest.approx(accuracy_of(path, finished.splits["test"]))
        assert row["accuracy"] == pytest.approx(accuracy_of(path, finished.splits["validation"]))
        assert row["test_accuracy_count"] == len(finished.splits["test"][1])
    for _, row in finished.trials[finished.trials["state"] == "evaluated"].iterrows():
        path = finished.folder / "build" / "files" / f"{row['key']}.onnx"
        assert row["accuracy"] == pytest.approx(accuracy_of(path, finished.splits["validation"]))
    baseline = finished.result.baseline
    path = finished.folder / "baseline.onnx"
    assert baseline["test_accuracy"].value == pytest.approx(accuracy_of(path, finished.splits["test"]))
    assert baseline["accuracy"].value == pytest.approx(accuracy_of(path, finished.splits["validation"]))
    assert baseline["size_bytes"].value == path.stat().st_size
    assert baseline["accuracy"].value > 0.4, "trained: better than one in four"


def test_the_front_is_that_of_the_feasible_trials(finished: Finished) -> None:
    feasible = finished.trials[finished.trials["feasible"] == True]  # noqa: E712
    points = [tuple(row) for row in feasible[OBJECTIVES].to_numpy()]

    def is_beaten(index: int) -> bool:
        size, latency, accuracy = points[index]
        return any(
            other[0] <= size
            and other[1] <= latency
            and other[2] >= accuracy
            and (other != points[index] or earlier < index)
            for earlier, other in enumerate(points)
        )

    best = {int(number) for index, number in enumerate(feasible["trial"]) if not is_beaten(index)}
    assert set(finished.trials["trial"][finished.trials["on_front"]]) == best
    assert best <= set(finished.front["trial"])
    from_the_edge = finished.front[~finished.front["trial"].isin(best)]
    assert set(from_the_edge["mark"]) <= {"holds", "fell off"}, "nothing dominates it, measured again"
    assert finished.front["size_bytes"].is_monotonic_increasing


def paired_noise(finished: Finished, one: str, other: str, split: str) -> float:
    """Half the interval of the difference of two files' shares of right rows (Agresti and Min 2005), as it is kept."""
    right = []
    for digest in (one, other):
        kept = np.load(finished.folder / "build" / "rows" / split / f"{digest}.npz")
        right.append(np.unpackbits(kept["bits"], count=int(kept["rows"])).astype(bool))
    gained, lost, rows = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum(), len(right[0])
    return float(1.96 * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (rows + 2)) / (rows + 2))


def test_marks_are_judged_by_what_was_measured_again(finished: Finished) -> None:
    front, baseline = finished.front, finished.result.baseline
    points = front[["size_bytes", "latency_ms", "accuracy"]].to_numpy()  # of validation: test accuracy chooses nothing
    reference = str(baseline["latency_ms"].conditions["reference_digest"])
    trials = finished.trials.set_index("trial")
    # each of so many comparisons may be wrong with a probability of 2.5 % in all
    times = NormalDist().inv_cdf(1 - 0.025 / (2 * len(front))) / 1.96
    for index, (_, row) in enumerate(front.iterrows()):
        is_beaten = beyond = False
        for place, (_, other) in enumerate(front.iterrows()):
            gain = (points[index] - points[place]) * (1, 1, -1)
            latency_noise = math.hypot(row["latency_ms_spread"], other["latency_ms_spread"])
            noise = (0.0, latency_noise, paired_noise(finished, row["sha256"], other["sha256"], "validation"))
            dominates = (gain >= 0).all() and (gain > 0).any()
            is_beaten |= dominates
            beyond |= dominates and (gain >= noise).all()
        seen = trials.loc[row["trial"]]
        assert row["search_latency_ms"] == pytest.approx(seen["latency_ms"])
        slower = row["latency_ms"] - seen["latency_ms"]
        noise_seen = math.hypot(row["latency_ms_spread"], seen["latency_ms_spread"])
        fall = row["accuracy"] - row["test_accuracy"] - (baseline["accuracy"].value - baseline["test_accuracy"].value)
        fall_noise = math.hypot(*(paired_noise(finished, row["sha256"], reference, s) for s in ("validation", "test")))
        worse = slower > times * noise_seen or fall > times * fall_noise
        assert row["mark"] == ("fell off" if beyond or worse else "within noise" if is_beaten else "holds")


def test_how_the_front_stood_its_test_is_kept_and_told(finished: Finished, karui_command: Command) -> None:
    kept = json.loads((finished.folder / "certification.json").read_text(encoding="utf-8"))
    front = finished.front
    assert kept["same_process"] == "", "it was a new one"
    assert kept["points"] == len(front)
    assert kept["marks"] == {mark: int((front["mark"] == mark).sum()) for mark in ("holds", "within noise", "fell off")}
    assert kept["accuracy_tau"] == pytest.approx(kendalltau(front["accuracy"], front["test_accuracy"]).statistic)
    assert kept["latency_tau"] == pytest.approx(kendalltau(front["search_latency_ms"], front["latency_ms"]).statistic)
    rises = 100 * (front["latency_ms"] / front["search_latency_ms"] - 1)
    assert kept["latency_rise_percent"] == pytest.approx(rises.median())
    assert kept["test_samples"] == len(finished.splits["test"][1])
    assert kept["conditions"]["threads"] == 1
    told = karui_command("front", finished.study, "--out", finished.folder).out
    assert f"measured again in a new process: {kept['marks']['holds']} hold" in told
    assert f"(Kendall's tau): accuracy {kept['accuracy_tau']:.2f}, latency {kept['latency_tau']:.2f}" in told
    for _, row in front.iterrows():
        (line,) = [line for line in told.splitlines() if line.startswith(row["point"])]
        assert line.endswith(f"  {row['mark']}")


def test_ratios_are_taken_against_the_baseline(finished: Finished) -> None:
    baseline = {name: item.value for name, item in finished.result.baseline.items()}
    front = finished.front
    assert front["size_x"].to_list() == pytest.approx((baseline["size_bytes"] / front["size_bytes"]).to_list())
    assert front["speed_x"].to_list() == pytest.approx((1 / front["latency_ratio"]).to_list())
    assert front["latency_ms"].to_list() == pytest.approx((front["latency_ratio"] * baseline["latency_ms"]).to_list())
    lost = 100 * (baseline["test_accuracy"] - front["test_accuracy"])
    assert front["drop_points"].to_list() == pytest.approx(lost.to_list())
    assert (front["latency_ms_spread"] > 0).all()
    assert "latency_p95_ratio" not in front.columns, "without exits latency does not depend on the input"


# --- pick and export --------------------------------------------------------------------------------------------------


def test_what_is_picked_runs_with_onnxruntime_alone(finished: Finished, tmp_path: Path) -> None:
    row = karui.pick(finished.study, out=finished.folder, prefer="size", export=tmp_path / "device")
    assert row["size_bytes"] == finished.front["size_bytes"].min()
    names = {"model.onnx", "config.json", "config.schema.json", "MODEL_CARD.md", "run.py", "samples", "SHA256SUMS"}
    assert {path.name for path in (tmp_path / "device").iterdir()} == names
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
        "images = numpy.load(sys.argv[1])\n"
        "numpy.save('answers.npy', session.run(None, {session.get_inputs()[0].name: images})[0])\n"
        "assert 'torch' not in sys.modules and 'karui' not in sys.modules\n"
    )
    images, labels = finished.splits["test"]
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "images.npy")], check=True, cwd=tmp_path / "device")
    answers = np.load(tmp_path / "device" / "answers.npy").argmax(axis=1)
    assert float((answers == labels).mean()) == pytest.approx(row["test_accuracy"])


def test_the_configuration_says_what_it_is_and_how_it_was_measured(finished: Finished, tmp_path: Path) -> None:
    row = karui.pick(finished.folder, prefer="accuracy", export=tmp_path)
    described: dict[str, Any] = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert described["sha256"] == digest_of(tmp_path / "model.onnx") == row["sha256"]
    assert (described["study"], described["point"], described["trial"]) == ("whole", row["point"], row["trial"])
    assert described["candidate"]["architecture"]["kind"] == row["kind"]
    assert described["key"] == row["key"]
    found = described["measurements"]
    for name in ("size_bytes", "latency_ms", "latency_ratio", "accuracy", "test_accuracy"):
        assert found[name]["value"] == pytest.approx(row[name])
    assert found["test_accuracy"]["conditions"]["split"] == "test"
    assert found["accuracy"]["conditions"]["split"] == "validation"
    latency = found["latency_ratio"]["conditions"]
    assert latency["threads"] == 1
    assert latency["provider"] == "CPUExecutionProvider"
    assert latency["onnxruntime"] == onnxruntime.__version__ == described["versions"]["onnxruntime"]
    assert latency["reference_digest"] == digest_of(finished.folder / "baseline.onnx")
    assert described["versions"]["torch"] == torch.__version__.split("+")[0]
    assert described["versions"]["karui"] == karui.__version__
    assert described["baseline"]["size_bytes"]["value"] == (finished.folder / "baseline.onnx").stat().st_size


def test_the_exported_program_runs_the_exported_samples(finished: Finished, tmp_path: Path) -> None:
    karui.pick(finished.folder, export=tmp_path)
    code = "import runpy, sys; sys.argv = ['run.py']; runpy.run_path('run.py', run_name='__main__')"
    watched = (
        f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, 'karui' in sys.modules)); {code}"
    )
    command = [sys.executable, "-c", watched]
    result = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.endswith("False False\n")
    assert "outputs are as expected" in result.stdout
    samples = np.load(tmp_path / "samples" / "samples.npz")
    images, labels = finished.splits["test"]
    rows = [next(row for row, image in enumerate(images) if (image == given).all()) for given in samples["inputs"]]
    assert [row * 16 // len(images) for row in rows] == list(range(16)), "one of each equal part"
    assert samples["targets"].tolist() == labels[rows].tolist()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {session.get_inputs()[0].name: images[rows]})
    np.testing.assert_allclose(samples["outputs"], answers, atol=1e-5)
    assert digest_of(tmp_path / "model.onnx") in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_file_that_was_changed_is_not_exported(finished: Finished, tmp_path: Path) -> None:
    row = karui.pick(finished.folder)
    path = finished.folder / row["file"]
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\0")
        with pytest.raises(OutputError, match="not the one that was measured"):
            karui.pick(finished.folder, export=tmp_path)
        path.unlink()
        with pytest.raises(OutputError, match="file of that point is missing"):
            karui.pick(finished.folder, export=tmp_path)
    finally:
        path.write_bytes(content)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_exported_to_is_told(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match=r"a file lies where the bundle is to go(?s:.*)another --export"):
        karui.pick(finished.folder, export=tmp_path / "taken")
    with pytest.raises(OutputError, match=r"folder to export to cannot be written(?s:.*)another --export"):
        karui.pick(finished.folder, export=tmp_path / "taken" / "bundle")


def test_the_commands_show_the_front_and_pick_of_it(finished: Finished, karui_command: Command, tmp_path: Path) -> None:
    front = finished.front
    shown = karui_command("front", finished.study, "--out", finished.folder)
    assert (shown.code, shown.err) == (0, "")
    assert [name for name in front["point"] if name not in shown.out] == []
    assert "test accuracy" in shown.out
    as_csv = karui_command("front", finished.folder, "--format", "csv").out
    assert as_csv == (finished.folder / "front.csv").read_text()
    as_json = json.loads(karui_command("front", finished.folder, "--format", "json").out)
    assert [point["sha256"] for point in as_json] == front["sha256"].to_list()
    picked = karui_command("pick", finished.folder, "--prefer", "size", "--export", tmp_path / "device")
    assert (picked.code, picked.err) == (0, "")
    assert f"{int(front['size_bytes'].min()):,} bytes" in picked.out
    smallest = front[front["size_bytes"] == front["size_bytes"].min()]
    assert digest_of(tmp_path / "device" / "model.onnx") in set(smallest["sha256"])


@pytest.mark.parametrize(
    ("option", "value", "broken"),
    [
        ("--max-size", "10", "size_bytes <= 10 broken by"),
        ("--max-latency", "0.0001x", "latency_ms <= "),
        ("--min-accuracy", "101%", "accuracy >= 1.01 broken by"),
    ],
)
def test_an_impossible_budget_says_what_breaks_it(
    finished: Finished, karui_command: Command, option: str, value: str, broken: str
) -> None:
    picked = karui_command("pick", finished.folder, option, value)
    assert picked.code == 1
    assert picked.err.startswith("error: no point of the front keeps this budget")
    assert broken in picked.err
    assert "nearest: p" in picked.err
    with pytest.raises(NothingFits, match="keeps this budget"):
        karui.pick(finished.folder, **{option.lstrip("-").replace("-", "_"): value})  # type: ignore[arg-type]


def test_a_bad_bound_is_told(finished: Finished, karui_command: Command) -> None:
    picked = karui_command("pick", finished.folder, "--max-size", "3ms")
    assert picked.code == 2
    assert "--max-size" in picked.err
    assert "60KB" in picked.err


# --- going on ---------------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing_new_and_more_trials_go_on(finished: Finished) -> None:
    before, front = finished.trials, finished.front
    again = karui.run_study(finished.study, out=finished.folder, trials=TRIALS)
    pd.testing.assert_frame_equal(finished.trials, before)
    # What comes in from the edge of the front is measured anew each time, and may come out on either side.
    own = set(before["sha256"][before["on_front"]])
    lists = [[digest for digest in table["sha256"] if digest in own] for table in (again.front, front)]
    assert lists[0] == lists[1]
    assert set(lists[0]) == own
    # Another seed moves the sampler only: the baseline is the one that the study began with.
    more = karui.run_study(finished.study, out=finished.folder, trials=TRIALS + 2, seed=5)
    kept = tried(before)[["trial", "key", *OBJECTIVES]]
    pd.testing.assert_frame_equal(tried(finished.trials)[kept.columns].head(TRIALS), kept)
    assert len(tried(more.trials)) == TRIALS + 2
    assert more.baseline["size_bytes"] == finished.result.baseline["size_bytes"]
    files = {f"front/{path.name}" for path in (finished.folder / "front").glob("*.onnx")}
    assert files == set(more.front["file"])


def test_a_changed_study_file_is_refused_and_nothing_is_lost(finished: Finished, tmp_path: Path) -> None:
    before = finished.trials
    changed = write_study(tmp_path, name="whole", axes=AXES.replace("[3, 8, 32]", "[4, 8, 32]"))
    with pytest.raises(StudyFileError, match=r"has changed(?s:.*)bits\.weights = \[3, 8, 32\]"):
        karui.run_study(changed, out=finished.folder)
    pd.testing.assert_frame_equal(finished.trials, before)


def test_a_changed_model_is_refused_and_may_be_taken_back(finished: Finished, tmp_path: Path) -> None:
    code = "\n\ndef make_task():\n    return task_with(model=Network(Sizes(channels=6)))\n"
    changed = write_study(tmp_path, name="whole", code=code)
    with pytest.raises(KaruiError, match="not the one that this study began with"):
        karui.run_study(changed, out=finished.folder, trials=1)
    epochs: list[str] = []

    class Noting(Watcher):
        def phase(self, text: str) -> None:
            epochs.extend([text] * text.startswith("training the baseline"))

    karui.run_study(finished.study, out=finished.folder, trials=1, watcher=Noting())
    assert epochs == [], "its own weights were kept"


# --- what goes wrong --------------------------------------------------------------------------------------------------

FEW = """
[bits]
weights = [3, 4, 32]
activations = [8]

[recovery]
epochs = 1

[latency]
max_seconds = 0.05
"""


def test_a_candidate_that_cannot_be_made_is_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(source: Path, destination: Path, choice: BitChoice, **options: Any) -> None:
        if choice.weight_bits == 4:
            raise ValueError("four bits, of all\nthings")
        quantize(source, destination, choice, **options)

    monkeypatch.setattr(ONNX, "round", picky)
    result = karui.run_study(write_study(tmp_path, axes=FEW), out=tmp_path / "results")
    table = tried(pd.read_csv(result.folder / "trials.csv")).set_index("bits.weights")
    assert result.ending == "every candidate of the space has been tried"
    assert table["state"].to_dict() == {3: "evaluated", 4: "failed", 32: "evaluated"}
    assert table.loc[4, "stage"] == "quantization"
    assert table.loc[4, "reason"] == "ValueError: four bits, of all things"
    assert table.loc[4, [*OBJECTIVES, "latency_ms_spread", "sha256"]].isna().all()
    assert set(result.front["bits.weights"]) <= {3, 32}
    again = karui.run_study(tmp_path / "tiny.toml", out=tmp_path / "results")
    assert len(tried(again.trials)) == 3, "nothing is new"


def test_a_diverging_candidate_is_a_status(tmp_path: Path) -> None:
    code = """

def diverging():
    def loss(outputs, targets):
        return outputs.sum() * (float("nan") if outputs.requires_grad else 1.0)

    return task_with(loss=loss, baseline_epochs=0)
"""
    axes = "[sparsity]\nremoved_channels = [0.0, 0.5]\nzeroed_weights = [0.0]\n" + FEW[FEW.index("[recovery]") :]
    study = write_study(tmp_path, function="diverging", code=code, axes=axes)
    trials = karui.run_study(study, out=tmp_path / "results").trials
    table = tried(trials).set_index("sparsity.removed_channels")
    assert table["state"].to_dict() == {0.0: "evaluated", 0.5: "failed"}
    assert table["stage"].to_list() == ["", "recovery"]
    assert "the loss became nan in epoch 1" in table["reason"].to_list()[1]


def test_a_point_that_fails_on_the_test_split_does_not_cost_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure: Callable[..., Any] = Bench.measure_baseline_on_test

    def measure_then_break(bench: Bench) -> None:
        measure(bench)
        inner = bench.test_accuracy

        class Broken:
            name = "accuracy"

            def measure(self, artifact: Artifact) -> Any:
                if artifact.digest == smallest:
                    raise CandidateFailure("accuracy", "answers with NaN")
                return inner.measure(artifact)

        bench.test_accuracy = Broken()

    study = write_study(tmp_path, axes=FEW)
    first = karui.run_study(study, out=tmp_path / "results")
    smallest = first.front["sha256"][0]  # always on the front
    lost = int(first.front["trial"][0])
    monkeypatch.setattr(Bench, "measure_baseline_on_test", measure_then_break)
    second = karui.run_study(study, out=tmp_path / "results")
    on_front = set(second.trials["trial"][second.trials["on_front"]])
    assert lost in on_front
    assert on_front - {lost} <= set(second.front["trial"]) <= set(second.trials["trial"]) - {lost}
    assert f"trial {lost} fell off when it was measured again: answers with NaN" in second.ending
    assert (second.trials["state"] == "evaluated").sum() == 3


def test_a_full_disk_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    # By a mock, so that no code raises it that could be taken for the task's.
    pack_until_full = Mock(wraps=pack, side_effect=chain([DEFAULT, DEFAULT], repeat(full)))
    study = write_study(tmp_path, axes=FEW)
    with monkeypatch.context() as patched:
        patched.setattr(ONNX, "pack", pack_until_full)
        with pytest.raises(OutputError, match=r"No space left(?s:.*)what was found so far is kept"):
            karui.run_study(study, out=tmp_path / "results")
    states = pd.read_csv(tmp_path / "results" / "trials.csv")["state"]
    assert states.to_list().count("evaluated") == 2
    table = karui.run_study(study, out=tmp_path / "results").trials
    assert (table["state"] == "evaluated").sum() == 3
    assert table[table["state"] == "evaluated"]["key"].is_unique


# --- stopped and killed -----------------------------------------------------------------------------------------------


def begin_search(study: Path, folder: Path, *options: object) -> subprocess.Popen[str]:
    """Begin `karui search` as a user does."""
    code = "from karui.studies.cli import main; main()"
    command = [sys.executable, "-c", code, "search", str(study), "--out", str(folder), *map(str, options)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=study.parent
    )


@contextmanager
def searching(study: Path, folder: Path, until: str, *options: object) -> Iterator[subprocess.Popen[str]]:
    """Run `karui search`, and yield once it has printed a line that begins with these words."""
    with begin_search(study, folder, "--trials", 60, *options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(until):
                break
        else:
            process.wait()
            assert process.stderr is not None
            pytest.fail(f"the search ended early: {process.stderr.read()}")
        yield process


def test_a_stopped_and_a_killed_search_go_on(tmp_path: Path) -> None:
    study = write_study(tmp_path, name="stopped", function="slow_task", workers=1)
    folder = tmp_path / "results"
    with searching(study, folder, "[2/60]") as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "every finished trial is kept" in errors
    assert "Traceback" not in errors
    table = pd.read_csv(folder / "trials.csv")
    stopped = table[table["state"] == "evaluated"]
    assert len(stopped) >= 2
    assert set(table["state"]) <= {"evaluated", "duplicate", "interrupted"}
    so_far = karui.load_front(study, folder)
    assert set(so_far["trial"]) <= set(stopped["trial"])
    assert "test_accuracy" not in so_far.columns
    with pytest.raises(OutputError, match="not re-measured yet"):
        karui.pick(study, out=folder, export=tmp_path / "device")

    with searching(study, folder, f"[{len(stopped) + 2}/60]") as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    # Asked for as many as there are, it only reads what the killed one left, and finishes.
    result = karui.run_study(study, out=folder, trials=len(stopped) + 2)
    kept = result.trials[result.trials["state"] == "evaluated"]
    assert len(kept) in (len(stopped) + 2, len(stopped) + 3)
    assert kept["key"].is_unique
    assert kept["sha256"].head(len(stopped)).to_list() == stopped["sha256"].to_list()
    assert (result.trials["state"] == "interrupted").sum() <= 2, "only what was in flight"
    assert (result.trials["state"] == "running").sum() == 0
    assert set(karui.load_front(study, folder)["trial"]) <= set(kept["trial"])


# --- worker processes -------------------------------------------------------------------------------------------------

CRASHING = """

def crashing():
    import os, signal

    def metric(outputs, targets):
        # Once, and only in a process that the search has started: it measures the baseline itself.
        if os.path.exists(MARKER) and open(MARKER).read() == str(os.getppid()):
            os.remove(MARKER)
            os.kill(os.getpid(), signal.SIGKILL)
        return float((outputs.argmax(1) == targets).float().mean())

    return task_with(metric=metric)
"""


def comparable(trials: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What does not depend on when a candidate was measured, in an order of its own."""
    kept = trials[trials["state"] == "evaluated"]
    return sorted(zip(kept["key"], kept["size_bytes"], kept["accuracy"], kept["sha256"], strict=True))


@pytest.mark.slow
def test_two_workers_find_what_none_finds(tmp_path: Path) -> None:
    axes = AXES[: AXES.index("[students]")] + AXES[AXES.index("[recovery]") :]
    study = write_study(tmp_path, axes=axes)
    alone = karui.run_study(study, out=tmp_path / "alone", trials=1000)
    process = begin_search(study, tmp_path / "together", "--trials", 1000, "--workers", 2)
    _, errors = process.communicate(timeout=560)
    assert process.returncode == 0, errors
    assert alone.ending == "every candidate of the space has been tried"
    found = pd.read_csv(tmp_path / "together" / "trials.csv")
    assert comparable(found) == comparable(alone.trials)
    events = read_log(tmp_path / "together" / "log.jsonl")
    assert [events[0]["event"], events[-1]["event"]] == ["search begun", "search ended"]
    ended = [event for event in events if event["event"] == "trial ended" and event["state"] == "evaluated"]
    assert sorted(event["key"] for event in ended) == sorted(key for key, *_ in comparable(found))
    assert any(event.get("stage") == "waiting to measure" for event in events)


@pytest.mark.slow
def test_two_searches_in_one_folder_share_the_work(tmp_path: Path) -> None:
    study, folder = write_study(tmp_path, workers=1), tmp_path / "results"
    processes = [begin_search(study, folder, "--trials", 10) for _ in range(2)]
    ended = [process.communicate(timeout=560) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    table = tried(pd.read_csv(folder / "trials.csv"))
    assert len(table) == 10
    assert table["key"].is_unique
    events = read_log(folder / "log.jsonl")
    begun = [event for event in events if event["event"] == "trial begun"]
    assert len({event["key"] for event in begun}) == len(begun) == 10
    assert len({event["pid"] for event in begun}) == 2, "both had their share"
    epochs = [event for event in events if event.get("text", "").startswith("training the baseline")]
    assert len(epochs) == 2, "the baseline is trained once"
    front = pd.read_csv(folder / "front.csv")
    for _, row in front.iterrows():
        assert digest_of(folder / row["file"]) == row["sha256"]


@pytest.mark.slow
def test_a_killed_worker_costs_its_candidate_and_a_killed_search_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    study = write_study(
        tmp_path, function="crashing", axes=FEW, code=CRASHING.replace("MARKER", repr(str(marker))), workers=1
    )
    folder = tmp_path / "results"
    with begin_search(study, folder) as process:
        marker.write_text(str(process.pid))
        stdout, errors = process.communicate(timeout=560)
    assert process.returncode == 0, errors
    assert not marker.exists()
    states = tried(pd.read_csv(folder / "trials.csv"))["state"].to_list()
    assert sorted(states) == ["evaluated", "evaluated", "failed"]
    events = read_log(folder / "log.jsonl")
    (lost,) = [event for event in events if event["event"] == "worker lost"]
    assert (lost["stage"], lost["reason"]) == (
        "accuracy",
        "its worker process was killed by SIGKILL, perhaps because memory ran out",
    )
    assert f"failed at accuracy: {lost['reason']}" in stdout


def test_a_task_that_no_other_process_can_have_is_told(tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=FEW)
    task = load_task("tiny_task.py:make_task", tmp_path, {})
    task = replace(task, metric=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()))
    with pytest.raises(KaruiError, match=r"cannot be handed to them(?s:.*)workers=0"):
        karui.run_study(study, task=task, out=tmp_path / "results", workers=1)
    result = karui.run_study(study, task=task, out=tmp_path / "results")
    assert (result.trials["state"] == "evaluated").sum() == 3
