"""The report: what it is made of, each part against an answer of its own."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from karui.errors import OutputError
from karui.evaluators.measurement import Measurement
from karui.search.statistics.front import hypervolume
from karui.spaces.candidate import Candidate
from karui.spaces.formats.onnx.packing import pack
from karui.studies.report import write_report
from karui.studies.report.cloud import MOST_DRAWN, cloud_columns
from karui.studies.report.content import page_content
from karui.studies.report.endings import count_states, endings_of
from karui.studies.report.history import axis_contributions, volume_history
from karui.studies.report.layer_table import Layer, read_layers
from karui.studies.report.material import count_ended, evaluated_rows, read_material
from karui.studies.report.page import embedded_json, render_page
from karui.studies.report.parameter_importance import parameter_importances
from karui.studies.report.points import match_layers, page_measurements
from karui.studies.report.sections import targets
from karui.studies.report.trial_axes import axes_used
from karui.studies.report.words import configuration, highlights, times
from karui.studies.report.write import pick_command
from karui.studies.results.read import Results

from .conftest import Command
from .made_up import BASELINE, made_up_front, made_up_trials, store_trials, write_results

SEARCHED = [BASELINE[name].value for name in ("size_bytes", "latency_ms", "accuracy")]
NAMES = ["size_bytes", "latency_ms", "accuracy"]


def material_of(folder: Path):  # type: ignore[no-untyped-def]
    from karui.studies.storage.folder import RunFolder

    run = RunFolder(folder)
    return read_material(Results("made-up", run, run.own_storage))


# --- what is read -----------------------------------------------------------------------------------------------------


def test_ended_trials_are_counted_without_reading_them(tmp_path: Path) -> None:
    trials = made_up_trials(17)
    storage = store_trials(tmp_path, trials)
    store_trials(tmp_path, made_up_trials(5), name="another")
    assert count_ended(storage, "made-up") == 17
    assert count_ended(storage, "another") == 5
    assert count_ended(storage, "a third") == 0


def test_a_table_that_lacks_trials_gives_way_to_the_database(tmp_path: Path) -> None:
    trials = made_up_trials(12)
    store_trials(tmp_path, trials)
    known = material_of(tmp_path)
    assert list(known.trials["trial"]) == list(range(12))
    trials.iloc[:7].to_csv(tmp_path / "trials.csv", index=False)
    assert len(material_of(tmp_path).trials) == 12
    trials.assign(reason="told by the table").to_csv(tmp_path / "trials.csv", index=False)
    assert set(material_of(tmp_path).trials["reason"]) == {"told by the table"}


def test_a_search_in_progress_shows_its_front_so_far(tmp_path: Path) -> None:
    trials = made_up_trials(40)
    store_trials(tmp_path, trials)
    known = material_of(tmp_path)
    assert known.is_front
    assert not known.on_test
    assert sorted(known.points["trial"]) == sorted(trials.loc[trials["on_front"], "trial"])
    assert known.documents[int(known.points.iloc[0]["trial"])].candidate is not None


def test_without_a_feasible_trial_the_nearest_are_shown_in_their_order(tmp_path: Path) -> None:
    trials = made_up_trials(40)
    store_trials(tmp_path, trials, least_accuracy=0.999)
    known = material_of(tmp_path)
    assert not known.is_front
    # one bound only: the nearest are the most accurate
    evaluated = evaluated_rows(trials).sort_values("accuracy", ascending=False)
    assert list(known.points["trial"]) == list(evaluated["trial"][:10])


def test_a_front_older_than_the_trials_is_told(tmp_path: Path) -> None:
    trials = made_up_trials(30)
    write_results(tmp_path, trials)
    assert not material_of(tmp_path).is_stale
    log = tmp_path / "log.jsonl"
    event = {"event": "trial ended", "trial": 1, "values": {"accuracy": 0.9}, "time": "2020-01-01T00:00:00+00:00"}
    log.write_text(json.dumps(event) + "\n", encoding="utf-8")
    assert not material_of(tmp_path).is_stale
    log.write_text(json.dumps({**event, "time": "2999-01-01T00:00:00+00:00"}) + "\n", encoding="utf-8")
    assert material_of(tmp_path).is_stale


def test_marks_of_a_certification_are_shown(tmp_path: Path) -> None:
    trials = made_up_trials(30)
    front = write_results(tmp_path, trials)
    front.assign(mark="within noise", front_probability=0.625).to_csv(tmp_path / "front.csv", index=False)
    plain = {"marks": {"holds": 3, "fell off": 1}, "accuracy_tau": 0.8125, "latency_tau": None, "same_process": ""}
    (tmp_path / "certification.json").write_text(json.dumps(plain), encoding="utf-8")
    content = page_content(material_of(tmp_path), ["karui", "pick"])
    assert dict(content.certification)["Marks"] == "3 holds, 1 fell off"
    assert [words[:4] for topic, words in content.certification if topic == "Rank correlation"] == ["0.81"]
    points = content.interactive["points"]
    assert {(point["mark"], point["probability"]) for point in points} == {("within noise", 0.625)}


# --- hypervolume ------------------------------------------------------------------------------------------------------


def test_the_history_is_the_hypervolume_of_all_trials_so_far() -> None:
    evaluated = evaluated_rows(made_up_trials(60))
    found = volume_history(evaluated, SEARCHED)
    values, feasible = evaluated[NAMES].to_numpy(float), evaluated["feasible"].to_numpy(bool)
    twin = [hypervolume(values[: n + 1][feasible[: n + 1]], SEARCHED) for n in range(len(values))]
    assert found.volumes == pytest.approx(twin)
    assert found.counts[-1] == len(values)
    assert found.hours == ()


def test_the_history_has_times_where_the_log_knows_all() -> None:
    evaluated = evaluated_rows(made_up_trials(3))
    events = [{"event": "search begun", "time": "2026-01-01T00:00:00+00:00"}]
    for number, minute in ((0, 30), (2, 90), (1, 60)):
        time = f"2026-01-01T{minute // 60:02d}:{minute % 60:02d}:00+00:00"
        events.append({"event": "trial ended", "trial": number, "time": time})  # type: ignore[dict-item]
    assert volume_history(evaluated, SEARCHED, events).hours == pytest.approx((0.5, 1.0, 1.5))
    assert volume_history(evaluated, SEARCHED, events[:-1]).hours == ()


def test_an_axis_that_holds_all_of_the_front_takes_all_of_it_along() -> None:
    trials = evaluated_rows(made_up_trials(80))
    feasible = trials[trials["feasible"].astype(bool)]
    uses = axes_used(feasible)
    found = {each.axis: each for each in axis_contributions(feasible, uses, SEARCHED)}
    values, front = feasible[NAMES].to_numpy(float), feasible["on_front"].to_numpy(bool)
    whole = hypervolume(values[front], SEARCHED)
    students = (feasible["kind"] == "student").to_numpy()
    assert found["students"].share_of_points == pytest.approx(
        1 - hypervolume(values[front & ~students], SEARCHED) / whole
    )
    assert found["students"].share_for_good == pytest.approx(1 - hypervolume(values[~students], SEARCHED) / whole)
    assert all(each.share_for_good <= each.share_of_points + 1e-12 for each in found.values())
    assert "early exits" not in found


def test_axes_are_told_by_what_was_chosen() -> None:
    trials = pd.DataFrame(
        {
            "kind": ["baseline", "baseline", "cell", "stages", "baseline"],
            "architecture": ["student", None, "cell", "stages", "baseline"],
            "bits.weights": [32, 4, 32, np.nan, 16],
            "bits.group.0": [np.nan, np.nan, np.nan, 3, np.nan],
            "exit.depth": [0.0, 0.3, np.nan, np.nan, 0.0],
        }
    )
    used = {axis: list(np.flatnonzero(mask)) for axis, mask in axes_used(trials).items() if mask.any()}
    assert used == {"bits": [1, 3, 4], "student": [0], "cell": [2], "stages": [3], "exits": [1]}


# --- importance, endings, targets -------------------------------------------------------------------------------------


def test_the_parameter_that_decides_matters_most() -> None:
    chance = np.random.default_rng(0)
    count = 400
    bits, width, idle = (chance.choice(4, count) for _ in range(3))
    trials = pd.DataFrame(
        {"bits.weights": bits, "student.width": np.where(idle < 2, width, np.nan), "exit.depth": idle}
    ).assign(size_bytes=1000.0 * 2.0**bits, latency_ms=1.0 + idle + chance.uniform(0, 0.1, count))
    trials["accuracy"] = -(2.0 ** -bits.astype(float)) + chance.uniform(0, 0.01, count)
    found = parameter_importances(trials)
    assert found.problem == ""
    best = [max(found.shares, key=lambda name: found.shares[name][column]) for column in range(3)]
    assert best == ["bits.weights", "exit.depth", "bits.weights"]
    assert np.array(list(found.shares.values())).sum(axis=0) == pytest.approx(1.0)


def test_too_few_trials_say_nothing_of_importance() -> None:
    found = parameter_importances(evaluated_rows(made_up_trials(10)))
    assert found.shares == {}
    assert "too few" in found.problem


def test_reasons_that_differ_in_numbers_only_are_told_once() -> None:
    trials = pd.DataFrame(
        {
            "state": ["stopped", "stopped", "failed", "evaluated", "evaluated", "stopped"],
            "stage": ["size", "size", "export", "rung", "", "size"],
            "reason": [
                "an untrained proxy of 12.5 KB",
                "an untrained proxy of 80 KB",
                "no kernel",
                "let through",
                "",
                "something else",
            ],
            "on_front": [False, False, False, True, False, False],
        }
    )
    size, export, rung = endings_of(trials)
    assert (size.stage, size.count, [(r.text, r.count) for r in size.reasons]) == (
        "size",
        3,
        [("an untrained proxy of 12.5 KB", 2), ("something else", 1)],
    )
    assert (export.state, export.stage, export.count) == ("failed", "export", 1)
    assert (rung.stage, rung.count, rung.tested, rung.missed) == ("rung", 0, 1, 1)
    assert count_states(trials) == {"measured": 2, "stopped by a gate": 3, "failed": 1}


def test_what_was_measured_on_one_target_says_so_and_is_told_once() -> None:
    def item(name: str, value: float, unit: str, threads: int) -> tuple[str, Measurement]:
        return name, Measurement(name, value, unit, conditions={"threads": threads})

    told = page_measurements(
        dict(
            [
                item("size_bytes", 1000.0, "bytes", 1),
                item("latency_ms", 2.0, "ms", 1),
                item("latency_ratio", 0.5, "1", 1),
                item("latency_ms@pi5", 2.0, "ms", 1),
                item("latency_ratio@pi5", 0.5, "1", 1),
                item("latency_ms@phone", 3.0, "ms", 4),
                item("latency_ratio@phone", 0.25, "1", 4),
            ]
        )
    )
    assert told == [
        ["File size", "1,000 bytes", "1 thread"],
        ["Latency", "2 ms, 0.5000 of your model's", "1 thread"],
        ["Latency on pi5", "2 ms, 0.5000 of your model's", "1 thread"],
        ["Latency on phone", "3 ms, 0.2500 of your model's", "4 threads"],
    ]


def test_where_targets_disagree_is_told_on_the_page(tmp_path: Path) -> None:
    front = write_results(tmp_path, made_up_trials(30))
    slower = [0.1 * 2**rank for rank in range(len(front))]
    # The phone has the first two the other way round, three times apart and not twice, and ranks all others alike.
    phone = [slower[1] * 1.5, slower[1] / 2, *slower[2:]]
    for target, ratios in (("pi5", slower), ("phone", phone)):
        front[f"latency_ratio@{target}"], front[f"latency_ms@{target}"] = ratios, ratios
    front["latency_ratio@phone_spread"] = 0.001
    front.to_csv(tmp_path / "front.csv", index=False)
    content = page_content(material_of(tmp_path), ["karui", "pick"])
    first, second = front["point"][:2]
    told = f"<li>{first} is 2.00x faster than {second} on pi5, and 3.00x slower on phone</li>"
    assert content.targets == ("pi5", "phone")
    assert told in targets(content)
    front["latency_ratio@phone_spread"] = 1e6
    front.to_csv(tmp_path / "front.csv", index=False)
    assert "rank the points alike, within noise" in targets(page_content(material_of(tmp_path), ["karui", "pick"]))


# --- layers -----------------------------------------------------------------------------------------------------------


def quantized_file(path: Path, low: int, high: int) -> Path:
    """A convolution of int8 weights from ``low`` to ``high``, half of them zero, and a float Gemm."""
    chance = np.random.default_rng(1)
    weight = chance.integers(low, high, (64, 32, 3, 3), endpoint=True).astype(np.int8)
    weight[0, 0, 0, :2] = low, high
    weight[32:] = 0
    tensors = {"weight": weight, "scale": np.float32(0.1), "zero": np.int8(0), "gemm": np.ones((5, 64), np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["floats"]),
        helper.make_node("Conv", ["images", "floats"], ["features"], name="first"),
        helper.make_node("ReduceMean", ["features"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["means", "gemm"], ["classes"], name="last", transB=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 32, 5, 5])
    classes = helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 5])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", [images], [classes], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("low", "high", "bits"), [(-1, 1, 2), (-4, 3, 3), (-8, 7, 4), (-127, 127, 8)])
def test_layers_are_the_same_packed_and_unpacked(tmp_path: Path, low: int, high: int, bits: int) -> None:
    plain = quantized_file(tmp_path / "plain.onnx", low, high)
    report = pack(plain, tmp_path / "packed.onnx")
    assert report.tensors, "the weight is stored packed"
    found = [read_layers(path) for path in (plain, tmp_path / "packed.onnx")]
    for first, last in found:
        assert (first.operation, first.shape, first.channels, first.bits) == ("Conv", (64, 32, 3, 3), 64, bits)
        assert (last.operation, last.channels, last.bits, last.nonzeros) == ("Gemm", 5, 32, 320)
    assert found[0][0].nonzeros == found[1][0].nonzeros <= 32 * 32 * 9


def test_what_is_no_onnx_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"wrong\.onnx is no ONNX file"):
        read_layers(tmp_path / "wrong.onnx")


def layer(name: str, channels: int, kernel: int) -> Layer:
    return Layer(name, "Conv", (channels, 4, kernel, kernel), channels, 8, 100, 50)


def test_layers_are_matched_with_those_they_came_from() -> None:
    original = (layer("a", 16, 3), layer("shortcut", 16, 1), layer("b", 16, 3))
    made = (layer("layer 1", 8, 3), layer("layer 2", 8, 3), layer("layer 3", 8, 1))
    assert [match_layers(made, original)[at].name for at in range(3)] == ["a", "b", "shortcut"]
    assert match_layers(made[:2], original) == {}
    assert match_layers((*made[:2], layer("layer 3", 32, 1)), original) == {}


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_configuration_says_what_is_removed_and_rounded() -> None:
    candidate = Candidate(
        removed_channels=0.25, zeroed_weights=0.5, zero_pattern="2:4", weight_bits=4, activation_bits=8
    )
    told = dict(configuration(candidate))
    assert told["Channels"].startswith("25% removed")
    assert "in the pattern 2:4" in told["Zeros"]
    assert (told["Weights"], told["Activations"]) == ("rounded to 4 bits", "rounded to 8 bits")
    plain = dict(configuration(Candidate()))
    assert (plain["Channels"], plain["Zeros"], plain["Weights"]) == ("none removed", "none set", "kept in float32")


@pytest.mark.parametrize(
    ("factor", "words"),
    [(7.24, "7.2x smaller than"), (0.5, "2.0x larger than"), (1.0, "as small as"), (1.26, "1.26x smaller than")],
)
def test_factors_are_put_into_words(factor: float, words: str) -> None:
    assert times(factor, "smaller", "larger") == words


def test_the_summary_says_what_the_rows_say(tmp_path: Path) -> None:
    trials = made_up_trials(3)
    trials["on_front"] = True
    trials[["size_bytes", "latency_ms", "accuracy"]] = [[40e3, 0.5, 0.95], [10e3, 1.0, 0.90], [80e3, 0.25, 0.80]]
    front = write_results(tmp_path, trials)
    front["test_accuracy"] = front["accuracy"] - 0.01
    front.to_csv(tmp_path / "front.csv", index=False)
    first, *others = highlights(material_of(tmp_path))
    assert first.role.startswith("Best compromise")
    told = {each.point: each for each in (first, *others)}
    near = told[front.loc[front["size_bytes"] == 40e3, "point"].iloc[0]]
    assert "smallest within 1 point" in near.role.lower()
    assert "most accurate" in near.role.lower()
    # half the width of the difference: both intervals together, of 2 and 1 points
    sentence = (
        "This 40 KB file is 10.0x smaller and 4.0x faster than your model and loses 0.0 ± 2.2 points of accuracy "
        "on test."
    )
    assert near.sentence == sentence


# --- the page ---------------------------------------------------------------------------------------------------------

TEXTS = st.text() | st.sampled_from(["</script><script>alert(1)</script>", "<!--", "\u2028\u2029&amp;"])


@settings(deadline=None, max_examples=40)
@given(plain=st.dictionaries(TEXTS, st.lists(TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False))))
def test_embedded_json_cannot_leave_its_element(plain: dict[str, object]) -> None:
    text = embedded_json(plain)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == plain


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json([float("nan")])


def test_thousands_of_trials_are_thinned_where_they_are_dense() -> None:
    trials = evaluated_rows(made_up_trials(6000))
    columns = cloud_columns(trials, ["bits.weights"], ["" for _ in range(len(trials))])
    drawn = columns["drawn"]
    assert len(set(drawn)) == len(drawn) == MOST_DRAWN
    # the outermost stay
    for name in ("size", "latency", "accuracy"):
        values = np.array(columns[name])
        assert values[drawn].min() == values.min()
        assert values[drawn].max() == values.max()
    coded = columns["parameters"]["bits.weights"]
    assert [coded["values"][place] for place in coded["index"]] == list(trials["bits.weights"])


@pytest.mark.parametrize("name", ["plain", "a b", "$(touch x)", "it's", "--help"])
def test_the_command_is_one_of_the_shell(tmp_path: Path, name: str) -> None:
    command = pick_command(f"runs/{name}", tmp_path / "out put", "postgresql://me:secret@host/db")
    text = shlex.join(command)
    assert shlex.split(text) == command
    assert "secret" not in text
    assert f"runs/{name}" in command


def test_the_command_line_writes_the_page_and_its_pictures(karui_command: Command, tmp_path: Path) -> None:
    write_results(tmp_path / "made-up", made_up_trials(30))
    finished = karui_command("report", "made-up", "--to", "out/page.html")
    assert (finished.code, finished.err) == (0, "")
    assert "wrote out/page.html" in finished.out
    pictures = {path.name for path in (tmp_path / "out" / "page").iterdir()}
    assert pictures == {
        f"{name}.{kind}" for name in ("front", "hypervolume", "axes", "importance") for kind in ("png", "svg")
    }
    assert (tmp_path / "out" / "page" / "front.svg").read_text().startswith("<?xml")


def test_a_study_whose_baseline_is_not_measured_has_no_report(tmp_path: Path) -> None:
    from karui.studies.storage.store import open_study

    open_study(f"sqlite:///{tmp_path / 'study.db'}", "made-up", create=True)
    with pytest.raises(OutputError, match="the baseline was not measured yet"):
        write_report(tmp_path)


@pytest.mark.parametrize("count", [3, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_page_is_one_file_of_less_than_6_mb(tmp_path: Path, count: int) -> None:
    write_results(tmp_path / "made-up", made_up_trials(count))
    page, *_ = write_report(tmp_path / "made-up")
    assert page.stat().st_size < 6_000_000
    text = page.read_text(encoding="utf-8")
    own = text[: text.index('<script type="application/json"')]
    assert "http://" not in own
    assert "https://" not in own


@pytest.mark.parametrize(("unit", "told"), [(100.0, "points of accuracy"), (-1e-3, "of your model's)"), (1e3, "(0.0")])
def test_a_metric_in_any_unit_is_told_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: float, told: str
) -> None:
    def turned(share: Any) -> Any:
        return unit * share if unit > 0 else unit * (1.02 - share)  # an error with its sign turned

    trials = made_up_trials(60)
    front = made_up_front(trials)
    for table, names in ((trials, ["accuracy"]), (front, ["accuracy", "test_accuracy"])):
        for name in names:
            table[name], table[f"{name}_spread"] = turned(table[name]), abs(unit) * table[f"{name}_spread"]
    for name in ("accuracy", "test_accuracy"):
        item = BASELINE[name]
        monkeypatch.setitem(BASELINE, name, replace(item, value=turned(item.value), spread=abs(unit) * item.spread))
    write_results(tmp_path, trials, front)
    content = page_content(material_of(tmp_path), ["karui", "pick", "x"])
    assert told in content.highlights[0].sentence
    assert content.history.volumes[-1] > 0.0
    assert render_page(content)
