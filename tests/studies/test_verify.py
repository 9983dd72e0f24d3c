"""Verifying a bundle: each way in which it can be wrong is told in its own words, and nothing wrong is believed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

import karui
from karui.errors import KaruiError
from karui.evaluators.targets.target import TARGETS
from karui.evaluators.timing.alternating import PairTiming
from karui.spaces.artifact import file_digest
from karui.studies.bundle.accuracy_check import wilson_interval
from karui.studies.bundle.check import VerifyOptions
from karui.studies.bundle.sums import write_sums
from karui.studies.bundle.verify import Verification, verify_bundle

from .conftest import Command
from .made_results import CLASSES, DEVICE, make_results, write_linear

NO_LATENCY = VerifyOptions(target=None)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no search of this machine."""
    monkeypatch.setattr("karui.evaluators.timing.machine_lock.shared_folder", lambda: tmp_path / "locks")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    results = make_results(tmp_path / "results", [(0.1, 0.4, 0.9)])
    karui.pick(results, export=tmp_path / "bundle")
    return tmp_path / "bundle"


def verdicts(found: Verification) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def text_of(found: Verification, name: str) -> str:
    return "\n".join(check.text for check in found.checks if check.name == name)


def change_config(bundle: Path, **changed: Any) -> None:
    """Change the configuration as somebody would who writes the sums anew."""
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    (bundle / "config.json").write_text(json.dumps({**config, **changed}), encoding="utf-8")
    write_sums(bundle)


# --- sums -------------------------------------------------------------------------------------------------------------


def test_what_was_exported_is_kept(bundle: Path) -> None:
    found = verify_bundle(bundle, NO_LATENCY)
    assert found.verdict == "kept"
    assert verdicts(found) == {"sums": "kept", "configuration": "kept", "file": "kept", "parity": "kept"}
    assert "outputs to 4 samples differ from the expected ones by 0 of the largest" in text_of(found, "parity")


def drop_line(bundle: Path, name: str) -> None:
    lines = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupted model": (
        lambda bundle: append(bundle / "model.onnx", b"\0"),
        r"^model\.onnx is not the file that was exported: sha256 [0-9a-f]{64} instead of [0-9a-f]{64}$",
    ),
    "corrupted card": (
        lambda bundle: append(bundle / "MODEL_CARD.md", b"perfect!"),
        r"^MODEL_CARD\.md is not the file that was exported",
    ),
    "truncated samples": (
        lambda bundle: (bundle / "samples/samples.npz").write_bytes(b"PK"),
        r"^samples/samples\.npz is not the file that was exported",
    ),
    "missing file": (lambda bundle: (bundle / "run.py").unlink(), r"^run\.py is missing$"),
    "missing model": (lambda bundle: (bundle / "model.onnx").unlink(), r"^model\.onnx is missing$"),
    "extra file": (
        lambda bundle: (bundle / "samples/more.py").touch(),
        r"^samples/more\.py is no part of the bundle: it has no sum in SHA256SUMS$",
    ),
    "missing sum": (
        lambda bundle: drop_line(bundle, "model.onnx"),
        r"^the sum of model\.onnx is missing from SHA256SUMS, so nothing tells whether it was changed$",
    ),
    "missing sums": (
        lambda bundle: (bundle / "SHA256SUMS").unlink(),
        r"^SHA256SUMS is missing, so nothing tells whether the files are those that were exported$",
    ),
    "no sum": (
        lambda bundle: append(bundle / "SHA256SUMS", b"nonsense\n"),
        r"^line 7 of SHA256SUMS is no sum of a file of the bundle: 'nonsense'$",
    ),
    "outside": (
        lambda bundle: append(bundle / "SHA256SUMS", b"0" * 64 + b"  ../results/front.csv\n"),
        r"^line 7 of SHA256SUMS is no sum of a file of the bundle",
    ),
    "binary sums": (lambda bundle: (bundle / "SHA256SUMS").write_bytes(b"\xff\xfe"), r"^SHA256SUMS is no text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_files_has_its_own_words(bundle: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change(bundle)
    found = verify_bundle(bundle, NO_LATENCY)
    assert found.verdict == "missed"
    texts = [check.text for check in found.checks if check.name == "sums"]
    assert len(texts) == 1
    assert re.search(message, texts[0]), texts


def test_what_has_no_right_sum_is_neither_opened_nor_believed(bundle: Path) -> None:
    append(bundle / "model.onnx", b"\0")
    found = verify_bundle(bundle, NO_LATENCY)
    assert text_of(found, "file") == "model.onnx was not opened: its sum is wrong or missing"
    assert "parity" not in verdicts(found)
    (bundle / "SHA256SUMS").unlink()
    assert verdicts(verify_bundle(bundle, NO_LATENCY)) == {"sums": "missed", "configuration": "missed"}


# --- configuration and file -------------------------------------------------------------------------------------------


def test_another_file_with_sums_written_anew_is_told_by_the_configuration(bundle: Path) -> None:
    write_linear(bundle / "model.onnx", scale=2.0)
    write_sums(bundle)
    found = verify_bundle(bundle, NO_LATENCY)
    assert verdicts(found) == {"sums": "kept", "configuration": "kept", "file": "missed"}
    assert "not the file that was measured" in text_of(found, "file")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"opset": 99}, f"opset 99, and onnxruntime {onnxruntime.__version__} knows them up to opset "),
        ({"ir_version": 99}, f"ONNX's format 99, and onnxruntime {onnxruntime.__version__} knows formats up to "),
    ],
)
def test_a_file_newer_than_the_runtime_is_told(bundle: Path, changed: dict[str, int], word: str) -> None:
    write_linear(bundle / "model.onnx", **changed)
    change_config(bundle, sha256=file_digest(bundle / "model.onnx"))
    found = verify_bundle(bundle, NO_LATENCY)
    assert verdicts(found)["file"] == "missed"
    assert word in text_of(found, "file")
    assert "a newer onnxruntime is needed" in text_of(found, "file")


