"""What holds for every target of the registry, and what is special to the local one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from karui.errors import CandidateFailure, KaruiError
from karui.evaluators.runtimes import onnxruntime_runner, openvino_runner
from karui.evaluators.runtimes.runtime_registry import RUNTIMES
from karui.evaluators.targets import load_memory, local
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.targets.program import UNKNOWN
from karui.evaluators.targets.target import TARGETS, MeasuresMemory, Target
from karui.evaluators.timing.alternating import TimingSettings
from karui.evaluators.timing.over_inputs import FEWEST_PASSES
from karui.spaces.artifact import Artifact

from ..sshd import ALIAS, Sshd
from .conftest import save_graph
from .measuring_program import measuring_program

MakeArtifact = Callable[..., Artifact]
INPUTS = np.ones((2, 3), np.float32)
QUICK = TimingSettings(min_blocks=4, max_blocks=4, max_seconds=0.01, min_block_ms=0.01)


def options_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """Return with which options a target of that kind measures on this very machine."""
    if kind == "ssh":
        server: Sshd = request.getfixturevalue("sshd")
        return {"host": ALIAS, "python": sys.executable, "ssh_config": server.config}
    if kind == "command":
        return {"command": request.getfixturevalue("program")}
    return {}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with measuring_program(tmp_path_factory.mktemp("program")) as command:
        yield command


@pytest.fixture(scope="module", params=[*TARGETS, "local openvino"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One of each kind for all tests, as a search has one for all candidates."""
    kind, _, other = request.param.partition(" ")
    if other:
        pytest.importorskip(other)
    options = options_of(kind, request, tmp_path_factory.mktemp("target"))
    made = TARGETS[kind](**options, **({"runtime": other} if other else {}))
    assert made.name == kind
    yield made
    made.close()


def test_every_target_times_two_files(target: Target, make_scaling: MakeArtifact) -> None:
    one, other = make_scaling(1.0, name="one.onnx"), make_scaling(2.0, name="other.onnx")
    timing = target.time_pair(one.path, other.path, INPUTS, QUICK)
    assert timing.pairs == 4
    assert min(timing.reference_ms, timing.candidate_ms, timing.ratio) > 0
    assert min(timing.runs_per_block) >= 1


def test_every_target_times_two_files_over_inputs_one_at_a_time(target: Target, make_scaling: MakeArtifact) -> None:
    one, single = make_scaling(1.0, name="one.onnx"), make_scaling(2.0, name="single.onnx", batch=1)
    inputs = np.ones((7, 3), np.float32)
    timing = target.time_pair_over_inputs(one.path, single.path, inputs, QUICK)
    assert (timing.inputs, timing.passes >= FEWEST_PASSES) == (7, True)
    assert min(timing.reference_ms, timing.reference_p95_ms, timing.candidate_ms, timing.candidate_p95_ms) > 0
    assert timing.ratio == pytest.approx(timing.candidate_ms / timing.reference_ms)
    assert timing.p95_ratio == pytest.approx(timing.candidate_p95_ms / timing.reference_p95_ms)


@pytest.mark.parametrize("broken", ["garbage", "empty_file", "unknown_operator", "two_inputs"])
def test_a_broken_file_over_inputs_is_the_fault_of_the_one_that_it_is(
    target: Target, scaling: Artifact, broken: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(broken).path
    with pytest.raises(CandidateFailure, match=r"^latency: "):
        target.time_pair_over_inputs(scaling.path, path, INPUTS, QUICK)
    with pytest.raises(KaruiError, match="the reference cannot be run on this target"):
        target.time_pair_over_inputs(path, scaling.path, INPUTS, QUICK)
    assert target.time_pair_over_inputs(scaling.path, scaling.path, INPUTS, QUICK).inputs == len(INPUTS)


def test_every_target_times_the_opening_of_two_files(target: Target, make_scaling: MakeArtifact) -> None:
    one, other = make_scaling(1.0, name="one.onnx"), make_scaling(2.0, name="other.onnx")
    timing = target.time_load_pair(one.path, other.path, QUICK)
    assert timing is not None
    assert timing.pairs == 4
    assert min(timing.reference_ms, timing.candidate_ms, timing.ratio) > 0


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system does not tell the peak of a process")
def test_every_target_tells_what_memory_opening_a_file_takes(target: Target, scaling: Artifact, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 2_500_000)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    large = save_graph(tmp_path / "large.onnx", nodes, {"weight": weight})
    small_bytes, large_bytes = target.load_peak_bytes(scaling.path), target.load_peak_bytes(large.path)
    assert small_bytes is not None
    assert large_bytes is not None
    assert small_bytes > 0
    assert weight.nbytes < large_bytes - small_bytes < 4 * weight.nbytes


def test_memory_of_a_file_that_cannot_be_opened_is_its_own_failure(target: Target, garbage: Artifact) -> None:
    with pytest.raises(CandidateFailure, match=r"^load: (onnxruntime|OpenVINO) cannot load the file"):
        target.load_peak_bytes(garbage.path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell and signals")
@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("kill -9 $$", CandidateFailure, "load: the process that opened the file was ended by signal 9"),
        ("echo no such module >&2; exit 3", KaruiError, r"(?s)measures the memory of loading failed.*no such module"),
    ],
)
def test_a_process_that_dies_while_it_opens_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scaling: Artifact,
    script: str,
    error: type[Exception],
    message: str,
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(error, match=message):
        LocalTarget().load_peak_bytes(scaling.path)


