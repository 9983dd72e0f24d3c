"""What holds for every evaluator, and what each of them answers on files with known answers."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure, KaruiError
from karui.evaluators.accuracy import AccuracyEvaluator
from karui.evaluators.energy import EnergyEvaluator
from karui.evaluators.latency import LatencyEvaluator, measure_reference
from karui.evaluators.loading import LoadEvaluator
from karui.evaluators.measurement import Evaluator, Measurement
from karui.evaluators.memory import MemoryEvaluator
from karui.evaluators.size import SizeEvaluator
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing.alternating import PairTiming, TimingSettings
from karui.evaluators.timing.over_inputs import InputsTiming
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.task import Metric, Pairs, top1_accuracy

MakeArtifact = Callable[..., Artifact]
LOAD_TIMING = PairTiming(4.0, 0.1, 10.0, 15.0, 2.5, 0.02, 12, (1, 1))
INPUTS_TIMING = InputsTiming(
    reference_ms=4.0,
    reference_ms_spread=0.1,
    reference_p95_ms=5.0,
    candidate_ms=1.0,
    candidate_p95_ms=3.0,
    ratio=0.25,
    ratio_spread=0.01,
    p95_ratio=0.6,
    p95_ratio_spread=0.05,
    inputs=300,
    passes=12,
)
QUICK = TimingSettings(min_blocks=2, max_blocks=2, max_seconds=0.01, min_block_ms=0.01)

# Ten rows whose largest entry is at 0, 1, 2, 0, ...; the targets agree on all rows but the last three.
INPUTS = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0]]).repeat(4, 1)[:10]
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 1])


def split_of(inputs: torch.Tensor = INPUTS, targets: torch.Tensor = TARGETS) -> Pairs:
    return cast("Pairs", TensorDataset(inputs, targets))


def accuracy_evaluator(metric: Metric = top1_accuracy, split: Pairs | None = None, **options: Any) -> AccuracyEvaluator:
    return AccuracyEvaluator(split or split_of(), metric, "top1", "validation", **options)


@dataclass(frozen=True)
class FixedTarget:
    """A target that answers with one timing, whatever it is given, and with the peak that is listed for a file."""

    timing: PairTiming
    name: str = "fixed"
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    over_inputs: InputsTiming = INPUTS_TIMING

    def time_pair(self, *_: object) -> PairTiming:
        return self.timing

    def time_pair_over_inputs(self, *_: object) -> InputsTiming:
        return self.over_inputs

    def time_load_pair(self, *_: object) -> PairTiming:
        return self.timing

    def load_peak_bytes(self, path: Path) -> int | None:
        if path.name == "unreadable.onnx":
            raise CandidateFailure("load", "unreadable")
        return self.peak_bytes.get(path.name)

    def fingerprint(self) -> dict[str, Any]:
        return {"threads": 1}

    def conditions(self) -> dict[str, Any]:
        return {"target": self.name, "threads": 1}

    def close(self) -> None:
        pass


class MeasuringMemory(FixedTarget):
    """The same, of a kind that tells the memory of sessions."""

    def session_peak_bytes(self, path: Path, inputs: NDArray[Any]) -> int | None:
        known = self.peak_bytes.get(path.name)
        return None if known is None else known + inputs.nbytes


SOME_INPUTS = np.ones((5, 3), np.float32)
LOAD_MEASUREMENTS = ["load_ms", "load_ratio", *(["load_peak_bytes"] if sys.platform in ("linux", "darwin") else [])]
EVALUATORS: dict[str, tuple[Callable[[Artifact], Evaluator], list[str]]] = {
    "size": (lambda _: SizeEvaluator(), ["size_bytes"]),
    "latency": (
        lambda reference: LatencyEvaluator(LocalTarget(), reference, np.ones((2, 3), np.float32), QUICK, 2.0),
        ["latency_ratio", "latency_ms"],
    ),
    "latency over inputs": (
        lambda reference: LatencyEvaluator(LocalTarget(), reference, SOME_INPUTS, QUICK, 2.0, one_by_one="validation"),
        ["latency_ratio", "latency_ms", "latency_p95_ratio"],
    ),
    "load": (lambda reference: LoadEvaluator(LocalTarget(), reference, QUICK), LOAD_MEASUREMENTS),
    "accuracy": (lambda _: accuracy_evaluator(), ["accuracy"]),
}
UNITS = {
    **{"size_bytes": "bytes", "accuracy": "1"},
    **{"latency_ratio": "1", "latency_ms": "ms", "load_ratio": "1", "load_ms": "ms", "load_peak_bytes": "bytes"},
    **{"latency_p95_ratio": "1"},
}


@pytest.fixture(params=EVALUATORS)
def case(request: pytest.FixtureRequest, make_scaling: MakeArtifact) -> tuple[Evaluator, list[str]]:
    make, names = EVALUATORS[request.param]
    evaluator = make(make_scaling(name="reference.onnx"))
    assert evaluator.name == request.param.split()[0]
    return evaluator, names


def test_every_evaluator_gives_its_named_measurements(case: tuple[Evaluator, list[str]], scaling: Artifact) -> None:
    evaluator, names = case
    measurements = evaluator.measure(scaling)
    assert [measurement.name for measurement in measurements] == names
    for measurement in measurements:
        assert math.isfinite(measurement.value)
        assert measurement.value > 0
        assert measurement.unit == UNITS[measurement.name]


def test_every_measurement_survives_json(case: tuple[Evaluator, list[str]], scaling: Artifact) -> None:
    for measurement in case[0].measure(scaling):
        assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement


def test_no_evaluator_changes_the_file(case: tuple[Evaluator, list[str]], scaling: Artifact) -> None:
    before = {path: file_digest(path) for path in scaling.path.parent.iterdir()}
    case[0].measure(scaling)
    assert {path: file_digest(path) for path in scaling.path.parent.iterdir()} == before


def test_same_settings_give_the_same_names_units_and_fixed_conditions(
    case: tuple[Evaluator, list[str]], scaling: Artifact
) -> None:
    evaluator, names = case
    first, second = evaluator.measure(scaling), evaluator.measure(scaling)
    if not {"latency_ms", "load_ms"} & set(names):
        assert first == second
    varying = {
        "raw_ms",
        "raw_reference_ms",
        "p95_ms",
        "reference_p95_ms",
        "pairs",
        "passes",
        "runs_per_block",
        "ratios",
    }
    varying |= {
        "run_to_run",
        "pinned_cores",
        "others_share",
        "busy",
        "waited_share",
        "frequency_mhz",
        "temperature_c",
        "throttled",
    }
    for one, other in zip(first, second, strict=True):
        assert (one.name, one.unit) == (other.name, other.unit)
        assert one.conditions.keys() == other.conditions.keys()
        assert {key: value for key, value in one.conditions.items() if key not in varying} == {
            key: value for key, value in other.conditions.items() if key not in varying
        }


def test_an_empty_file_is_a_failure_of_the_candidate(case: tuple[Evaluator, list[str]], empty_file: Artifact) -> None:
    with pytest.raises(CandidateFailure, match=f"^{case[0].name}: "):
        case[0].measure(empty_file)


@pytest.mark.parametrize("broken", ["garbage", "unknown_operator", "two_inputs", "one_row_only"])
@pytest.mark.parametrize("case", ["latency", "accuracy"], indirect=True)
def test_a_broken_file_is_a_failure_of_the_candidate(
    case: tuple[Evaluator, list[str]], broken: str, request: pytest.FixtureRequest
) -> None:
    reason = "nothing was given for z" if broken == "two_inputs" else "onnxruntime cannot (load|run) the file"
    with pytest.raises(CandidateFailure, match=f"^{case[0].name}: .*{reason}") as failure:
        case[0].measure(request.getfixturevalue(broken))
    assert "\n" not in failure.value.reason


@pytest.mark.parametrize("case", ["size", "latency", "latency over inputs", "accuracy"], indirect=True)
def test_a_missing_file_is_no_failure_of_the_candidate(case: tuple[Evaluator, list[str]], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)no such file|NO_SUCHFILE") as failure:
        case[0].measure(Artifact(path=tmp_path / "gone.onnx", digest="0" * 64))
    assert not isinstance(failure.value, CandidateFailure)


def test_size_is_the_number_of_bytes_written(tmp_path: Path) -> None:
    path = tmp_path / "known.onnx"
    path.write_bytes(bytes(12_345))
    assert SizeEvaluator().measure(Artifact(path, file_digest(path))) == (Measurement("size_bytes", 12_345, "bytes"),)


def test_load_time_is_that_of_the_file_with_the_interval_of_the_ratio(scaling: Artifact) -> None:
    target = FixedTarget(LOAD_TIMING)
    milliseconds, ratio = LoadEvaluator(target, scaling, QUICK).measure(scaling)
    assert (milliseconds.value, milliseconds.spread, milliseconds.count) == (10.0, 0.08, 12)
    assert (ratio.value, ratio.spread, ratio.count) == (2.5, 0.02, 12)
    assert milliseconds.conditions["raw_reference_ms"] == 4.0


def test_load_memory_is_the_peak_of_the_file_beside_that_of_the_reference(make_scaling: MakeArtifact) -> None:
    reference, candidate = make_scaling(1.0, name="reference.onnx"), make_scaling(2.0, name="candidate.onnx")
    target = FixedTarget(LOAD_TIMING, peak_bytes={"reference.onnx": 4_000_000, "candidate.onnx": 6_000_000})
    *_, peak = LoadEvaluator(target, reference, QUICK).measure(candidate)
    assert (peak.name, peak.value, peak.spread, peak.count) == ("load_peak_bytes", 6_000_000, 0.0, 1)
    assert peak.conditions["reference_bytes"] == 4_000_000
    assert peak.conditions["reference_digest"] == reference.digest
    assert peak.conditions["target"] == "fixed"


@pytest.mark.parametrize("known", [{}, {"reference.onnx": 4_000_000}, {"candidate.onnx": 6_000_000}])
def test_load_memory_that_the_target_cannot_tell_is_missing(make_scaling: MakeArtifact, known: dict[str, int]) -> None:
    reference, candidate = make_scaling(1.0, name="reference.onnx"), make_scaling(2.0, name="candidate.onnx")
    found = LoadEvaluator(FixedTarget(LOAD_TIMING, peak_bytes=known), reference, QUICK).measure(candidate)
    assert [measurement.name for measurement in found] == ["load_ms", "load_ratio"]


def test_load_time_that_the_target_cannot_tell_is_missing(scaling: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FixedTarget(LOAD_TIMING, peak_bytes={"scaling.onnx": 4_000_000})
    monkeypatch.setattr(FixedTarget, "time_load_pair", lambda *_: None)
    found = LoadEvaluator(target, scaling, QUICK).measure(scaling)
    assert [measurement.name for measurement in found] == ["load_peak_bytes"]


def test_a_reference_that_cannot_be_opened_for_its_memory_is_no_failure_of_the_candidate(
    make_scaling: MakeArtifact,
) -> None:
    reference, candidate = make_scaling(1.0, name="unreadable.onnx"), make_scaling(2.0, name="candidate.onnx")
    evaluator = LoadEvaluator(FixedTarget(LOAD_TIMING), reference, QUICK)
    with pytest.raises(KaruiError, match="the reference cannot be opened on this target"):
        evaluator.measure(candidate)


def test_latency_is_the_ratio_times_the_first_latency_of_the_reference(scaling: Artifact) -> None:
    # The machine runs at half the speed it had when the reference took 2 ms.
    target = FixedTarget(PairTiming(4.0, 0.1, 1.0, 1.5, 0.25, 0.01, 12, (3, 9), 0.125, {"busy": True}))
    evaluator = LatencyEvaluator(target, scaling, np.zeros((8, 3), np.float32), QUICK, reference_ms=2.0)
    ratio, milliseconds = evaluator.measure(scaling)
    # two runs alike, and what was known before of how two runs differ: 5 % beside four files' worth of that, now five
    told = 0.05 * math.sqrt(4 / 5)
    spread = math.hypot(0.01 / math.sqrt(2), 0.25 * told)
    assert (ratio.value, ratio.count) == (0.25, 24)
    assert ratio.spread == pytest.approx(spread)
    assert (milliseconds.value, milliseconds.count) == (0.5, 24)
    assert milliseconds.spread == pytest.approx(2 * spread)
    assert milliseconds.conditions == {
        "target": "fixed",
        "threads": 1,
        "batch_size": 8,
        "raw_ms": 1.0,
        "raw_reference_ms": 4.0,
        "p95_ms": 1.5,
        "pairs": 24,
        "ratios": [0.25, 0.25],
        "run_to_run": pytest.approx(told),
        "runs_per_block": [3, 9],
        "waited_share": 0.125,
        "busy": True,
        "reference_ms": 2.0,
        "reference_digest": scaling.digest,
    }


def test_the_reference_is_measured_against_itself(scaling: Artifact) -> None:
    target = FixedTarget(PairTiming(4.0, 0.1, 4.1, 4.5, 1.02, 0.03, 12, (3, 3)))
    measurement = measure_reference(target, scaling, np.zeros((8, 3), np.float32), QUICK)
    assert (measurement.name, measurement.value, measurement.spread, measurement.unit) == ("latency_ms", 4.0, 0.1, "ms")
    assert measurement.conditions["self_ratio"] == 1.02
    assert measurement.conditions["self_ratio_spread"] == 0.03


@pytest.mark.parametrize("reference_ms", [0.0, -1.0, math.nan])
def test_a_reference_without_a_latency_is_refused(scaling: Artifact, reference_ms: float) -> None:
    inputs = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="reference_ms: a positive number expected"):
        LatencyEvaluator(LocalTarget(), scaling, inputs, QUICK, reference_ms)
    with pytest.raises(ValueError, match="reference_ms: a positive number expected"):
        LatencyEvaluator(LocalTarget(), scaling, inputs, QUICK, reference_ms, one_by_one="test")


def test_latency_over_inputs_is_a_ratio_of_means_and_one_of_tails(scaling: Artifact) -> None:
    target = FixedTarget(LOAD_TIMING, over_inputs=INPUTS_TIMING)
    # The machine runs at half the speed it had when the reference took 2 ms.
    evaluator = LatencyEvaluator(target, scaling, SOME_INPUTS, QUICK, reference_ms=2.0, one_by_one="test")
    ratio, milliseconds, tail = evaluator.measure(scaling)
    # and 5 % by which one run may differ from another
    spread = math.hypot(0.01, 0.05 * 0.25)
    assert [(item.value, item.count) for item in (ratio, milliseconds, tail)] == [(0.25, 300), (0.5, 300), (0.6, 300)]
    assert [item.spread for item in (ratio, milliseconds)] == pytest.approx([spread, 2 * spread])
    assert tail.spread == pytest.approx(math.hypot(0.05, 0.05 * 0.6))
    assert ratio.conditions == {
        "target": "fixed",
        "threads": 1,
        "batch_size": 1,
        "split": "test",
        "inputs": 300,
        "passes": 12,
        "raw_ms": 1.0,
        "raw_reference_ms": 4.0,
        "p95_ms": 3.0,
        "reference_p95_ms": 5.0,
        "run_to_run": 0.05,
        "reference_ms": 2.0,
        "reference_digest": scaling.digest,
    }


def test_the_reference_over_inputs_is_measured_against_itself(scaling: Artifact) -> None:
    measurement = measure_reference(FixedTarget(LOAD_TIMING), scaling, SOME_INPUTS, QUICK, one_by_one="validation")
    assert (measurement.name, measurement.value, measurement.spread, measurement.unit) == ("latency_ms", 4.0, 0.1, "ms")
    assert measurement.count == 300
    assert (measurement.conditions["self_ratio"], measurement.conditions["self_ratio_spread"]) == (0.25, 0.01)
    assert measurement.conditions["split"] == "validation"


@pytest.mark.parametrize(("factor", "right"), [(1.0, 7), (-1.0, 1)])
def test_accuracy_is_that_of_the_outputs_of_the_file(make_scaling: MakeArtifact, factor: float, right: int) -> None:
    # With factor -1 the answers are 2, 0, 1, 2, 0, 1, ..., which agree with the targets in the eighth row only.
    (measurement,) = accuracy_evaluator().measure(make_scaling(factor))
    assert measurement.value == pytest.approx(right / 10)
    assert measurement.count == 10
    assert measurement.conditions["split"] == "validation"
    assert measurement.conditions["metric"] == "top1"


@pytest.mark.parametrize("batch_size", [1, 4, 10, 256])
def test_outputs_keep_the_order_of_the_rows_in_any_batch_size(make_scaling: MakeArtifact, batch_size: int) -> None:
    inputs = torch.arange(30.0).reshape(10, 3)

    def twice_the_inputs(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float(torch.equal(outputs[:, 0], 2 * targets))

    evaluator = accuracy_evaluator(twice_the_inputs, split_of(inputs, inputs[:, 0]), batch_size=batch_size)
    assert evaluator.measure(make_scaling(2.0))[0].value == 1.0
    assert evaluator.measure(make_scaling(2.0, batch=4))[0].value == 1.0, "a file of one fixed batch size"


def test_the_spread_of_accuracy_is_that_of_a_share(scaling: Artifact) -> None:
    rows = 2_000
    targets = torch.zeros(rows, dtype=torch.int64)
    inputs = torch.zeros(rows, 3)
    inputs[:, 0] = 1.0
    inputs[: rows // 5] = torch.tensor([0.0, 1.0, 0.0])
    (measurement,) = accuracy_evaluator(split=split_of(inputs, targets)).measure(scaling)
    assert measurement.value == pytest.approx(0.8)
    assert measurement.spread == pytest.approx(1.96 * math.sqrt(0.8 * 0.2 / rows), rel=0.2)
    assert measurement.conditions["resamples"] == 200


def test_a_slow_metric_is_resampled_ten_times(scaling: Artifact) -> None:
    ticks = itertools.count(step=5.0)
    evaluator = accuracy_evaluator(clock=lambda: next(ticks))
    assert evaluator.measure(scaling)[0].conditions["resamples"] == 10


def test_the_measurement_has_the_name_it_was_given(scaling: Artifact) -> None:
    assert accuracy_evaluator(measurement_name="test_accuracy").measure(scaling)[0].name == "test_accuracy"


def test_the_split_is_read_once(scaling: Artifact) -> None:
    class Counting(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        reads = 0

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            Counting.reads += 1
            return INPUTS[index], TARGETS[index]

    evaluator = accuracy_evaluator(split=Counting())
    assert [evaluator.measure(scaling)[0].value for _ in range(3)] == pytest.approx([0.7] * 3)
    assert Counting.reads == 10


def _raise(*_: torch.Tensor) -> float:
    raise IndexError("index 3\nis out of bounds")


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (_raise, "the metric 'top1' raised IndexError: index 3 is out of bounds"),
        (lambda *_: math.nan, "the metric 'top1' gave nan"),
        (lambda *_: torch.tensor(math.inf), "the metric 'top1' gave inf"),
        (lambda *_: None, "the metric 'top1' gave a NoneType, a number was expected"),
        (lambda *_: "0.9", "the metric 'top1' gave a str, a number was expected"),
        (lambda *_: torch.zeros(2), "the metric 'top1' gave a Tensor, a number was expected"),
    ],
)
def test_a_metric_without_an_answer_is_a_failure(scaling: Artifact, metric: Metric, reason: str) -> None:
    with pytest.raises(CandidateFailure, match=f"^accuracy: {reason}$"):
        accuracy_evaluator(metric).measure(scaling)


@pytest.mark.parametrize("answer", [1, 0.25, np.float32(0.25), torch.tensor(0.25), torch.tensor([0.25])])
def test_a_metric_may_answer_with_any_kind_of_number(scaling: Artifact, answer: Any) -> None:
    assert accuracy_evaluator(lambda *_: answer).measure(scaling)[0].value == float(answer)


def test_outputs_that_are_not_finite_are_a_failure(one_over_input: Artifact) -> None:
    inputs = torch.ones(10, 3)
    inputs[4:7, 1] = 0.0
    with pytest.raises(CandidateFailure, match="answers with NaN or infinity to 3 of 10 inputs"):
        accuracy_evaluator(split=split_of(inputs)).measure(one_over_input)


def test_no_error_in_n_rows_still_leaves_three_in_doubt(scaling: Artifact) -> None:
    split = split_of(torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20))
    (measurement,) = accuracy_evaluator(split=split).measure(scaling)
    assert measurement.value == 1.0
    assert measurement.spread == pytest.approx(3 / 60)


def test_a_metric_that_fails_on_some_resamples_still_has_a_spread(scaling: Artifact) -> None:
    def needs_every_class(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        if len(set(targets.tolist())) < 3:
            raise ValueError("a class has no rows")
        return top1_accuracy(outputs, targets)

    (measurement,) = accuracy_evaluator(needs_every_class).measure(scaling)
    assert measurement.value == pytest.approx(0.7)
    assert 0 < measurement.spread < 0.5
    assert 50 < measurement.conditions["resamples"] < 200


TIMING = PairTiming(4.0, 0.1, 1.0, 1.5, 0.25, 0.01, 12, (3, 9))


def test_memory_of_a_session_is_that_of_one_batch(scaling: Artifact) -> None:
    target = MeasuringMemory(TIMING, peak_bytes={scaling.path.name: 1_000})
    (memory,) = MemoryEvaluator(target, np.ones((2, 3), np.float32)).measure(scaling)
    assert memory.spread == 4096, "it is counted in pages"
    assert (memory.name, memory.value, memory.unit) == ("session_peak_bytes", 1_024, "bytes")
    assert memory.conditions["batch_size"] == 2


@pytest.mark.parametrize("target", [FixedTarget(TIMING), MeasuringMemory(TIMING)], ids=["another kind", "not told"])
def test_memory_that_the_target_does_not_tell_is_the_users_to_put_right(scaling: Artifact, target: FixedTarget) -> None:
    with pytest.raises(KaruiError, match=r"(?s)cannot be measured on this target.*take max_memory out of \[bounds\]"):
        MemoryEvaluator(target, np.ones((2, 3), np.float32)).measure(scaling)


def test_energy_on_a_target_of_another_kind_is_the_users_to_put_right(scaling: Artifact) -> None:
    with pytest.raises(KaruiError, match=r"(?s)energy of an inference cannot be measured.*where: target fixed"):
        EnergyEvaluator(FixedTarget(TIMING), scaling, np.ones((2, 3), np.float32), QUICK)
