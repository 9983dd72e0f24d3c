"""The targets of a study on its bench: what is measured on which, under which name, and what has changed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from karui.evaluators.measurement import Evaluator, Measurement
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.targets.several_targets import WORST
from karui.evaluators.targets.target import Target
from karui.evaluators.targets.telling import tell_nobody
from karui.evaluators.timing.machine_lock import MachineLock
from karui.spaces.artifact import Artifact
from karui.studies.measuring.bench_targets import BenchTargets
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_sections import LatencySpec
from karui.studies.study_file.target_spec import TargetSpec

HERE = TargetSpec(name="here", kind="local")
PHONE = TargetSpec(name="phone", kind="command", command=("./measure",))
KNOWN_MS = {"local": 4.0, "here": 4.0, "phone": 20.0}


def bench_targets(tmp_path: Path, *targets: TargetSpec, objective: str | None = None) -> BenchTargets:
    spec = StudySpec(name="mine", target=targets or None, latency=LatencySpec(objective=objective))
    return BenchTargets(spec, MachineLock(tmp_path), tell_nobody, lambda: None)


def measured(target: Target) -> Measurement:
    return Measurement("latency_ms", KNOWN_MS[target.name], "ms", 0.1, 20, {"self_ratio": 1.0})


@pytest.mark.parametrize(
    ("targets", "objective", "expected"),
    [
        ((), None, {"latency_ms": 4.0}),
        ((PHONE,), None, {"latency_ms": 20.0}),
        ((PHONE, HERE), None, {"latency_ms": 20.0, "latency_ms@phone": 20.0, "latency_ms@here": 4.0}),
        ((PHONE, HERE), "here", {"latency_ms": 4.0, "latency_ms@phone": 20.0, "latency_ms@here": 4.0}),
        ((HERE, PHONE), WORST, {"latency_ms": 4.0, "latency_ms@phone": 20.0, "latency_ms@here": 4.0}),
    ],
)
def test_the_reference_is_measured_on_each(
    tmp_path: Path, targets: tuple[TargetSpec, ...], objective: str | None, expected: dict[str, float]
) -> None:
    several = bench_targets(tmp_path, *targets, objective=objective)
    found = {item.name: item for item in several.measure_references(measured)}
    assert {name: item.value for name, item in found.items()} == expected
    names = [each.name for each in targets] or ["local"]
    assert several.reference_ms(found) == {name: KNOWN_MS[name] for name in names}


class Asked:
    """An evaluator that remembers on which target it was asked."""

    name = "latency"

    def __init__(self, target: str, asked: list[str]) -> None:
        self.target, self.asked = target, asked

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        self.asked.append(self.target)
        ms = KNOWN_MS[self.target]
        return (Measurement("latency_ratio", ms / 100, "1"), Measurement("latency_ms", ms, "ms"))


@pytest.mark.parametrize(
    ("objective", "only_objective", "expected"),
    [
        ("here", False, ["phone", "here"]),
        ("here", True, ["here"]),
        (WORST, True, ["phone", "here"]),
        (None, True, ["phone"]),
    ],
)
def test_an_untrained_proxy_is_measured_only_where_something_depends_on_it(
    tmp_path: Path, objective: str | None, only_objective: bool, expected: list[str]
) -> None:
    asked: list[str] = []

    def make(name: str, _: Target) -> Evaluator:
        return Asked(name, asked)

    several = bench_targets(tmp_path, PHONE, HERE, objective=objective)
    several.evaluator(make, "latency_ratio", only_objective=only_objective).measure(Artifact(tmp_path / "x.onnx", "00"))
    assert asked == expected


def test_what_has_changed_since_the_study_began_is_told_for_each_target(tmp_path: Path) -> None:
    here = LocalTarget().conditions()
    noted = {
        "latency_ms@here": Measurement("x", 1.0, "ms", conditions={**here, "processor": "another one"}),
        # What the program has not told yet is no difference.
        "latency_ms@phone": Measurement("x", 1.0, "ms", conditions={"processor": "Tensor G3", "threads": 1}),
    }
    (told,) = bench_targets(tmp_path, PHONE, HERE).differences(noted)
    assert told.startswith("target here: this machine is not of the kind that the study began on: processor")
    alone = {"latency_ms": noted["latency_ms@here"]}
    (told,) = bench_targets(tmp_path).differences(alone)
    assert told.startswith("this machine is not of the kind")
    (told,) = bench_targets(tmp_path, PHONE.model_copy(update={"threads": 2})).differences(
        {"latency_ms": noted["latency_ms@phone"]}
    )
    assert told.startswith("target phone: ")
    assert "threads 2 instead of 1" in told
