"""What was measured is kept on disk: found again under the same conditions only, and never half."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from karui.evaluators.measurement import Measurement
from karui.evaluators.targets import local
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing.pinning import allowed_cores
from karui.search.outcome import Outcome
from karui.spaces.artifact import StageRecord
from karui.studies.measuring.kept_outcomes import KeptOutcomes
from karui.tests.evaluators.fake_machine import account, write_files

CONDITIONS = {"baseline": "ab", "ms": 3.5, "study": {"bits": {"weights": [4, 32]}}}
TARGET = {"threads": 1, "onnxruntime": "1.32.0"}
OUTCOME = Outcome(
    {"latency_ms": Measurement("latency_ms", 2.5, "ms", 0.1, 20, {"threads": 1, "onnxruntime": "1.32.0"})},
    digest="cd" * 32,
    stages=(StageRecord("recovery", 1.5, cached=False), StageRecord("latency", 0.25, cached=True)),
)


def test_what_was_kept_is_found_by_another_process(tmp_path: Path) -> None:
    assert KeptOutcomes(tmp_path, CONDITIONS, TARGET).get(OUTCOME.digest) is None
    KeptOutcomes(tmp_path, CONDITIONS, TARGET).keep(OUTCOME)
    found = KeptOutcomes(tmp_path, dict(reversed(CONDITIONS.items())), dict(reversed(TARGET.items())))
    assert found.get(OUTCOME.digest) == OUTCOME
    assert found.get("00") is None


@pytest.mark.parametrize("changed", [{"baseline": "ef"}, {"ms": 3.6}, {"study": {"bits": {"weights": [4]}}}])
def test_what_was_measured_under_other_conditions_is_not(tmp_path: Path, changed: dict[str, object]) -> None:
    KeptOutcomes(tmp_path, CONDITIONS, TARGET).keep(OUTCOME)
    assert KeptOutcomes(tmp_path, {**CONDITIONS, **changed}, TARGET).get(OUTCOME.digest) is None


def test_what_another_target_has_measured_is_not_kept_as_this_ones(tmp_path: Path) -> None:
    newer = KeptOutcomes(tmp_path, CONDITIONS, {**TARGET, "onnxruntime": "1.33"})
    newer.keep(OUTCOME)  # found in the study, from before onnxruntime was renewed
    assert newer.get(OUTCOME.digest) is None
    more = KeptOutcomes(tmp_path, CONDITIONS, {**TARGET, "governor": "performance"})
    more.keep(OUTCOME)  # whose conditions say nothing of a governor
    assert more.get(OUTCOME.digest) == OUTCOME


CPU = "sys/devices/system/cpu"


def machine(root: Path, core: int, **changes: str) -> Path:
    """A system that exposes all that karui reads of a core."""
    found = {"governor": "performance", "frequency": "2400000", "temperature": "45000", "busy": "5", "throttles": "0"}
    found |= changes
    return write_files(
        root,
        {
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": found["governor"],
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": found["frequency"],
            f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count": found["throttles"],
            "sys/class/thermal/thermal_zone0/temp": found["temperature"],
            "proc/stat": account({core: (int(found["busy"]), 1_000)}),
        },
    )


@pytest.mark.parametrize(
    ("target", "system", "is_new"),
    [
        ({}, {}, False),
        ({"threads": 2}, {}, True),
        ({"provider": "AzureExecutionProvider"}, {}, True),
        ({"runtime": "openvino"}, {}, True),
        ({}, {"governor": "powersave"}, True),
        ({}, {"version": "1.33.0"}, True),
        ({}, {"processor": "another one"}, True),
        ({}, {"frequency": "800000"}, False),
        ({}, {"temperature": "90000"}, False),
        ({}, {"throttles": "7"}, False),
        ({}, {"busy": "900"}, False),
        ({}, {"host": "another name"}, False),
        ({}, {"python": "4.0"}, False),
    ],
)
def test_what_changes_the_key_of_what_was_measured_and_what_does_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: dict[str, Any],
    system: dict[str, str],
    is_new: bool,
) -> None:
    if target.get("runtime") == "openvino":
        pytest.importorskip("openvino")
    if target.get("provider", "CPUExecutionProvider") not in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has no such provider")
    core = allowed_cores()[0]
    monkeypatch.setattr(local, "allowed_cores", lambda: (core,))
    before = LocalTarget(root=machine(tmp_path, core))
    outcome = replace(
        OUTCOME, measurements={"latency_ms": Measurement("latency_ms", 2.5, "ms", conditions=before.conditions())}
    )
    KeptOutcomes(tmp_path, CONDITIONS, before.fingerprint()).keep(outcome)
    machine(tmp_path, core, **{name: text for name, text in system.items() if name not in CALLS})
    for name, (owner, attribute) in CALLS.items():
        if name in system:
            monkeypatch.setattr(owner, attribute, lambda name=name: system[name])
    if "version" in system:
        monkeypatch.setattr(onnxruntime, "__version__", system["version"])
    after = LocalTarget(root=tmp_path, **target)
    kept = KeptOutcomes(tmp_path, CONDITIONS, after.fingerprint())
    kept.keep(outcome)  # as a search does that goes on with a study
    assert (kept.get(outcome.digest) is None) == is_new


CALLS: dict[str, tuple[Any, str]] = {
    "processor": (local, "processor_name"),
    "host": (platform, "node"),
    "python": (platform, "python_version"),
}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": "00"}', "null"])
def test_what_cannot_be_read_is_measured_again(tmp_path: Path, content: str) -> None:
    kept = KeptOutcomes(tmp_path, CONDITIONS, TARGET)
    kept.keep(OUTCOME)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert kept.get(OUTCOME.digest) is None
    kept.keep(OUTCOME)
    assert kept.get(OUTCOME.digest) == OUTCOME