def test_a_file_that_is_no_model_is_told(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no model" * 50)
    change_config(bundle, sha256=file_digest(bundle / "model.onnx"))
    assert "cannot open the file" in text_of(verify_bundle(bundle, NO_LATENCY), "file")


@pytest.mark.parametrize(
    ("content", "word"), [(b"{", "config.json is no JSON"), (b"{}", "not as its schema says"), (b"\xff", "is no text")]
)
def test_a_broken_configuration_is_told(bundle: Path, content: bytes, word: str) -> None:
    (bundle / "config.json").write_bytes(content)
    write_sums(bundle)
    found = verify_bundle(bundle, NO_LATENCY)
    assert verdicts(found) == {"sums": "kept", "configuration": "missed"}
    assert word in text_of(found, "configuration")


# --- parity -----------------------------------------------------------------------------------------------------------


def expect(bundle: Path, outputs: np.ndarray) -> None:
    np.savez(bundle / "samples" / "samples.npz", inputs=np.eye(CLASSES, dtype=np.float32), outputs=outputs)
    write_sums(bundle)


@pytest.mark.parametrize(("tolerance", "verdict"), [(None, "missed"), (0.04, "missed"), (0.06, "kept")])
def test_outputs_may_differ_by_the_tolerance(bundle: Path, tolerance: float | None, verdict: str) -> None:
    expect(bundle, np.eye(CLASSES) / 0.95)  # the file answers 1: 5 % less than the largest
    found = verify_bundle(bundle, VerifyOptions(target=None, tolerance=tolerance))
    assert verdicts(found)["parity"] == verdict
    assert "differ from the expected ones by 0.05 of the largest" in text_of(found, "parity")


def test_outputs_that_cannot_be_compared_are_missed(bundle: Path) -> None:
    expect(bundle, np.eye(CLASSES)[:, :3])
    assert "outputs of shape (4, 4) to the samples, (4, 3)" in text_of(verify_bundle(bundle, NO_LATENCY), "parity")
    write_linear(bundle / "model.onnx", scale=math.nan)
    change_config(bundle, sha256=file_digest(bundle / "model.onnx"))
    expect(bundle, np.eye(CLASSES))
    assert "NaN or infinity" in text_of(verify_bundle(bundle, NO_LATENCY), "parity")
    (bundle / "samples" / "samples.npz").write_bytes((bundle / "samples" / "samples.npz").read_bytes()[:200])
    write_sums(bundle)
    found = verify_bundle(bundle, NO_LATENCY)
    assert verdicts(found)["parity"] == "missed"
    assert "the samples cannot be read: it is damaged, cut short" in text_of(found, "parity")


def test_a_bundle_without_samples_says_so(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", [(0.1, 0.4, 0.9)], deploy=False)
    karui.pick(results, export=tmp_path / "bundle")
    found = verify_bundle(tmp_path / "bundle")
    assert (found.verdict, verdicts(found)["parity"], verdicts(found)["latency"]) == ("kept", *2 * ("not checked",))


# --- accuracy ---------------------------------------------------------------------------------------------------------


def write_data(path: Path, rows: int, right: int) -> Path:
    """Write inputs of which the file gets so many right: it answers with its inputs."""
    targets = np.arange(rows) % CLASSES
    answered = np.where(np.arange(rows) < right, targets, (targets + 1) % CLASSES)
    np.savez(path, inputs=np.eye(CLASSES)[answered], targets=targets)
    return path


@pytest.mark.parametrize(("right", "verdict"), [(900, "kept"), (890, "kept"), (1000, "kept"), (860, "missed")])
def test_accuracy_may_be_lower_by_chance_only(bundle: Path, tmp_path: Path, right: int, verdict: str) -> None:
    # 0.9 ± 0.01 is said; on 1,000 rows some 0.02 more is chance
    found = verify_bundle(bundle, VerifyOptions(write_data(tmp_path / "data.npz", 1000, right), target=None))
    assert verdicts(found)["accuracy"] == verdict
    assert text_of(found, "accuracy").startswith(f"{right / 1000:.4f} on 1,000 rows")


@given(rows=st.integers(1, 400), data=st.data())
def test_the_wilson_interval_holds_the_shares_that_a_score_test_keeps(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    low, high = wilson_interval(right, rows)
    assert 0 <= low <= right / rows <= high <= 1
    z = 1.959963984540054
    for bound in (low, high):  # at each end the share is just z standard errors away
        if 1e-9 < bound < 1 - 1e-9:
            assert (right / rows - bound) ** 2 * rows == pytest.approx(z * z * bound * (1 - bound), rel=1e-6)


def test_a_metric_of_the_tasks_own_is_not_comparable(bundle: Path, tmp_path: Path) -> None:
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    change_config(bundle, task={**config["task"], "top1": False, "metric": "F1"})
    found = verify_bundle(bundle, VerifyOptions(write_data(tmp_path / "data.npz", 8, 0), target=None))
    assert (found.verdict, verdicts(found)["accuracy"]) == ("kept", "not comparable")
    assert "'F1'" in text_of(found, "accuracy")


EYE = np.eye(CLASSES)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": EYE}, "no array targets; it has inputs"),
        ({"inputs": EYE, "targets": np.zeros(3, int)}, "4 inputs, 3 targets"),
        ({"inputs": EYE[:0], "targets": np.zeros(0, int)}, "0 inputs, 0 targets"),
        (
            {"inputs": EYE[:, :2], "targets": np.zeros(4, int)},
            r"not inputs of this model(?s:.*)\(n, 4\)(?s:.*)\(4, 2\)",
        ),
        ({"inputs": EYE, "targets": np.zeros(4)}, "no class indices as targets(?s:.*)float64"),
        ({"inputs": EYE, "targets": np.array([None] * 4)}, "damaged, cut short, or no .npz(?s:.*)pickle"),
    ],
)
def test_data_that_cannot_be_used_are_told(
    bundle: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(KaruiError, match=message):
        verify_bundle(bundle, VerifyOptions(tmp_path / "data.npz", target=None))


def test_data_that_are_missing_or_cut_short_are_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(KaruiError, match="there is no such file"):
        verify_bundle(bundle, VerifyOptions(tmp_path / "data.npz"))
    path = write_data(tmp_path / "data.npz", 100, 90)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(KaruiError, match=r"--data(?s:.*)damaged, cut short, or no .npz"):
        verify_bundle(bundle, VerifyOptions(path))
    np.save(tmp_path / "one.npy", EYE)
    with pytest.raises(KaruiError, match="it is one array"):
        verify_bundle(bundle, VerifyOptions(tmp_path / "one.npy"))


# --- latency ----------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A target whose answers are given."""

    candidate_ms: float
    ratio: float
    processor: str = "P"
    threads: int = 0
    provider: str = ""
    version: str = "1.0"

    def __call__(self, threads: int, provider: str) -> Clock:
        return Clock(self.candidate_ms, self.ratio, self.processor, threads, provider, self.version)

    def time_pair(self, reference: Path, candidate: Path, inputs: np.ndarray, settings: object) -> PairTiming:
        assert inputs.shape == (1, CLASSES)
        return PairTiming(self.candidate_ms, 0.008, self.candidate_ms, 1.0, self.ratio, 0.004, 20, (1, 1))

    def conditions(self) -> dict[str, Any]:
        return {**DEVICE, "processor": self.processor, "threads": self.threads, "provider": self.provider} | {
            "onnxruntime": self.version
        }


# 0.4 of the reference is said, ± 0.004, and 0.8 ms, ± 0.008
@pytest.mark.parametrize(
    ("milliseconds", "tolerance", "verdict"),
    [
        (0.8, None, "kept"),
        (1.22, None, "kept"),
        (1.23, None, "missed"),
        (0.9, 0.1, "missed"),
        (0.83, 0.0, "missed"),
        (0.4, None, "kept"),
    ],
)
def test_milliseconds_may_be_higher_by_a_wide_tolerance(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: float, tolerance: float | None, verdict: str
) -> None:
    monkeypatch.setitem(TARGETS.all, "clock", Clock(milliseconds, 1.0))
    found = verify_bundle(bundle, VerifyOptions(target="clock", latency_tolerance=tolerance))
    # 1.22 - 0.008 <= (0.8 + 0.008) x 1.5 = 1.212 < 1.23 - 0.008
    assert verdicts(found)["latency"] == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(0.46, "kept"), (0.47, "missed")])
