"""Study files of every kind of nonsense: an error with file, key, value and remedy; exit code 2, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import karui
from karui.errors import StudyFileError
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import load_spec, parse_spec, resolve_spec

from .conftest import Command

HEAD = 'task = "my_task.py:make_task"\n'
BITS = "[bits]\nweights = [4, 32]\n"


def trials(count: int) -> settings:
    """So many examples, the same in each run."""
    return settings(deadline=None, derandomize=True, database=None, max_examples=count)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (HEAD + "seed = 4294967296\n" + BITS, "seed"),
        (HEAD + "trials = 1e30\n" + BITS, "trials"),
        (HEAD + f"trials = {10**30}\n" + BITS, "trials"),
        (HEAD + "trials = '7'\n" + BITS, "trials"),
        (HEAD + "trials = 7.0\n" + BITS, "trials"),
        (HEAD + "trials = 2020-01-01\n" + BITS, "trials"),
        (HEAD + "trials = {a = 1}\n" + BITS, "trials"),
        (HEAD + "trials = [1]\n" + BITS, "trials"),
        (HEAD + "workers = 1000000000\n" + BITS, "workers"),
        (HEAD + "hours = '3'\n" + BITS, "hours"),
        (HEAD + "hours = 1e300\n" + BITS, "hours"),
        (HEAD + "candidate_minutes = 1e308\n" + BITS, "candidate_minutes"),
        (HEAD + "followers = 1000000000000\n" + BITS, "followers"),
        (HEAD + f"name = '{'x' * 300}'\n" + BITS, "name"),
        (HEAD + 'artifacts = "a\\u0000b"\n' + BITS, "artifacts"),
        (HEAD + "artifacts = ''\n" + BITS, "artifacts"),
        (HEAD + BITS + '[cache]\nfolder = "a\\u0000b"\n', "cache.folder"),
        ('task = "a\\u0000b.py:f"\n' + BITS, "task"),
        (HEAD + BITS + "[latency]\nthreads = 1000000000\n", "latency.threads"),
        (HEAD + BITS + "[latency]\nthreads = true\n", "latency.threads"),
        (HEAD + BITS + "[latency]\nbatch_size = 10000000\n", "latency.batch_size"),
        (HEAD + BITS + "[latency]\nmax_seconds = inf\n", "latency.max_seconds"),
        (HEAD + BITS + "[recovery]\nlearning_rate = inf\n", "recovery.learning_rate"),
        (HEAD + BITS + "[recovery]\nlearning_rate = nan\n", "recovery.learning_rate"),
        (HEAD + BITS + "[recovery]\nlearning_rate = -1.0\n", "recovery.learning_rate"),
        (HEAD + BITS + "[recovery]\nlearning_rate = 0\n", "recovery.learning_rate"),
        (HEAD + BITS + "[recovery]\nlearning_rate_supernet = 1e300\n", "recovery.learning_rate_supernet"),
        (HEAD + BITS + "[recovery]\ntemperature = inf\n", "recovery.temperature"),
        (HEAD + BITS + "[recovery]\nhint_weight = inf\n", "recovery.hint_weight"),
        (HEAD + BITS + "[recovery]\nhint_weight = nan\n", "recovery.hint_weight"),
        (HEAD + BITS + "[recovery]\nepochs = 10000000000\n", "recovery.epochs"),
        (HEAD + BITS + "[recovery]\nbatch_size = 1e3\n", "recovery.batch_size"),
        (HEAD + BITS + "[recovery]\nchannel_multiple = 1000000\n", "recovery.channel_multiple"),
        (HEAD + BITS + '[recovery]\ndevice = "cuda\\u0000"\n', "recovery.device"),
        (HEAD + "[bits]\nweights = ['4']\n", "bits.weights[0]"),
        (HEAD + "[bits]\nweights = [nan]\n", "bits.weights[0]"),
        (HEAD + "[bits]\nweights = [inf]\n", "bits.weights[0]"),
        (HEAD + f"[bits]\nweights = {[2 + n / 1000 for n in range(1000)]}\nallocations = ['budget']\n", "bits.weights"),
        (HEAD + "[sparsity]\nzeroed_weights = [nan]\n", "sparsity.zeroed_weights[0]"),
        (HEAD + "[exits]\ndepths = [nan]\n", "exits.depths[0]"),
        (HEAD + "[exits]\nthresholds = [nan]\n", "exits.thresholds[0]"),
        (HEAD + "[cells]\nchannels = [1000000000]\n", "cells.channels[0]"),
        (HEAD + BITS + "[bounds]\nmax_size = '1e400KB'\n", "bounds.max_size"),
        (HEAD + BITS + "[bounds]\nmax_size = '1e300GB'\n", "bounds.max_size"),
        (HEAD + BITS + "[bounds]\nmax_size = inf\n", "bounds.max_size"),
        (HEAD + BITS + "[bounds]\nmax_size = '\u0663KB'\n", "bounds.max_size"),
        (HEAD + BITS + "[bounds]\nmin_accuracy = nan\n", "bounds.min_accuracy"),
        (HEAD + BITS + "[bounds]\nmin_accuracy = '1e-99999999999999999999'\n", "bounds.min_accuracy"),
        (HEAD + BITS + f"[bounds]\nmax_size = '{'9' * 100_000}'\n", "bounds.max_size"),
        (HEAD + BITS + "[[target]]\nname = 'a'\nkind = 'local'\nthreads = 1000000000\n", "target[0].threads"),
        (HEAD + BITS + "[[target]]\nname = 'a'\nkind = 'command'\ncommand = ['a', 3]\n", "target[0].command[1]"),
        (HEAD + BITS + "[[target]]\nname = 'a'\nkind = 'command'\ncommand = [\"a\\u0000\"]\n", "target[0].command[0]"),
        (HEAD + "self = 1\n" + BITS, "self"),
        (HEAD + "'' = 1\n" + BITS, '""'),
        (HEAD + '"a\\u001b[31m\\nb" = 1\n' + BITS, '"a'),
        (HEAD + f"{'k' * 100_000} = 1\n" + BITS, '"kkk'),
        (HEAD + f"{'a.' * 3000}a = 1\n" + BITS, "a.a.a"),
        (HEAD + f"task_options.{'a.' * 200}a = 1\n" + BITS, "task_options.a"),
        (HEAD + f"trials = 0x{'f' * 5000}\n" + BITS, "trials"),
        (HEAD + f"task_options.a = 0x{'f' * 5000}\n" + BITS, "task_options.a"),
        (HEAD + f"trials = {'9' * 4000}\n" + BITS, "trials"),
    ],
)
def test_what_has_no_meaning_is_told_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError) as caught:
        load_spec(path)
    error = caught.value
    assert str(error.where).startswith(f"{path}: {key}")
    assert error.got
    assert error.remedy
    assert len(str(error)) < 5_000


@pytest.mark.parametrize(
    "content",
    [
        (HEAD + "trials = " + "[" * 3000 + "]" * 3000 + "\n").encode(),
        (HEAD + "trials = " + "{a=" * 3000 + "1" + "}" * 3000 + "\n").encode(),
        (HEAD + f"trials = {'9' * 5000}\n").encode(),
        (HEAD + "trials = \u0661\u0660\n").encode(),
        HEAD.encode() + "# é\n".encode("latin-1"),
        HEAD.encode("utf-16"),
        (HEAD + HEAD).encode(),
        bytes(range(256)),
        b"\0",
        b"\x7fELF" + bytes(1000),
        b"[bits\n",
    ],
)
def test_what_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError, match=r"is not valid TOML(?s:.*)mine\.toml(?s:.*)got: .(?s:.*)to do: correct"):
        load_spec(path)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**9)


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_large, "too long(?s:.*)1,000.0 MB"),
        (os.mkfifo, "no pipe|not a pipe"),
        (Path.mkdir, "not a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "not a pipe or a device"),
        (_loop, "no study|cannot be read"),
        (lambda path: path.symlink_to("nowhere/at/all"), "no study"),
    ],
)
def test_what_is_no_file_is_told_and_read_no_further(tmp_path: Path, make: Callable[[Path], None], told: str) -> None:
    make(tmp_path / "mine.toml")
    with pytest.raises(StudyFileError, match=told):
        load_spec(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", "", "\n", "-", "~nobody/x.toml", os.fsdecode(b"\xff.toml"), "[/x]"]
)
def test_a_name_of_no_study_is_told(karui_command: Command, name: str) -> None:
    with pytest.raises(StudyFileError):
        load_spec(name)
    for command in ("search", "front", "pick", "report", "watch", "preflight"):
        finished = karui_command(command, "--", name)
        assert finished.code == 2
        assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--hours", value) for value in ("nan", "inf", "-1", "0", "1e300", "x")),
        *(("--trials", value) for value in ("-1", "0", "1e30", "1000000000", "9" * 5000, "x", "")),
        *(("--workers", value) for value in ("1e9", "1000000000", "-1")),
        *(("--seed", value) for value in ("4294967296", "-1", "0x1")),
    ],
)
def test_what_is_given_to_a_search_is_checked_as_well(karui_command: Command, arguments: tuple[str, str]) -> None:
    finished = karui_command("search", "digits", *arguments, "--out", "results")
    assert finished.code == 2
    assert arguments[0].removeprefix("--") in finished.err
    assert "Traceback" not in finished.err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, r"StudySpec\(\.\.\.\): name"),
        ({"name": "a", "trials": True}, "trials"),
        ({"name": "a", "trials": 10**5000}, "trials"),
        ({"name": "a", "trials": float("nan")}, "trials"),
        ({"name": "a", "nonsense": 1}, "unknown key(?s:.*)nonsense"),
        ({"name": "a", "trails": 1}, "did you mean trials"),
        ({"name": "a\ud800"}, "name"),
        ({"name": "a", "task_options": {"x": object()}}, "task_options"),
        ({"name": "a", "task_options": {"x": "\ud800"}}, "task_options"),
        ({"name": "a", "bits": {"weights": [True]}}, r"bits\.weights\[0\]"),
        ({"name": "a", "latency": {"threads": 10**9}}, r"latency\.threads"),
    ],
)
def test_a_study_made_in_python_is_checked_alike(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(karui.KaruiError, match=told):
        karui.StudySpec(**keys)


def test_options_that_hold_themselves_are_told() -> None:
    options: dict[str, Any] = {}
    options["again"] = options
    with pytest.raises(StudyFileError, match="task_options"):
        StudySpec(name="a", task_options=options)


# --- anything at all --------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=30),
    st.dates(),
    st.sampled_from(
        ["auto", "60KB", "0.3x", "97%", "1e999", "local", "\0", "\u0663", "tpe", 10**4000, 2**31, 32, 8, 0.5]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
KEYS = st.sampled_from([*(key for key in StudySpec.model_fields if key != "folder"), "nonsense", "self", ""])
SECTIONS = {
    name: st.dictionaries(st.sampled_from([*section, "nonsense"]), VALUES, max_size=4)
    for name, section in (
        ("bits", ("weights", "activations", "allocations", "groups", "training")),
        ("sparsity", ("removed_channels", "zeroed_weights", "patterns", "zeroing")),
        ("latency", ("objective", "threads", "batch_size", "provider", "runtime", "inputs", "max_seconds")),
        ("recovery", ("epochs", "learning_rate", "batch_size", "temperature", "channel_multiple", "device")),
        ("bounds", ("max_size", "max_latency", "min_accuracy", "max_load")),
        ("cache", ("folder", "gigabytes")),
        ("gates", ("stop_at", "audit")),
    )
}
STUDIES = st.builds(
    lambda plain, sections: {"name": "mine", "task": "t.py:f", "bits": {"weights": [4]}, **plain, **sections},
    st.dictionaries(KEYS, VALUES, max_size=3),
    st.fixed_dictionaries({}, optional=SECTIONS),
)


def _is_right_or_told(plain: dict[str, Any]) -> None:
    message = ""
    try:
        spec = parse_spec(plain, Path("mine.toml"))
    except StudyFileError as error:
        message = str(error)
    if message:
        assert "mine.toml" in message
        assert len(message.encode()) < 10_000
        return
    # What is accepted can be kept, is the same when it is read again, and has bounds that mean something.
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert all(objective.bound is None or abs(objective.bound.limit) <= 1e18 for objective in spec.objectives())
    assert resolve_spec(spec, trials=5).trials == 5


@trials(150)
@given(plain=STUDIES)
def test_any_values_are_a_study_or_told(plain: dict[str, Any]) -> None:
    _is_right_or_told(plain)


@pytest.mark.slow
@trials(2_000)
@given(plain=STUDIES)
def test_any_values_are_a_study_or_told_at_length(plain: dict[str, Any]) -> None:
    _is_right_or_told(plain)


PARTS = (
    *('task = "t.py:f"\n', "[bits]\n", "weights = ", "[4, 32]\n", "trials = ", "1", "9" * 4400, "=", "[", "]"),
    *("{", "}", '"', "'''", "\n", "inf", "-", "0x", "1979-05-27", "\0", "\ufeff", "é", "\\u0000"),
    *("[[target]]\n", "name", "hours = nan\n", "[bounds]\nmax_size = ", "'1e400KB'\n", "true", "."),
    *("a" * 300, "#", "[recovery]\n", ","),
)
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=25).map("".join)


def _file_is_right_or_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = str(path)
    try:
        load_spec(path)
    except StudyFileError as error:
        message = str(error)
    assert str(path) in message


@trials(200)
@given(content=TEXTS.map(str.encode) | st.binary(max_size=50))
def test_any_file_is_a_study_or_told(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _file_is_right_or_told(tmp_path_factory.getbasetemp() / "mine.toml", content)


@pytest.mark.slow
@trials(2_000)
@given(content=TEXTS.map(str.encode) | st.binary(max_size=50))
def test_any_file_is_a_study_or_told_at_length(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _file_is_right_or_told(tmp_path_factory.getbasetemp() / "mine.toml", content)
