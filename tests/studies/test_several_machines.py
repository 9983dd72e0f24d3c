"""Searches with results folders of their own, as on several machines: one baseline, one front, no file lost."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

import karui
from karui.errors import KaruiError, OutputError
from karui.evaluators.measurement import Measurement
from karui.search.turns import Alone
from karui.spaces.artifact import Artifact
from karui.studies.measuring.same_kind import describe_difference
from karui.studies.storage.shared_baseline import SharedBaseline, agreed_baseline, noted_weights
from karui.studies.storage.shared_files import SharedFiles
from karui.studies.storage.store import open_study
from karui.studies.storage.study_notes import read_baseline
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.watching.log import read_log
from karui.studies.watching.watcher import Watcher

from .conftest import Command, write_study
from .test_end_to_end import begin_search, digest_of
from .test_store import ACCURACY

FEW = """
[bits]
weights = [3, 8, 32]
activations = [8, 32]

[latency]
max_seconds = 0.05
"""


class Told(Watcher):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def epochs(self) -> int:
        return sum(text.startswith("training the baseline, epoch") for text in self.phases)


def search(study: Path, machine: str, trials: int, **options: Any) -> tuple[pd.DataFrame, Told]:
    """Search as on a machine of that name, with a results folder and a cache of its own; return the front."""
    told, home = Told(), study.parent / machine
    result = karui.run_study(
        study,
        out=home / "results",
        cache=home / "cache",
        storage=f"sqlite:///{study.parent / 'shared.db'}",
        trials=trials,
        watcher=told,
        **options,
    )
    return result.front, told


def test_files_and_baseline_come_from_where_they_were_made(tmp_path: Path, karui_command: Command) -> None:
    study, shared = write_study(tmp_path, axes=FEW), tmp_path / "artifacts"
    _, told = search(study, "first", 5, artifacts=shared)  # all there are: no noise decides whose are on the front
    assert told.epochs == 2
    assert not [note for note in told.notes if "not of the kind" in note]
    made = {path.stem: digest_of(path) for path in (tmp_path / "first/results/build/files").glob("*.onnx")}
    (weights,) = (tmp_path / "first/results").glob("*.safetensors")
    digest_of_weights = digest_of(weights)
    assert {path.name for path in shared.iterdir()} == {*made.values(), digest_of_weights}
    assert all(digest_of(path) == path.name for path in shared.iterdir())
    shutil.rmtree(tmp_path / "first")  # the machine is lost, and was one of another kind
    storage = open_study(f"sqlite:///{tmp_path / 'shared.db'}", "tiny", create=True)
    noted = storage.user_attrs["baseline"]
    noted["latency_ms"]["conditions"] |= {"processor": "abacus"}
    storage.set_user_attr("baseline", noted)

    front, told = search(study, "second", 6, artifacts=shared)
    assert told.epochs == 0, "the baseline was trained once, on the first"
    assert [digest_of(path) for path in (tmp_path / "second/results").glob("*.safetensors")] == [digest_of_weights]
    (note,) = [note for note in told.notes if "not of the kind" in note]
    assert "instead of 'abacus'" in note
    fetched = front[front["key"].isin(made)]
    assert len(fetched), "the front has files that the first machine made"
    for _, row in front.iterrows():
        assert digest_of(tmp_path / "second/results" / row["file"]) == row["sha256"]
    assert [made[key] for key in fetched["key"]] == fetched["sha256"].to_list()

    # What is small was copied to a third machine, without the files themselves.
    shutil.copytree(tmp_path / "second/results", tmp_path / "third", ignore=shutil.ignore_patterns("*.onnx"))
    point = ("--prefer", "size", "--export", tmp_path / "device")
    told_missing = karui_command("pick", study, "--out", "third", *point)
    assert told_missing.code == 2
    assert "--artifacts" in told_missing.err
    assert karui_command("pick", study, "--out", "third", "--artifacts", shared, *point).code == 0
    assert digest_of(tmp_path / "device/model.onnx") == front["sha256"].iloc[0]


def test_without_the_artifacts_of_the_study_another_baseline_is_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=FEW)
    search(study, "first", 2, artifacts=tmp_path / "one")
    # The same task trained elsewhere, where it comes out a little different.
    task = tmp_path / "tiny_task.py"
    task.write_text(task.read_text().replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    with pytest.raises(KaruiError, match=r"not the one that this study began with(?s:.*)give the --artifacts"):
        search(study, "second", 3)
    with pytest.raises(OutputError, match=r"trained baseline of this study is not in the artifacts location"):
        search(study, "third", 3, artifacts=tmp_path / "empty")


def test_where_artifacts_are_kept_is_no_part_of_what_results_mean(tmp_path: Path) -> None:
    plain = load_spec(write_study(tmp_path, axes=FEW)).meaning()
    assert load_spec(write_study(tmp_path, axes=FEW, head='artifacts = "s3://bucket/x"\n')).meaning() == plain


def test_a_location_that_cannot_be_written_is_told_before_anything_is_done(
    karui_command: Command, tmp_path: Path
) -> None:
    told = karui_command("search", write_study(tmp_path, axes=FEW), "--out", "out", "--artifacts", "/proc/karui")
    assert told.code == 2
    assert "artifacts location cannot be used" in told.err
    assert not (tmp_path / "out/study.db").exists()


# --- the same baseline everywhere -------------------------------------------------------------------------------------


def test_of_two_that_train_at_the_same_time_the_first_is_everybodys(tmp_path: Path) -> None:
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"])
    files = SharedFiles(str(tmp_path / "shared"))

    def prepare(machine: str, meanwhile: Any = lambda: None) -> tuple[bytes, int]:
        path, trainings = tmp_path / machine, []

        def make() -> Artifact:
            if not path.exists():
                trainings.append(machine)
                path.write_bytes(f"weights of {machine}".encode())
                meanwhile()
            return Artifact(path, digest_of(path))

        artifact = SharedBaseline(study, files, path, Alone()).prepare(make)
        return artifact.path.read_bytes(), len(trainings)

    assert prepare("slow", lambda: prepare("fast")) == (b"weights of fast", 1)
    assert prepare("late") == (b"weights of fast", 0)
    assert noted_weights(study) == hashlib.sha256(b"weights of fast").hexdigest()


def test_of_two_that_measure_at_the_same_time_the_first_counts() -> None:
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"])
    other = {"accuracy": Measurement("accuracy", 0.25, "1")}

    def measure() -> Any:
        assert agreed_baseline(study, "ab", lambda: ACCURACY, Alone()) == ("ab", ACCURACY)
        return other

    assert agreed_baseline(study, "cd", measure, Alone()) == ("ab", ACCURACY)
    assert read_baseline(study) == ("ab", ACCURACY)
    assert agreed_baseline(study, "ef", pytest.fail, Alone()) == ("ab", ACCURACY)


# --- machines of one kind ---------------------------------------------------------------------------------------------

HERE = {"processor": "A 1", "threads": 1, "provider": "CPU", "onnxruntime": "1.32", "host": "one", "raw_ms": 0.1}


def test_what_differs_from_where_the_study_began_is_named() -> None:
    assert describe_difference(HERE, {**HERE, "host": "two", "raw_ms": 0.3}) is None
    assert describe_difference({}, HERE) is None
    told = describe_difference(HERE, {**HERE, "processor": "B 2", "onnxruntime": "1.33"})
    assert told is not None
    assert "processor 'B 2' instead of 'A 1', onnxruntime '1.33' instead of '1.32'" in told
    assert "threads" not in told


# --- on a server, one of them killed ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_searches_on_a_server_one_of_them_killed(tmp_path: Path, postgres_url: str) -> None:
    study, shared = write_study(tmp_path, workers=1), tmp_path / "artifacts"

    def options(machine: str) -> list[object]:
        return ["--storage", postgres_url, "--artifacts", shared, "--cache", tmp_path / machine / "cache"]

    first, second = tmp_path / "first" / "results", tmp_path / "second" / "results"
    # The one to be killed has the lead, so that the other cannot have done everything by then.
    with (
        begin_search(study, first, "--trials", 16, *options("first")) as killed,
        begin_search(study, second, "--trials", 16, *options("second")) as living,
    ):
        while killed.poll() is None and begun_in(first) < 4:
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        before = {trial.number: trial.values for trial in evaluated(postgres_url)}
        _, errors = living.communicate(timeout=560)
    assert killed.returncode == -signal.SIGKILL
    assert living.returncode == 0, errors
    # The other may have been killed when this one had ended already: then the next search takes up what was in flight.
    with begin_search(study, second, "--trials", 16, *options("second")) as again:
        _, errors = again.communicate(timeout=560)
    assert again.returncode == 0, errors

    storage = open_study(postgres_url, "tiny", create=False)
    assert not storage.get_trials(states=(TrialState.RUNNING,))
    kept = evaluated(postgres_url)
    assert len(before) >= 3
    assert {trial.number: trial.values for trial in kept if trial.number in before} == before
    table = pd.read_csv(second / "trials.csv")
    tried = table[table["state"].isin(["evaluated", "failed"])]
    assert len(tried) == 16
    assert tried["key"].is_unique
    logs = [read_log(folder / "log.jsonl") for folder in (first, second)]
    ended = [[e["key"] for e in log if e["event"] == "trial ended" and e["state"] == "evaluated"] for log in logs]
    assert all(ended), "both had their share"
    assert len({*ended[0], *ended[1]}) == len(ended[0]) + len(ended[1]), "nothing was evaluated twice"
    epochs = [e for log in logs for e in log if e.get("text", "").startswith("training the baseline, epoch")]
    assert len(epochs) == 2, "the baseline is trained once"
    # Whose files are on the front is for noise to say; those of both are in the shared place, whole.
    found = table[table["state"] == "evaluated"]
    assert {*ended[0], *ended[1]} <= set(found["key"])
    assert all(digest_of(shared / name) == name for name in found["sha256"])
    front = pd.read_csv(second / "front.csv")
    assert set(front["key"]) <= set(found["key"])
    for _, row in front.iterrows():
        assert digest_of(second / row["file"]) == row["sha256"]


def begun_in(folder: Path) -> int:
    """How many trials the search of that results folder has begun."""
    log = folder / "log.jsonl"
    return sum(event["event"] == "trial begun" for event in read_log(log)) if log.exists() else 0


def evaluated(storage: str) -> list[Any]:
    """The trials that were evaluated, in any search."""
    return open_study(storage, "tiny", create=False).get_trials(states=(TrialState.COMPLETE,))