def test_with_the_reference_the_ratio_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, verdict: str
) -> None:
    write_linear(tmp_path / "baseline.onnx", 9.0)
    digest = file_digest(tmp_path / "baseline.onnx")
    karui.pick(make_results(tmp_path / "r", [(0.1, 0.4, 0.9)], baseline_digest=digest), export=tmp_path / "bundle")
    monkeypatch.setitem(TARGETS.all, "clock", Clock(99.0, ratio))
    options = VerifyOptions(target="clock", reference=tmp_path / "baseline.onnx")
    # 0.46 - 0.004 <= (0.4 + 0.004) x 1.15 = 0.4646 < 0.47 - 0.004
    found = verify_bundle(tmp_path / "bundle", options)
    assert verdicts(found)["latency"] == verdict
    assert f"{ratio:g} ± 0.004 of the reference's, 0.4 ± 0.004 was measured" in text_of(found, "latency")


def test_another_reference_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(KaruiError, match=r"not the file against which(?s:.*)no such file"):
        verify_bundle(bundle, VerifyOptions(reference=tmp_path / "baseline.onnx"))
    with pytest.raises(KaruiError, match=r"not the file against which(?s:.*)sha256 baba"):
        verify_bundle(bundle, VerifyOptions(reference=bundle / "model.onnx"))