@pytest.mark.parametrize("told", [None, 10_000_000])
def test_a_peak_that_the_system_does_not_tell_or_that_does_not_rise_is_missing(
    monkeypatch: pytest.MonkeyPatch, scaling: Artifact, told: int | None
) -> None:
    monkeypatch.setattr(load_memory, "_peak_bytes", lambda: told)
    assert load_memory._answer(scaling.path, "CPUExecutionProvider", 1) == {"peak_bytes": None, "failure": None}


def test_a_file_that_cannot_be_opened_is_the_fault_of_the_one_that_it_is(
    target: Target, scaling: Artifact, garbage: Artifact
) -> None:
    with pytest.raises(CandidateFailure, match=r"^load: "):
        target.time_load_pair(scaling.path, garbage.path, QUICK)
    with pytest.raises(KaruiError, match="the reference cannot be run"):
        target.time_load_pair(garbage.path, scaling.path, QUICK)


def test_every_target_says_under_what_it_measures(target: Target) -> None:
    conditions = target.conditions()
    assert {"target", "host", "processor", "provider", "threads", "python", "platform"} <= set(conditions)
    runtime = conditions.get("runtime", "onnxruntime")  # a program of the user's need not tell
    assert conditions[runtime] == UNKNOWN or version(runtime).startswith(conditions[runtime])
    assert conditions["target"] == target.name
    assert json.loads(json.dumps(conditions)) == conditions
    assert all(value not in ("", None) for value in conditions.values())


def test_what_makes_a_target_another_one_is_among_its_conditions(target: Target) -> None:
    fingerprint = target.fingerprint()
    assert fingerprint.items() <= target.conditions().items()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == target.fingerprint()


def test_every_target_says_how_the_machine_was_in_plain_types(target: Target, scaling: Artifact) -> None:
    timing = target.time_pair(scaling.path, scaling.path, INPUTS, QUICK)
    assert json.loads(json.dumps(timing.to_dict())) == timing.to_dict()
    over_inputs = target.time_pair_over_inputs(scaling.path, scaling.path, INPUTS, QUICK)
    assert json.loads(json.dumps(over_inputs.to_dict())) == over_inputs.to_dict()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system does not tell the peak of a process")
def test_memory_of_a_session_is_that_of_the_file_and_of_what_lies_between_its_layers(
    target: Target, tmp_path: Path
) -> None:
    if not isinstance(target, MeasuresMemory):
        pytest.skip("this target does not measure it")
    columns = 1_000_000
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "tall"], ["y"]),
    ]
    constants = {"wide": np.ones((3, columns), np.float32), "tall": np.ones((columns, 1), np.float32)}
    path = save_graph(tmp_path / "large.onnx", nodes, constants).path
    one, many = (target.session_peak_bytes(path, np.ones((rows, 3), np.float32)) for rows in (1, 9))
    assert one is not None
    assert many is not None
    assert one > sum(constant.nbytes for constant in constants.values())
    # Of eight rows more; what loading leaves free may hold some of it, and runtimes take memory by powers of two.
    assert 4 * 4 * columns < many - one < 24 * 4 * columns


def test_memory_of_a_session_that_cannot_be_run_is_the_files_own_failure(one_row_only: Artifact) -> None:
    with pytest.raises(CandidateFailure, match=r"^load: onnxruntime cannot run the file"):
        LocalTarget().session_peak_bytes(one_row_only.path, INPUTS)


def test_nodes_that_a_provider_leaves_to_the_processor_are_told(scaling: Artifact) -> None:
    provider = "AzureExecutionProvider"  # computes nothing itself
    if provider not in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has no provider that leaves nodes to the processor")
    told = LocalTarget(provider=provider).time_pair(scaling.path, scaling.path, INPUTS, QUICK).machine
    assert told["nodes"] == {"CPUExecutionProvider": 1}
    assert told["fallback"] == "1 of 1 nodes ran on the CPU"
    assert "nodes" not in LocalTarget().time_pair(scaling.path, scaling.path, INPUTS, QUICK).machine


def test_an_unknown_runtime_is_refused_by_naming_those_that_there_are() -> None:
    with pytest.raises(KaruiError, match=r"(?s)expected: one of onnxruntime, openvino.*got: abacus"):
        LocalTarget(runtime="abacus")


