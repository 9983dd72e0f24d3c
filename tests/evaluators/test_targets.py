"""What holds for every target of the registry, and what is special to the local one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from karui.errors import CandidateFailure, KaruiError
from karui.evaluators import load_memory, local, runtime
from karui.evaluators.local import LocalTarget
from karui.evaluators.targets import TARGETS, Target
from karui.evaluators.timing import TimingSettings
from karui.evaluators.timing_over_inputs import FEWEST_PASSES
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


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One of each kind for all tests, as a search has one for all candidates."""
    made = TARGETS[request.param](**options_of(request.param, request, tmp_path_factory.mktemp("target")))
    assert made.name == request.param
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
    with pytest.raises(CandidateFailure, match=r"^load: onnxruntime cannot load the file"):
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
    assert {"target", "host", "processor", "provider", "threads", "onnxruntime", "python", "platform"} <= set(
        conditions
    )
    assert conditions["target"] == target.name
    assert json.loads(json.dumps(conditions)) == conditions
    assert all(value not in ("", None) for value in conditions.values())


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

    class Recording(runtime.Runner):
        def __init__(self, path: Path, **options: object) -> None:
            opened.append(path.name)
            super().__init__(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "Runner", Recording)
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
    assert len(runtime.RUNTIME_ERRORS) >= 6
    assert all(issubclass(error, Exception) and error is not Exception for error in runtime.RUNTIME_ERRORS)