def test_another_kind_of_device_is_measured_and_not_compared(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS.all, "clock", Clock(50.0, 1.0, processor="slow one"))
    found = verify_bundle(bundle, VerifyOptions(target="clock"))
    assert (found.verdict, verdicts(found)["latency"]) == ("kept", "not comparable")
    assert "50 ± 0.008 ms" in text_of(found, "latency")
    assert "processor 'slow one' instead of 'P'" in text_of(found, "latency")


def test_milliseconds_in_the_measure_of_another_target_are_not_compared(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS.all, "clock", Clock(0.8, 1.0))
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    config["measurements"]["latency_ms"]["conditions"]["milliseconds_of"] = "pi4"
    change_config(bundle, measurements=config["measurements"])
    found = verify_bundle(bundle, VerifyOptions(target="clock"))
    assert verdicts(found)["latency"] == "not comparable"
    assert "in the measure of pi4" in text_of(found, "latency")


def test_another_version_of_the_runtime_is_compared_and_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS.all, "clock", Clock(0.8, 1.0, version="2.0"))
    found = verify_bundle(bundle, VerifyOptions(target="clock"))
    assert verdicts(found)["latency"] == "kept"
    assert "0.8 ± 0.008 ms with onnxruntime 2.0 instead of 1.0, 0.8 ± 0.008 was measured" in text_of(found, "latency")


