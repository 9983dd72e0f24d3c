"""``karui init``: a pair of files that can be used as written, and never over what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from karui.errors import KaruiError, OutputError
from karui.spaces.axes.bits.axis import BitsAxis
from karui.studies.study_file.scaffold import write_scaffold
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.study_file.task_loading import load_task


@pytest.mark.parametrize(
    ("name", "task_file"),
    [("mine", "mine_task.py"), ("my-net.v2", "my_net_v2_task.py"), ("0", "0_task.py")],
)
def test_the_pair_parses_and_makes_a_task(tmp_path: Path, name: str, task_file: str) -> None:
    study, task = write_scaffold(name, tmp_path)
    assert (study, task) == (tmp_path / f"{name}.toml", tmp_path / task_file)
    spec = load_spec(study)
    assert spec.name == name
    assert {"bits", "sparsity", "students", "cells"} <= set(spec.space.by_name)
    made = load_task(spec.task, spec.folder, spec.task_options)
    assert made.input_shape == (1, 8, 8)
    assert made.baseline_epochs > 0
    assert "{" + "name}" not in study.read_text() + task.read_text()


def test_what_stands_commented_out_can_be_used_as_well(tmp_path: Path) -> None:
    study, _ = write_scaffold("mine", tmp_path)
    lines = study.read_text().splitlines()
    used = [re.sub(r"^# (?=[a-z_]+ = |\[)", "", line) for line in lines]
    assert sum(before != after for before, after in zip(lines, used, strict=True)) > 20
    study.write_text("\n".join(used))
    spec = load_spec(study)
    assert {"stages", "exits"} <= set(spec.space.by_name)
    bits = spec.axis(BitsAxis)
    assert bits is not None
    assert bits.training == ("post", "aware")


@pytest.mark.parametrize("name", ["", ".", "..", "../mine", "a/b", "a b", "-x", "mine\n", "é"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KaruiError, match=r"cannot be the name of a study(?s:.*)letters, digits"):
        write_scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["mine.toml", "mine_task.py"])
def test_what_is_there_is_left_as_it_is(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(KaruiError, match=rf"left as it is(?s:.*){taken}"):
        write_scaffold("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_told() -> None:
    with pytest.raises(OutputError, match=r"the current folder cannot be written(?s:.*)/proc"):
        write_scaffold("mine", Path("/proc"))
