"""The command line: exit codes, and a word to the user where something is wrong, never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import karui

from .conftest import Command, write_study

BITS_ONLY = "[bits]\nweights = [8, 32]\nactivations = [8]\n[recovery]\nepochs = 1\n[latency]\nmax_seconds = 0.05\n"


def explained(err: str, *words: str) -> bool:
    return err.startswith("error: ") and "Traceback" not in err and all(word in err for word in words)


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["search", "front", "pick", "verify", "compare", "init", "cache", "--version", "Pareto front"]),
        (
            ["search"],
            ["STUDY", "--trials", "--hours", "--out", "--storage", "--seed", "--data", "--workers", "runs/<study>"],
        ),
        (["front"], ["STUDY", "--out", "--format", "table|csv|json"]),
        (["pick"], ["--max-size", "60KB", "--max-latency", "0.4ms", "0.3x", "--min-accuracy", "0.97", "--export"]),
        (["pick"], ["--prefer", "size|latency|accuracy|knee", "Exit code 1"]),
        (["pick"], ["--point", "p07", "--explain", "--requests", "10M/month", "--price", "0.04/core-hour"]),
        (["verify"], ["BUNDLE", "--data", "--target", "--reference", "--tolerance", "--json", "Exit code 1"]),
        (["compare"], ["RUN_A", "RUN_B", "--plot", "compare.png", "table|csv|json"]),
        (["search"], ["--cache", "karui-cache beside --out"]),
        (["init"], ["NAME"]),
        (["cache"], ["DIR", "runs/karui-cache", "--clear"]),
    ],
)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_a_person_needs(
    karui_command: Command, arguments: list[str], words: list[str], option: str
) -> None:
    finished = karui_command(*arguments, option)
    assert finished.code == 0
    assert [word for word in words if word not in finished.out] == []


def test_the_version_is_printed(karui_command: Command) -> None:
    assert karui_command("--version").out.strip() == f"karui {karui.__version__}"


def test_the_command_runs_as_its_own_process(tmp_path: Path) -> None:
    code = "from karui.studies.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "300"}
    finished = subprocess.run(
        [sys.executable, "-c", code, "search", "digit"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert finished.returncode == 2
    assert explained(finished.stderr, "no study 'digit'", "did you mean digits?")


# --- search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["search"], "STUDY"),
        (["search", "digits", "--trials", "0"], "--trials"),
        (["search", "digits", "--trials", "many"], "integer"),
        (["search", "digits", "--trials", "\uff13"], "integer"),
        (["search", "digits", "--trials", "1_0"], "integer"),
        (["search", "digits", "--trials", "9" * 5000], "smaller integer"),
        (["search", "digits", "--hours", "-1"], "--hours"),
        (["search", "digits", "--hours", "٣.5"], "finite number"),
        (["search", "digits", "--hours", "nan"], "finite number"),
        (["verify", "bundle", "--tolerance", "inf"], "finite number"),
        (["search", "digits", "--seed", "-1"], "--seed"),
        (["search", "digits", "--workers", "-1"], "--workers"),
        (["search", "digits", "--nonsense"], "--nonsense"),
        (["front", "digits", "--format", "xml"], "xml"),
        (["pick", "digits", "--prefer", "speed"], "speed"),
        (["serach", "digits"], "serach"),
    ],
)
def test_a_wrong_use_is_told(karui_command: Command, arguments: list[str], word: str) -> None:
    finished = karui_command(*arguments)
    assert finished.code == 2
    assert word in finished.err
    assert "Traceback" not in finished.err


def test_a_broken_study_file_is_told(karui_command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("task = 't.py:f'\n[bits]\nweights = [9]\n")
    finished = karui_command("search", "mine.toml")
    assert finished.code == 2
    assert explained(
        finished.err, "mine.toml: bits.weights[0]", "2 to 8 bits, 16 for float16, or 32 for float32", "got:      9"
    )
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(karui_command: Command) -> None:
    finished = karui_command("search", "digits", "--out", "/proc/karui")
    assert finished.code == 2
    assert explained(finished.err, "cannot be written", "/proc/karui", "--out")
    assert "loading the task" not in finished.out


def test_a_storage_that_cannot_be_used_is_told_without_its_password(karui_command: Command) -> None:
    finished = karui_command("search", "digits", "--storage", "nosuch://me:secret@host/db")
    assert finished.code == 2
    assert explained(finished.err, "storage cannot be used", "nosuch")
    assert "secret" not in finished.err + finished.out


FAULTS = {
    "raises": ("    raise ValueError('no data today')", ["raised an error", "no data today", "mine_task.py:"]),
    "gives_nothing": ("    return None", ["does not return a task", "NoneType"]),
    "control_flow": (
        "    class Picky(Network):\n"
        "        def forward(self, images):\n"
        "            answer = super().forward(images)\n"
        "            return answer if len(images) == 8 else 2 * answer\n"
        "    return task_with(model=Picky(Sizes()), baseline_epochs=0)",
        ["cannot be exported to ONNX", "parity"],
    ),
    "unsupported": (
        "    class Odd(Network):\n"
        "        def forward(self, images):\n"
        "            return torch.linalg.eigvals(images[:, 0]).real[:, :4]\n"
        "    return task_with(model=Odd(Sizes()), baseline_epochs=0)",
        ["cannot be exported to ONNX", "linalg_eigvals", "not supported"],
    ),
    "two_outputs": (
        "    class Two(Network):\n"
        "        def forward(self, images):\n"
        "            return super().forward(images), images\n"
        "    return task_with(model=Two(Sizes()))",
        ["several outputs", "no loss that reads them", "output_0, output_1", "give the task a loss"],
    ),
    "wrong_shape": (
        "    return task_with(train=TensorDataset(torch.zeros(9, 3, 8, 8), torch.zeros(9).long()))",
        ["does not run on the task's data", "(2, 3, 8, 8)"],
    ),
    "nan_metric": (
        "    return task_with(metric=lambda outputs, targets: float('nan'), baseline_epochs=0)",
        ["accuracy cannot be measured", "nan", "check the metric"],
    ),
    "nan_metric_training": (
        "    return task_with(metric=lambda outputs, targets: float('nan'))",
        ["baseline cannot be trained", "nan"],
    ),
    "nan_loss": (
        "    return task_with(loss=lambda outputs, targets: outputs.sum() * float('nan'))",
        ["loss does not work on the task's own model and data", "nan"],
    ),
    "raising_loss": (
        "    return task_with(loss=lambda outputs, targets: {}['absent'])",
        ["loss does not work on the task's own model and data", "the task's loss raised KeyError: 'absent'"],
    ),
    "wrong_targets": (
        "    images, classes = split(64, 1).tensors\n    return task_with(train=TensorDataset(images, classes + 4))",
        ["loss does not work on the task's own model and data", "out of bounds"],
    ),
    "diverging_loss": (
        "    def loss(outputs, targets):\n"
        "        return outputs.sum() * (float('nan') if outputs.requires_grad else 1.0)\n"
        "    return task_with(loss=loss)",
        ["baseline cannot be trained", "the loss became nan in epoch 1"],
    ),
    "broken_sample": (
        "    class Photos(Dataset):\n"
        "        def __len__(self):\n"
        "            return 64\n"
        "        def __getitem__(self, index):\n"
        "            if index == 50:\n"
        "                raise FileNotFoundError('50.png is gone')\n"
        "            return torch.zeros(1, 8, 8), 0\n"
        "    return task_with(train=Photos())",
        ["the task's train data raises an error", "[50]", "50.png is gone"],
    ),
    "absent_file": ("    return torch.load('absent.pt')", ["FileNotFoundError", "absent.pt", "mine_task.py:"]),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_faulty_task_is_told(karui_command: Command, tmp_path: Path, fault: str) -> None:
    body, words = FAULTS[fault]
    study = write_study(tmp_path, name="mine", function="faulty", code=f"\n\ndef faulty():\n{body}\n")
    finished = karui_command("search", study)
    assert finished.code == 2
    assert explained(finished.err[finished.err.index("error: ") :], *words)
    assert "storage" not in finished.err
    assert "results folder" not in finished.err
    # The user corrects the study file, and the same command goes on with it.
    write_study(tmp_path, name="mine", axes=BITS_ONLY)
    if fault in ("raises", "broken_sample"):
        finished = karui_command("search", study, "--trials", "1")
        assert (finished.code, finished.err) == (0, "")


def test_a_missing_task_file_is_told(karui_command: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    (tmp_path / "tiny_task.py").unlink()
    finished = karui_command("search", study)
    assert finished.code == 2
    assert explained(finished.err, "the task's file is missing", "tiny_task.py:make_task", "no file")


def test_students_that_cannot_stand_in_are_told_at_once(karui_command: Command, tmp_path: Path) -> None:
    code = """

