"""The bundle: checked with other programs, whole or not at all, and with a configuration as its schema says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import karui
from karui.errors import OutputError, TaskError
from karui.spaces.artifact import file_digest
from karui.spaces.building.task_fit import check_fit
from karui.spaces.space import SearchSpace
from karui.studies.bundle.bundle_export import export_bundle
from karui.studies.bundle.config import BundleConfig, config_schema, read_config
from karui.studies.bundle.model_card import model_card, plain, standing
from karui.studies.bundle.samples import MOST_SAMPLES, read_samples, read_task_paper, write_samples
from karui.studies.bundle.whole_folder import whole_folder
from karui.studies.storage.folder import RunFolder

from .made_results import CLASSES, make_results, write_linear

NAMES = {"model.onnx", "config.json", "config.schema.json", "MODEL_CARD.md", "run.py", "samples", "SHA256SUMS"}
POINTS = [(0.1, 0.4, 0.9), (0.3, 0.3, 0.95)]


def linear_task(**changed: Any) -> karui.Task:
    network = nn.Linear(CLASSES, CLASSES, bias=False)
    data = TensorDataset(torch.arange(4.0 * 40).reshape(40, 4), torch.arange(40) % 4)
    return karui.Task(**{"model": network, "train": data, "validation": data, "test": data, **changed})


def say(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    karui.pick(make_results(tmp_path / "results", POINTS), prefer="size", export=tmp_path / "bundle")
    return tmp_path / "bundle"


# --- what it holds ----------------------------------------------------------------------------------------------------


def test_everything_is_there_and_sha256sum_agrees(bundle: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == NAMES
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], check=True, cwd=bundle, capture_output=True, text=True)
    named = {line.partition(":")[0] for line in checked.stdout.splitlines()}
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert named == held - {"SHA256SUMS"}


def test_exporting_takes_no_torch(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    code = (
        "import sys, karui\n"
        f"karui.pick({str(results)!r}, export={str(tmp_path / 'bundle')!r})\n"
        "print('torch' in sys.modules, 'onnxruntime' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False False\n"
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == NAMES


def test_the_program_says_what_the_file_answers(bundle: Path) -> None:
    finished = say(bundle)
    assert (finished.returncode, finished.stderr) == (0, "")
    lines = finished.stdout.splitlines()
    # the file answers with its inputs, one of each class
    assert [line.split()[1] for line in lines[:4]] == ["ant", "bee", "cat", "dog"]
    assert "(target cat)" in lines[2]
    assert "outputs are as expected: they differ by 0.00e+00" in lines[4]
    np.save(bundle.parent / "mine.npy", np.array([[0.0, 3.0, 1.0, 2.0]]))
    finished = say(bundle, bundle.parent / "mine.npy")
    assert (finished.returncode, finished.stdout.strip()) == (0, "0  bee (3), dog (2), cat (1)")


def test_the_program_tells_other_outputs_and_bad_inputs(bundle: Path) -> None:
    np.save(bundle.parent / "flat.npy", np.zeros((2, 3)))
    finished = say(bundle, bundle.parent / "flat.npy")
    assert finished.returncode == 2
    assert "error: inputs of shape (n, 4) expected, got (2, 3)" in finished.stderr
    (bundle.parent / "cut.npz").write_bytes((bundle / "samples" / "samples.npz").read_bytes()[:100])
    finished = say(bundle, bundle.parent / "cut.npz")
    assert (finished.returncode, "cannot be read" in finished.stderr) == (2, True)
    write_linear(bundle / "model.onnx", scale=1.1)
    finished = say(bundle)
    assert finished.returncode == 1
    # the expected outputs are 1 at most, and these are 1.1
    assert "outputs are NOT as expected: they differ by 1.00e-01 of the largest, 0.001 is allowed" in finished.stdout


def test_the_card_shows_measurements_with_conditions_and_leaves_the_use_open(bundle: Path) -> None:
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| size | 10,000 bytes (10.0x smaller) | 100,000 bytes |" in card
    assert "| latency | 0.8000 ± 0.0080 ms | 2.0000 ms |" in card
    assert "| latency, share of the float32 model's | 0.4000 ± 0.0040 (2.50x faster) | 1 |" in card
    assert "| accuracy, test split of 400 | 0.9000 ± 0.0100 | 0.9600 ± 0.0200 |" in card
    assert "on P, 2 thread(s), CPUExecutionProvider, onnxruntime 1.0" in card
    assert "For you to fill in" in card
    assert "- mean: 0.5" in card
    assert "0 ant, 1 bee, 2 cat, 3 dog" in card
    assert file_digest(bundle / "model.onnx") in card


def test_the_card_tells_another_runtime_and_a_device_that_tells_little(tmp_path: Path) -> None:
    device = {"target": "board", "runtime": "openvino", "openvino": "2026.4"}
    karui.pick(make_results(tmp_path / "results", POINTS, device=device), export=tmp_path / "bundle")
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "on a device that does not tell, 1 thread(s), its own provider, openvino 2026.4, 1 input(s)" in card


def test_texts_of_the_user_are_shown_and_do_nothing() -> None:
    hostile = "<img src=x onerror=alert(1)> | [a](javascript:b) `c`\n# head & *bold*"
    shown = plain(hostile)
    assert "<" not in shown
    assert "\n" not in shown
    # Whoever takes the escapes back has the text, in one line.
    taken_back = shown.replace("\\", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert taken_back == " ".join(hostile.split())


# --- its configuration ------------------------------------------------------------------------------------------------


def violations(value: Any, schema: Any, root: Any, path: str = "$") -> list[str]:
    """Check a value against a JSON schema, by the keywords that occur in ours; an unknown keyword is an error."""
    silent = {"title", "description", "$defs", "$schema", "default"}
    found: list[str] = []
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    of_objects = {"required", "properties", "additionalProperties"}
    for keyword, wanted in schema.items():
        if keyword in silent or (keyword in of_objects and not isinstance(value, dict)):
            continue
        if keyword == "$ref":
            found += violations(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, path)
        elif keyword == "anyOf":
            found += [] if any(not violations(value, option, root, path) for option in wanted) else [f"{path}: none of"]
        elif keyword == "type":
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            fits = number if wanted == "number" else number and value == int(value) if wanted == "integer" else None
            found += [] if (isinstance(value, types[wanted]) if fits is None else fits) else [f"{path}: no {wanted}"]
        elif keyword == "required":
            found += [f"{path}: no {name}" for name in wanted if name not in value]
        elif keyword == "properties":
            for name in set(wanted) & set(value):
                found += violations(value[name], wanted[name], root, f"{path}.{name}")
        elif keyword == "additionalProperties":
            if wanted is False:
                found += [f"{path}.{name}: unknown" for name in set(value) - set(schema["properties"])]
            elif wanted is not True:
                for name in set(value) - set(schema.get("properties", {})):
                    found += violations(value[name], wanted, root, f"{path}.{name}")
        elif keyword == "items":
            for index, item in enumerate(value if isinstance(value, list) else []):
                found += violations(item, wanted, root, f"{path}[{index}]")
        elif keyword in ("const", "enum"):
            found += [] if value in (wanted if keyword == "enum" else [wanted]) else [f"{path}: not {wanted}"]
        elif keyword == "pattern":
            found += [] if len(value) == 64 and set(value) <= set("0123456789abcdef") else [f"{path}: no digest"]
        elif keyword == "minimum":
            found += [] if value >= wanted else [f"{path}: below {wanted}"]
        elif keyword == "exclusiveMinimum":
            found += [] if value > wanted else [f"{path}: not above {wanted}"]
        else:
            raise AssertionError(f"keyword {keyword} is not known to this test")
    return found


def test_the_configuration_is_as_its_schema_says(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    schema = json.loads((bundle / config["$schema"]).read_text(encoding="utf-8"))
    assert violations(config, schema, schema) == []
    assert config["samples"] == {"file": "samples/samples.npz", "count": 4, "tolerance": 0.001}
    assert config["task"]["labels"] == ["ant", "bee", "cat", "dog"]
    assert config["sha256"] == file_digest(bundle / "model.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", "no digest"),
        ("trial", -1),
        ("samples", {"file": "samples/samples.npz", "count": 0, "tolerance": 0.1}),
        ("measurements", {"size_bytes": {"value": "large"}}),
        ("task", {"labels": "ant"}),
        ("format", 1),
    ],
)
def test_schema_and_model_refuse_the_same(bundle: Path, key: str, value: object) -> None:
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    schema = config_schema()
    changed = {**config, key: value}
    assert any(fault.startswith(f"$.{key}") for fault in violations(changed, schema, schema))
    with pytest.raises(OutputError, match=rf"not as its schema says(?s:.*)where: here: {key}"):
        read_config(json.dumps(changed), "here")
    assert isinstance(read_config(json.dumps(config), "here"), BundleConfig)


def test_a_front_of_an_earlier_version_is_exported_without_samples(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS, deploy=False)
    karui.pick(results, export=tmp_path / "bundle")
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == NAMES - {"samples"}
    config = json.loads((tmp_path / "bundle" / "config.json").read_text(encoding="utf-8"))
    assert (config["task"], config["samples"]) == (None, None)
    assert violations(config, config_schema(), config_schema()) == []
    assert say(tmp_path / "bundle").returncode == 2


def test_what_is_damaged_in_the_results_is_told_and_nothing_is_exported(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    for path in (*(results / "deploy").glob("*.npz"), results / "deploy" / "task.json"):
        content = path.read_bytes()
        path.write_bytes(content[:40])
        with pytest.raises(
            OutputError, match=rf"certification left for bundles cannot be read(?s:.*){path.parent.name}"
        ):
            [karui.pick(results, point=point, export=tmp_path / "bundle") for point in ("p01", "p02")]
        path.write_bytes(content)
        shutil.rmtree(tmp_path / "bundle", ignore_errors=True)
    karui.pick(results, export=tmp_path / "bundle")


@pytest.mark.parametrize(
    ("point", "word"),
    [
        ({"mark": "holds", "holds": True}, ""),
        ({"mark": "within noise", "holds": False}, "cannot be told whether another point"),
        ({"mark": "fell off", "holds": False}, "fell off when the front was measured again"),
        ({"holds": True}, ""),
        ({"holds": False}, "fell off when the front was measured again"),
    ],
)
def test_what_a_point_is_worth_is_said_by_its_mark(bundle: Path, point: dict[str, Any], word: str) -> None:
    told = standing(point)
    assert (word in told) if word else told == ""
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    assert told in model_card({**config, **point})


# --- whole or not at all ----------------------------------------------------------------------------------------------


def export(results: Path, destination: Path) -> None:
    export_bundle(karui.load_front(results).iloc[1], RunFolder(results), destination)


def test_an_earlier_bundle_is_replaced_whole(bundle: Path, tmp_path: Path) -> None:
    before = file_digest(bundle / "model.onnx")
    (bundle / "samples" / "left.npz").touch()
    export(tmp_path / "results", bundle)
    assert file_digest(bundle / "model.onnx") != before
    assert {path.name for path in (bundle / "samples").iterdir()} == {"samples.npz"}
    assert {path.name for path in tmp_path.iterdir()} == {"results", "bundle"}, "nothing is left beside it"


@pytest.mark.parametrize(
    ("held", "told"), [({"notes.txt"}, "notes.txt"), ({"model.onnx"}, "model.onnx"), (NAMES | {"mine.py"}, "mine.py")]
)
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, held: set[str], told: str) -> None:
    results = make_results(tmp_path / "results", POINTS)
    (tmp_path / "device").mkdir()
    for name in held:
        (tmp_path / "device" / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"something else than a bundle(?s:.*)got: {told}(?s:.*)another --export"):
        export(results, tmp_path / "device")
    assert {path.name for path in (tmp_path / "device").iterdir()} == held
    assert {path.read_text() for path in (tmp_path / "device").iterdir()} == {"mine"}


def test_the_folder_that_one_stands_in_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = make_results(tmp_path / "results", POINTS)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match=r"current folder(?s:.*)name a folder within it"):
        export(results, Path())
    export(results, Path("within"))
    assert {path.name for path in (tmp_path / "here" / "within").iterdir()} == NAMES


def test_an_export_that_fails_leaves_what_was_there(bundle: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    def fail() -> None:
        with whole_folder(bundle) as made:
            (made / "model.onnx").touch()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"results", "bundle"}


def test_a_killed_export_leaves_no_half_bundle(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    code = (
        "import os, signal, karui\n"
        "from karui.studies.bundle import bundle_export\n"
        "bundle_export.write_sums = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"karui.pick({str(results)!r}, export={str(tmp_path / 'bundle')!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    export(results, tmp_path / "bundle")
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == NAMES


# --- what certification leaves ----------------------------------------------------------------------------------------


def test_certification_leaves_inputs_of_the_test_split_and_what_the_file_answers(tmp_path: Path) -> None:
    folder, file = RunFolder(tmp_path), tmp_path / "front" / "p01-aa.onnx"
    write_linear(file, scale=3.0)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "p02-gone.npz").touch()
    task = linear_task(labels=["a", "b", "c", "d"], preprocessing="as it is", metric_name="hits")
    write_samples(task, [file], folder)
    arrays = read_samples(folder, file, file_digest(file))
    assert arrays is not None
    rows = arrays["inputs"][:, 0].astype(int) // 4
    parts = np.arange(MOST_SAMPLES + 1) * 40 // MOST_SAMPLES
    assert ((parts[:-1] <= rows) & (rows < parts[1:])).all()
    np.testing.assert_array_equal(arrays["inputs"], np.arange(160.0, dtype=np.float32).reshape(40, 4)[rows])
    np.testing.assert_allclose(arrays["outputs"], 3 * arrays["inputs"])
    assert arrays["targets"].tolist() == (rows % 4).tolist()
    paper = read_task_paper(folder)
    assert paper is not None
    assert (paper.metric, paper.top1, paper.input_shape) == ("hits", True, (4,))
    assert paper.input_type == "float32"
    assert (paper.preprocessing, paper.labels) == ("as it is", ("a", "b", "c", "d"))
    assert {path.name for path in (tmp_path / "deploy").iterdir()} == {"task.json", "p01-aa.npz"}
    assert read_samples(folder, file, "0" * 64) is None, "of another file"
    shutil.rmtree(tmp_path / "deploy")
    assert (read_samples(folder, file, file_digest(file)), read_task_paper(folder)) == (None, None)


def test_large_inputs_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "front" / "p01-aa.onnx"
    write_linear(file)
    for most_bytes, count in ((16 * 5, 5), (1, 1)):  # an input has 16 bytes
        monkeypatch.setattr("karui.studies.bundle.samples.MOST_BYTES", most_bytes)
        write_samples(linear_task(metric=lambda outputs, targets: 1.0), [file], RunFolder(tmp_path))
        arrays = read_samples(RunFolder(tmp_path), file, file_digest(file))
        assert arrays is not None
        assert len(arrays["inputs"]) == len(arrays["outputs"]) == count
    paper = read_task_paper(RunFolder(tmp_path))
    assert paper is not None
    assert not paper.top1


# --- what a task says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": "abcd"}, r"labels are no names(?s:.*)got: 'abcd'"),
        ({"labels": [1, 2]}, r"labels are no names"),
        ({"preprocessing": 3}, r"preprocessing cannot be written down(?s:.*)int"),
        ({"preprocessing": {"mean": torch.zeros(1)}}, r"preprocessing cannot be written down(?s:.*)Tensor"),
        ({"preprocessing": {"mean": float("nan")}}, r"preprocessing cannot be written down(?s:.*)not JSON compliant"),
    ],
)
def test_papers_that_cannot_be_handed_on_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        linear_task(**changed)


def test_labels_that_do_not_fit_the_model_are_told_before_the_search() -> None:
    task = linear_task(labels=["a", "b", "c"])
    with pytest.raises(TaskError, match=r"labels do not fit its model(?s:.*)\(4,\)(?s:.*)3 names"):
        check_fit(SearchSpace(), task)
    check_fit(SearchSpace(), replace(task, labels=["a", "b", "c", "d"]))


# --- what a front.csv, a link or a location may try -------------------------------------------------------------------


def _rewrite(results: Path, column: str, value: str | None) -> None:
    front = pd.read_csv(results / "front.csv", dtype=str)
    front[column] = value
    front.to_csv(results / "front.csv", index=False)


@pytest.mark.parametrize(
    "file",
    [
        *("../x", "../x.onnx", "front/../../x.onnx", "/tmp/x.onnx", "x.onnx", "front/a/b.onnx", "front/x.sh", "front"),
        *(".", "front/..", "~/x.onnx", "front/a\n.onnx", "file:///x.onnx", "front\\x.onnx", "other/x.onnx"),
    ],
)
def test_a_front_writes_and_reads_nowhere_but_in_its_own_folder(tmp_path: Path, file: str) -> None:
    results = make_results(tmp_path / "a" / "results", POINTS)
    digest = file_digest(next((results / "front").glob("*.onnx")))
    (tmp_path / "shared").mkdir()
    write_linear(tmp_path / "shared" / digest)
    digest = file_digest(tmp_path / "shared" / digest)
    (tmp_path / "shared").joinpath(digest).write_bytes(next((tmp_path / "shared").iterdir()).read_bytes())
    _rewrite(results, "file", file)
    _rewrite(results, "sha256", digest)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"none of this results folder(?s:.*)front\.csv: file, point p01"):
        karui.pick(results, prefer="size", export=tmp_path / "bundle", artifacts=tmp_path / "shared")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_front_folder_that_leads_elsewhere_is_left_alone(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    (results / "front").rename(tmp_path / "outside")
    (results / "front").symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="none of this results folder"):
        karui.pick(results, prefer="size", export=tmp_path / "bundle")


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "ab" * 31, "AB" * 32, "/etc/passwd"])
def test_what_is_no_digest_is_looked_for_nowhere(tmp_path: Path, digest: str) -> None:
    results = make_results(tmp_path / "results", POINTS)
    for path in (results / "front").glob("*.onnx"):
        path.unlink()
    _rewrite(results, "sha256", digest or None)
    with pytest.raises(OutputError, match=r"no digest of that point's file(?s:.*)64 hexadecimal digits"):
        karui.pick(results, prefer="size", export=tmp_path / "bundle", artifacts=tmp_path)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_link_to_export_to_stays_a_link(tmp_path: Path, is_there: bool) -> None:
    results = make_results(tmp_path / "results", POINTS)
    if is_there:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for prefer in ("size", "accuracy"):  # an earlier bundle is replaced there as well
        karui.pick(results, prefer=prefer, export=tmp_path / "link")
        assert (tmp_path / "link").readlink() == tmp_path / "real"
        assert {path.name for path in (tmp_path / "real").iterdir()} == NAMES
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real", "results"]


def test_links_that_lead_to_each_other_or_to_something_else_are_told(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", POINTS)
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(OutputError, match=r"folder to export to cannot be written(?s:.*)symbolic links"):
        karui.pick(results, prefer="size", export=tmp_path / "one")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(OutputError, match="holds something else than a bundle"):
        karui.pick(results, prefer="size", export=tmp_path / "link")
    assert (tmp_path / "home" / "mine.txt").exists()
