"""The study file: what is right is kept, what is wrong is told with file, key, what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import StudyFileError
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.exits.axis import ExitsAxis
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import bundled_studies, load_spec, parse_spec, resolve_spec

HEAD = 'task = "my_task.py:make_task"\n'
BITS = "[bits]\nweights = [4, 32]\n"


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError, match="study") as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_bundled_studies_search_all_four_axes() -> None:
    assert bundled_studies() == ["digits", "fashion"]
    for name in bundled_studies():
        spec = load_spec(name)
        assert spec.name == name
        assert {"bits", "sparsity", "students", "cells"} <= set(spec.space.by_name)
        assert spec.task == f"karui.studies.tasks.{name}:make_task"


def test_a_file_is_read_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("\ufeff" + HEAD + "trials = 7\n" + BITS + "[bounds]\nmax_size = '60KB'\n", encoding="utf-8")
    spec = load_spec(path)
    assert (spec.name, spec.trials, spec.hours, spec.sampler) == ("mine", 7, None, "tpe")
    assert spec.axis(BitsAxis) == BitsAxis(weights=(4, 32))
    assert list(spec.space.by_name) == ["bits"]
    assert spec.folder == tmp_path.resolve()
    size, latency, accuracy = spec.bounds.objectives()
    assert size.bound is not None
    assert (size.bound.limit, size.bound.relative) == (60_000.0, False)
    assert latency.bound is None
    assert accuracy.bound is None
    assert spec.bounds.limits() == ()


def test_limits_are_what_is_bounded_beside_the_objectives(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + BITS + "[bounds]\nmax_load = '0.2s'\nmax_memory = '64MB'\nmax_size = '1MB'\n")
    limits = load_spec(path).bounds.limits()
    assert [(limit.name, limit.bound and limit.bound.limit) for limit in limits] == [
        ("load_ms", 200.0),
        ("session_peak_bytes", 64e6),
    ]


def test_further_objectives_come_after_the_three_with_their_bounds(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    head = "further_objectives = ['energy', 'load']\n" + HEAD + BITS
    path.write_text(head + "[bounds]\nmax_load = '0.2s'\nmax_memory = '64MB'\nmin_accuracy = 0.9\n")
    spec = load_spec(path)
    assert [(item.name, item.bound and item.bound.limit) for item in spec.objectives()] == [
        ("size_bytes", None),
        ("latency_ms", None),
        ("accuracy", 0.9),
        ("energy_mj", None),
        ("load_ms", 200.0),
    ]
    assert [limit.name for limit in spec.limits()] == ["session_peak_bytes"], "what is an objective is no limit"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "trails = 3\n" + BITS, ("trails", "did you mean trials?", "one of name, task")),
        (HEAD + BITS + "weigths = [8]\n", ("bits.weigths", "did you mean weights?", "one of weights, activations")),
        (HEAD + "[bitz]\nweights = [4]\n", ("bitz", "did you mean bits?")),
        (HEAD + BITS + "[latency]\nzzz = 1\n", ("latency.zzz", "remove it")),
        (HEAD + BITS + "[latency]\nruntime = 'tflite'\n", ("latency.runtime", "onnxruntime", "openvino", "tflite")),
        (HEAD + BITS + "[latency]\ninputs = 'zeros'\n", ("latency.inputs", "real", "random", "zeros")),
        (HEAD + "folder = 'x'\n" + BITS, ("folder", "unknown key")),
        (HEAD + "trials = 'many'\n" + BITS, ("trials", "integer", "'many'")),
        (HEAD + "trials = 0\n" + BITS, ("trials", "greater than or equal to 1", "0")),
        (HEAD + "trials = true\n" + BITS, ("trials", "a number", "true or false")),
        (HEAD + "hours = inf\n" + BITS, ("hours", "finite number", "inf")),
        (HEAD + "hours = nan\n" + BITS, ("hours", "nan")),
        (HEAD + "seed = -1\n" + BITS, ("seed", "greater than or equal to 0", "-1")),
        (HEAD + "sampler = 'tpx'\n" + BITS, ("sampler", "'tpe'", "'tpx'")),
        (HEAD + "followers = 'many'\n" + BITS, ("followers", "a count of 0 or more, or 'auto'", "'many'")),
        (HEAD + "followers = -1\n" + BITS, ("followers", "a count of 0 or more, or 'auto'", "-1")),
        (HEAD + "followers = 2.0\n" + BITS, ("followers", "a count of 0 or more, or 'auto'", "2.0")),
        (HEAD + BITS + "[recovery]\nchannel_multiple = 'any'\n", ("a count of 1 or more, or 'auto'", "'any'")),
        (HEAD + BITS + "[recovery]\nchannel_multiple = 0\n", ("recovery.channel_multiple", "'auto'", "got: 0")),
        (
            HEAD + BITS + "[recovery]\nchannel_multiple = 'auto'\n[preflight]\nlayers = 0\n",
            ("asks a preflight", "preflight.layers", "expected: 1 or more", "got: 0", "or write a number"),
        ),
        (HEAD + "name = 'a b'\n" + BITS, ("name", "letters, digits, dots", "'a b'")),
        (HEAD + "task_options = 3\n" + BITS, ("task_options", "a section, written [task_options]", "3")),
        (HEAD + "bits = 4\n", ("bits", "a section, written [bits]", "4")),
        (HEAD + "[bits]\nweights = 4\n", ("bits.weights", "a list", "4")),
        (HEAD + "[bits]\nweights = [9]\n", ("bits.weights[0]", "2 to 8 bits, 16 for float16, or 32", "9")),
        (HEAD + "[bits]\nweights = [9, 'x']\n", ("bits.weights[0]", "also bits.weights[1]")),
        (HEAD + "[bits]\nweights = []\n", ("bits.weights", "at least one value", "switch the axis off")),
        (HEAD + "[bits]\nweights = [4, 4]\n", ("bits.weights", "a value stands twice", "[4, 4]")),
        (HEAD + "[sparsity]\nzeroed_weights = [1.0]\n", ("sparsity.zeroed_weights[0]", "less than 1", "1.0")),
        (HEAD + "[students]\nwidths = [true]\n", ("students.widths[0]", "true or false")),
        (HEAD + BITS + "[bounds]\nmax_size = '3ms'\n", ("bounds.max_size", "unknown unit", "60KB", "'3ms'")),
        (
            "further_objectives = ['lod']\n" + HEAD + BITS,
            ("further_objectives[0]", "'load', 'memory' or", "'lod'"),
        ),
        ("further_objectives = ['load', 'load']\n" + HEAD + BITS, ("further_objectives", "named twice")),
        (HEAD + BITS + "[bounds]\nmax_energy = '3ms'\n", ("bounds.max_energy", "unknown unit", "2mJ", "'3ms'")),
        (HEAD + BITS + "[bounds]\nmax_memory = '0MB'\n", ("bounds.max_memory", "not positive", "'0MB'")),
        (HEAD + BITS + "[bounds]\nmax_latency = '3KB'\n", ("bounds.max_latency", "unknown unit", "0.4ms", "'3KB'")),
        (HEAD + BITS + "[bounds]\nmin_accuracy = 'high'\n", ("bounds.min_accuracy", "no quantity", "97%", "'high'")),
        (HEAD + BITS + "[bounds]\nmin_accuracy = '-0.5x'\n", ("bounds.min_accuracy", "not positive", "-0.5x")),
        (HEAD + BITS + "[bounds]\nmax_size = -5\n", ("bounds.max_size", "not positive", "-5")),
        (HEAD + BITS + "[bounds]\nmax_size = [1]\n", ("bounds.max_size\n", "a number, or a text", "[1]")),
        (HEAD + "[exits]\ndepths = [1.0]\n", ("exits.depths[0]", "from 0 (no exit) to below 1", "1.0")),
        (HEAD + "[exits]\nthresholds = [0.9, 1.5]\n", ("exits.thresholds[1]", "both excluded", "1.5")),
        (HEAD + "[exits]\nthresholds = [true]\n", ("exits.thresholds[0]", "true or false")),
        (
            HEAD + "[exits]\n[latency]\nbatch_size = 8\n",
            ("one input at a time", "latency.batch_size", "expected: 1, where", "got: 8", "or the section [exits]"),
        ),
        (
            HEAD + "[exits]\n[latency]\ninputs = 'random'\n",
            ("depends on its inputs", "latency.inputs", "'real', where", "got: 'random'", "or the section [exits]"),
        ),
        (HEAD + BITS + "[gates]\nstop_at = ['drafts']\n", ("gates.stop_at[0]", "'draft' or 'rungs'", "'drafts'")),
        (HEAD + BITS + "[gates]\nstop_at = 'draft'\n", ("gates.stop_at", "a list", "'draft'")),
        (HEAD + BITS + "[gates]\nstop_at = true\n", ("gates.stop_at", "true or false")),
        (HEAD + BITS + "[gates]\naudit = 1.5\n", ("gates.audit", "less than or equal to 1", "1.5")),
        (HEAD + BITS + "[gates]\naudit = nan\n", ("gates.audit", "nan")),
        (HEAD + BITS + "[gates]\nrungs = 2\n", ("gates.rungs", "one of stop_at, audit")),
        (HEAD, ("no axis", "[students], [cells], [stages], [sparsity], [bits], [exits]")),
        (BITS, ("names no task", "my_task.py:make_task")),
        ("task = 3\n" + BITS, ("task", "string", "3")),
        (HEAD + "trials = \n", ("not valid TOML", "line 2")),
    ],
)
def test_a_fault_is_told_with_key_expectation_and_value(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    message = refusal(tmp_path, text)
    assert [words for words in expected if words not in message] == []


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(StudyFileError, match="not valid TOML"):
        load_spec(path)


@pytest.mark.parametrize(("name", "near"), [("digit", "digits"), ("fashon", "fashion"), ("mine.tml", "mine.toml")])
def test_an_unknown_study_suggests_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    with pytest.raises(StudyFileError, match=rf"no study '{name}'(?s:.*)did you mean {near}\?"):
        load_spec(name)


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(StudyFileError, match="digits, fashion") as caught:
        load_spec("qqqq")
    assert "did you mean" not in str(caught.value)


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"not a folder(?s:.*)name the \.toml file"):
        load_spec(tmp_path)


def test_exits_alone_are_something_to_search(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + "[exits]\ndepths = [0, 0.5]\n[latency]\nbatch_size = 1\n", encoding="utf-8")
    spec = load_spec(path)
    assert spec.axis(ExitsAxis) == ExitsAxis(depths=(0.0, 0.5), thresholds=(0.8, 0.9, 0.95))


NUMBERS = st.floats(0.001, 1.0)
SPECS = st.fixed_dictionaries(
    {"name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True), "task": st.just("t.py:f")},
    optional={
        "trials": st.integers(1, 10**6),
        "hours": st.floats(0.001, 1e6),
        "seed": st.integers(0, 2**31),
        "workers": st.integers(0, 64),
        "candidate_minutes": st.floats(0.001, 1e6),
        "sampler": st.sampled_from(["tpe", "nsga2", "nsga3", "gp", "random"]),
        "followers": st.integers(0, 100) | st.just("auto"),
        "task_options": st.dictionaries(
            st.text(min_size=1, max_size=5), st.booleans() | st.integers(-(2**63), 2**63 - 1), max_size=2
        ),
        "sparsity": st.fixed_dictionaries(
            {"zeroed_weights": st.lists(st.floats(0, 0.99), min_size=1, max_size=4, unique=True)}
        ),
        "students": st.fixed_dictionaries({"widths": st.lists(NUMBERS, min_size=1, max_size=3, unique=True)}),
        "bounds": st.fixed_dictionaries({}, optional={"max_size": st.just("60KB"), "min_accuracy": NUMBERS}),
    },
).map(lambda plain: {**plain, "bits": {"weights": [4, 32]}})


@settings(deadline=None, max_examples=50)
@given(plain=SPECS)
def test_a_study_survives_being_written_and_read(plain: dict[str, Any]) -> None:
    spec = parse_spec(plain, Path("mine.toml"))
    assert parse_spec(spec.model_dump(), Path("mine.toml")) == spec
    # As JSON keeps it, in which lists are lists: what the study's storage compares with.
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


@settings(deadline=None, max_examples=50)
@given(first=SPECS, second=SPECS)
def test_meaning_forgets_only_how_long_and_in_which_order(first: dict[str, Any], second: dict[str, Any]) -> None:
    forgotten = ("name", "trials", "hours", "seed", "sampler", "followers", "workers", "candidate_minutes")
    one = parse_spec(first, Path("mine.toml"))
    told = {key: value for key, value in first.items() if key not in forgotten}
    other = {key: value for key, value in second.items() if key in forgotten}
    assert parse_spec({**told, **other}, Path("mine.toml")).meaning() == one.meaning()
    assert parse_spec({**first, "bits": {"weights": [4]}}, Path("mine.toml")).meaning() != one.meaning()
    assert not set(forgotten) & set(one.meaning())


@pytest.mark.parametrize("changes", [{"trials": 0}, {"hours": 0.0}, {"hours": float("nan")}, {"seed": -1}])
def test_what_is_given_beside_the_file_is_checked_as_well(changes: dict[str, Any]) -> None:
    (key,) = changes
    with pytest.raises(StudyFileError, match=rf"as it is called: {key}"):
        resolve_spec("digits", **changes)


def test_what_is_given_beside_the_file_counts(tmp_path: Path) -> None:
    spec = resolve_spec("digits", trials=3, hours=2, seed=5, data=tmp_path)
    assert (spec.trials, spec.hours, spec.seed, spec.task_options) == (3, 2.0, 5, {"data_dir": str(tmp_path)})
    assert spec.folder == load_spec("digits").folder
    assert resolve_spec("digits") == load_spec("digits")


def test_gates_are_no_part_of_what_results_mean_and_can_be_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + BITS + "[gates]\nstop_at = ['rungs']\naudit = 0.25\n", encoding="utf-8")
    spec = load_spec(path)
    assert (spec.gates.stop_at, spec.gates.audit) == (("rungs",), 0.25)
    off = resolve_spec(path, gates=False)
    assert off.gates.stop_at == ()
    assert resolve_spec(path) == spec
    assert off.meaning() == spec.meaning()
    assert "gates" not in spec.meaning()
    assert load_spec("digits").gates.stop_at == ("draft", "rungs")