def test_this_machine_is_measured(bundle: Path) -> None:
    found = verify_bundle(bundle)  # its processor is no "P"
    assert verdicts(found)["latency"] == "not comparable"
    (latency,) = [check for check in found.checks if check.name == "latency"]
    assert latency.numbers["found"] > 0


def test_a_provider_that_is_not_here_and_an_unknown_target_are_told(tmp_path: Path, bundle: Path) -> None:
    device = {**DEVICE, "provider": "MoonExecutionProvider"}
    karui.pick(make_results(tmp_path / "r", [(0.1, 0.4, 0.9)], device=device), export=tmp_path / "other")
    found = verify_bundle(tmp_path / "other")
    assert text_of(found, "latency") == "onnxruntime has no MoonExecutionProvider here, by which it was measured"
    with pytest.raises(KaruiError, match=r"no such target(?s:.*)local(?s:.*)moon"):
        verify_bundle(bundle, VerifyOptions(target="moon"))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_says_by_its_exit_code(bundle: Path, karui_command: Command, tmp_path: Path) -> None:
    finished = karui_command("verify", bundle)
    assert (finished.code, finished.err) == (0, "")
    assert [line.split()[0] for line in finished.out.splitlines()[:5]] == [
        *("sums", "configuration", "file", "parity", "latency")
    ]
    assert finished.out.splitlines()[5] == f"{bundle}: kept"
    finished = karui_command("verify", bundle, "--target", "none", "--json")
    plain = json.loads(finished.out)
    assert (finished.code, plain["verdict"]) == (0, "kept")
    assert [check["name"] for check in plain["checks"]] == ["sums", "configuration", "file", "parity"]
    (bundle / "run.py").unlink()
    finished = karui_command("verify", bundle, "--target", "none", "--json")
    assert (finished.code, json.loads(finished.out)["verdict"]) == (1, "missed")
    finished = karui_command("verify", bundle, "--data", tmp_path / "absent.npz")
    assert (finished.code, finished.err.startswith("error: the data cannot be used")) == (2, True)


@pytest.mark.parametrize(("place", "got"), [("absent", "no such folder"), ("file", "a file"), ("empty", "without any")])
def test_what_is_no_bundle_is_told(karui_command: Command, tmp_path: Path, place: str, got: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    finished = karui_command("verify", tmp_path / place)
    assert finished.code == 2
    assert finished.err.startswith("error: there is no bundle")
    assert got in finished.err


def test_verifying_takes_no_torch(bundle: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from karui.studies.bundle.verify import VerifyOptions, verify_bundle\n"
        f"print(verify_bundle(Path({str(bundle)!r}), VerifyOptions(target=None)).verdict, 'torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "kept False\n"