def faulty():
    def rows(count):
        return TensorDataset(torch.zeros(count, 16), torch.zeros(count).long())

    return karui.Task(nn.Linear(16, 4), rows(8), rows(8), rows(8))
"""
    finished = karui_command("search", write_study(tmp_path, function="faulty", code=code))
    assert finished.code == 2
    assert explained(finished.err, "the axis [cells] cannot make networks", "inputs of shape (16,)")


def test_where_no_candidate_keeps_the_bounds_the_nearest_are_shown(karui_command: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=BITS_ONLY)
    study.write_text(study.read_text(encoding="utf-8") + "[bounds]\nmax_size = 10\n", encoding="utf-8")
    finished = karui_command("search", study, "--trials", "2")
    assert finished.code == 1
    assert "No candidate keeps every bound. The nearest:" in finished.out
    assert len(re.findall(r"^  trial \d+, baseline, .* KB, .* ms, accuracy", finished.out, re.MULTILINE)) == 2
    table = pd.read_csv(tmp_path / "runs" / "tiny" / "trials.csv")
    assert table["feasible"].tolist() == [False, False]
    for arguments in (["front", study], ["front", study, "--format", "csv"], ["front", study, "--format", "json"]):
        assert karui_command(*arguments).code == 0
    finished = karui_command("pick", study)
    assert finished.code == 1
    assert explained(finished.err, "the front is empty", "loosen the bounds")


# --- front and pick before there is anything --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["front", "pick"])
def test_before_any_search_there_is_nothing_to_read(karui_command: Command, tmp_path: Path, command: str) -> None:
    finished = karui_command(command, "digits")
    assert finished.code == 2
    assert explained(finished.err, "there are no results of 'digits' yet", "runs/digits", "karui search digits")
    assert list(tmp_path.iterdir()) == []
    finished = karui_command(command, "digit")
    assert finished.code == 2
    assert explained(finished.err, "did you mean digits?")


@pytest.mark.parametrize("command", ["front", "pick"])
def test_a_database_that_is_none_is_told(karui_command: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.db").write_bytes(b"this is no database " * 100)
    finished = karui_command(command, "digits", "--out", "run")
    assert finished.code == 2
    assert explained(finished.err, "storage cannot be used", "not a database")


def test_a_front_that_cannot_be_read_is_told(karui_command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "front.csv").touch()
    finished = karui_command("front", "digits", "--out", "run")
    assert finished.code == 2
    assert explained(finished.err, "the front cannot be read", "front.csv", "run the search again")


# --- init -------------------------------------------------------------------------------------------------------------


def test_init_writes_the_pair_and_says_what_comes_next(karui_command: Command, tmp_path: Path) -> None:
    finished = karui_command("init", "mine")
    assert finished.code == 0
    assert "wrote mine.toml and mine_task.py" in finished.out
    assert "karui search mine.toml" in finished.out
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "mine_task.py"}
    finished = karui_command("init", "mine")
    assert finished.code == 2
    assert explained(finished.err, "left as it is", "mine.toml")


def test_init_refuses_a_bad_name(karui_command: Command, tmp_path: Path) -> None:
    finished = karui_command("init", "a/b")
    assert finished.code == 2
    assert explained(finished.err, "cannot be the name of a study", "'a/b'")
    assert list(tmp_path.iterdir()) == []