def test_a_runtime_that_is_not_installed_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_runner._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(KaruiError, match=r"(?s)OpenVINO is not installed.*to do: pip install 'karui\[openvino\]'"):
        LocalTarget(runtime="openvino")


def test_a_device_that_openvino_does_not_have_is_refused() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(KaruiError, match=r"(?s)no such device.*expected: one of .*CPU.*got: ABACUS"):
        LocalTarget(runtime="openvino", provider="ABACUS")


@pytest.mark.parametrize("batch", ["batch", 2])
def test_both_runtimes_answer_alike(make_scaling: MakeArtifact, batch: int | str) -> None:
    pytest.importorskip("openvino")
    path = make_scaling(3.0, batch=batch).path
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    for known in RUNTIMES.values():
        file = known.open(path, stage="x", provider="CPUExecutionProvider", threads=1)
        kept = file.run(inputs)
        assert file.run(inputs + 1) == pytest.approx(3 * inputs + 3)
        assert kept == pytest.approx(3 * inputs), "what the next run answers goes elsewhere"
        assert file.fixed_batch_size == (None if batch == "batch" else 2)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin")
def test_measuring_leaves_this_process_the_cores_that_it_had(
    target: Target, scaling: Artifact, garbage: Artifact
) -> None:
    allowed = os.sched_getaffinity(0)
    target.time_pair(scaling.path, scaling.path, INPUTS, QUICK)
    with pytest.raises(CandidateFailure, match=r"^latency: "):
        target.time_pair(scaling.path, garbage.path, INPUTS, QUICK)
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("broken", ["garbage", "empty_file", "unknown_operator", "two_inputs", "one_row_only"])
def test_a_broken_candidate_fails_and_the_next_one_is_measured(
    target: Target, scaling: Artifact, broken: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(CandidateFailure, match=r"^latency: "):
        target.time_pair(scaling.path, request.getfixturevalue(broken).path, INPUTS, QUICK)
    assert target.time_pair(scaling.path, scaling.path, INPUTS, QUICK).pairs == 4


@pytest.mark.parametrize("broken", ["garbage", "one_row_only"])
def test_a_broken_reference_is_not_a_failure_of_the_candidate(
    target: Target, scaling: Artifact, broken: str, request: pytest.FixtureRequest
) -> None:
    reference: Artifact = request.getfixturevalue(broken)
    with pytest.raises(KaruiError, match="the reference cannot be run on this target"):
        target.time_pair(reference.path, scaling.path, INPUTS, QUICK)


def test_an_unknown_provider_is_refused_by_naming_the_available_ones() -> None:
    with pytest.raises(KaruiError, match=r"(?s)expected: .*CPUExecutionProvider.*got: AbacusExecutionProvider"):
        LocalTarget(provider="AbacusExecutionProvider")


def test_a_provider_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch, scaling: Artifact) -> None:
    # onnxruntime falls back to the CPU without an exception where, say, the driver of an installed provider is missing.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(KaruiError, match=r"(?s)could not be started.*got: CPUExecutionProvider"),
    ):
        LocalTarget(provider="CUDAExecutionProvider").time_pair(scaling.path, scaling.path, INPUTS, QUICK)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_without_meaning_are_refused(threads: int) -> None:
    with pytest.raises(KaruiError, match=f"got: {threads}"):
        LocalTarget(threads=threads)


def test_the_reference_is_opened_once_as_long_as_its_bytes_stay(
    monkeypatch: pytest.MonkeyPatch, make_scaling: MakeArtifact
) -> None:
    opened: list[str] = []

    def recording(path: Path, **options: Any) -> onnxruntime_runner.Runner:
        opened.append(path.name)
        return onnxruntime_runner.Runner(path, **options)

    known = RUNTIMES["onnxruntime"]
    monkeypatch.setattr(local, "find_runtime", lambda _name: replace(known, open=recording))
    target = LocalTarget()
    reference, candidate = make_scaling(1.0, name="reference.onnx"), make_scaling(2.0, name="candidate.onnx")
    for _ in range(2):
        target.time_pair(reference.path, candidate.path, INPUTS, QUICK)
    assert opened == ["reference.onnx", "candidate.onnx", "candidate.onnx"]
    make_scaling(3.0, name="reference.onnx")
    target.time_pair(reference.path, candidate.path, INPUTS, QUICK)
    assert opened[3:] == ["reference.onnx", "candidate.onnx"]


def test_conditions_name_the_runtime_and_the_threads() -> None:
    conditions = LocalTarget(threads=2).conditions()
    assert conditions["threads"] == 2
    assert conditions["onnxruntime"] == onnxruntime.__version__


def test_every_exception_of_the_runtime_is_an_exception_class() -> None:
    assert len(onnxruntime_runner.RUNTIME_ERRORS) >= 6
    assert all(issubclass(error, Exception) and error is not Exception for error in onnxruntime_runner.RUNTIME_ERRORS)
