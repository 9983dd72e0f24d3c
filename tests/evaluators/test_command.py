"""A user's program as a target: what it is given, what is made of what it prints, and whose fault an ending is."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.errors import CandidateFailure, KaruiError, TargetUnavailable
from karui.evaluators.targets.command import FEWEST_PAIRS, CommandTarget
from karui.evaluators.timing.alternating import TimingSettings
from karui.evaluators.timing.machine_lock import open_own_lock, shared_folder

INPUTS = np.arange(6, dtype=np.float32).reshape(2, 3)
SETTINGS = TimingSettings(min_blocks=10, max_blocks=40, max_seconds=1.0)

MakeTarget = Callable[..., CommandTarget]


@pytest.fixture
def make_target(tmp_path: Path) -> MakeTarget:
    """Return a maker of targets whose program is a script of a shell; "$2" is the model's path."""

    def make(script: str, **options: Any) -> CommandTarget:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return CommandTarget([str(path)], name="phone", **options)

    return make


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "reference.onnx"
    path.write_bytes(b"r")
    return path


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    path = tmp_path / "candidate.onnx"
    path.write_bytes(b"c")
    return path


def answers(reference: str, candidate: str) -> str:
    """Return a script that prints the one for the reference and the other for the candidate."""
    return f"case $2 in *reference.onnx) {reference};; *) {candidate};; esac"


def prints(text: str) -> str:
    return f"echo {shlex.quote(text)}"


def test_the_ratio_is_that_of_what_the_program_prints(
    make_target: MakeTarget, reference: Path, candidate: Path
) -> None:
    slow, quick = '{"latency_ms": 8.0}', '{"latency_ms": 2.0, "latency_ms_p95": 3.5, "runs": 50}'
    target = make_target(answers(prints(slow), f"echo hello; {prints(quick)}"))
    timing = target.time_pair(reference, candidate, INPUTS, SETTINGS)
    assert (timing.reference_ms, timing.candidate_ms, timing.ratio) == (8.0, 2.0, 0.25)
    assert (timing.candidate_p95_ms, timing.ratio_spread, timing.pairs) == (3.5, 0.0, FEWEST_PAIRS)


def test_the_program_is_given_files_and_no_shell(tmp_path: Path) -> None:
    model = tmp_path / "a model; touch pwned $(touch pwned).onnx"
    model.write_bytes(b"")
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\nfor each in "$@"; do echo "$each" >> {tmp_path}/given; done\n'
        f'cp "$6" {tmp_path}/inputs.npy\necho \'{{"latency_ms": 1}}\'\n'
    )
    program.chmod(0o755)
    command = [str(program), "--serial", "$HOME; ls"]
    target = CommandTarget(command, threads=4, provider="NnapiExecutionProvider")
    target.time_pair(model, model, INPUTS, TimingSettings(min_blocks=2, max_blocks=2))
    given = (tmp_path / "given").read_text().splitlines()
    assert given[:5] == ["--serial", "$HOME; ls", "--model", str(model), "--inputs"]
    assert given[6:10] == ["--threads", "4", "--provider", "NnapiExecutionProvider"]
    assert len(given) == 4 * 10
    assert np.array_equal(np.load(tmp_path / "inputs.npy"), INPUTS)
    assert not (tmp_path / "pwned").exists()


def test_noise_takes_more_pairs_until_the_time_is_up(make_target: MakeTarget, reference: Path, candidate: Path) -> None:
    # The candidate's times go up and down; each run of the program takes a tenth of a second of the test's clock.
    noisy = 'n=$(cat count 2>/dev/null || echo 1); echo $((n % 3 + 1)) > count; echo "{\\"latency_ms\\": $n}"'
    script = f'cd "$(dirname "$0")"; {answers(prints(json.dumps({"latency_ms": 2})), noisy)}'
    times = iter(np.arange(0.0, 100.0, 0.1).tolist())
    timing = make_target(script, clock=lambda: next(times)).time_pair(reference, candidate, INPUTS, SETTINGS)
    # Asked for the time once at the beginning and once after 4, 6, 8, ... pairs: a second is over at the tenth time.
    assert timing.pairs == FEWEST_PAIRS + 2 * 9
    assert timing.candidate_ms == 2.0


def test_over_inputs_each_has_its_least_time(make_target: MakeTarget, reference: Path, candidate: Path) -> None:
    target = make_target(answers(prints('{"latency_ms": [1.0, 3.0]}'), prints('{"latency_ms": [2.0, 4.0]}')))
    timing = target.time_pair_over_inputs(reference, candidate, INPUTS, TimingSettings(max_seconds=0.01))
    assert (timing.reference_ms, timing.candidate_ms, timing.ratio, timing.inputs) == (2.0, 3.0, 1.5, 2)


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("", "printed no JSON object.*got: nothing"),
        ("latency 3 ms", "printed no JSON object.*got: 'latency 3 ms'"),
        ("[1.0]", "printed no JSON object"),
        ('{"latency": 3}', "printed what is no time.*got: nothing"),
        ('{"latency_ms": NaN}', "printed what is no time.*expected: latency_ms: a positive number.*got: nan"),
        ('{"latency_ms": Infinity}', "printed what is no time.*got: inf"),
        ('{"latency_ms": -1.5}', "printed what is no time.*got: -1.5"),
        ('{"latency_ms": 0}', "printed what is no time.*got: 0"),
        ('{"latency_ms": true}', "printed what is no time.*got: True"),
        ('{"latency_ms": "3"}', "printed what is no time.*got: '3'"),
        ('{"latency_ms": 3, "latency_ms_p95": null}', "latency_ms_p95: a positive number"),
    ],
)
def test_what_is_no_answer_is_the_programs_fault(
    make_target: MakeTarget, reference: Path, candidate: Path, printed: str, told: str
) -> None:
    target = make_target(answers(prints('{"latency_ms": 1}'), prints(printed)))
    with pytest.raises(KaruiError, match=f"(?s){told}.*docs/targets.md") as raised:
        target.time_pair(reference, candidate, INPUTS, SETTINGS)
    assert not isinstance(raised.value, TargetUnavailable)


@pytest.mark.parametrize("printed", ['{"latency_ms": 1.0}', '{"latency_ms": [1.0]}', '{"latency_ms": [1.0, "x"]}'])
def test_over_inputs_a_time_for_each_is_asked(make_target: MakeTarget, reference: Path, printed: str) -> None:
    with pytest.raises(KaruiError, match=r"no list of times|is no time"):
        make_target(prints(printed)).time_pair_over_inputs(reference, reference, INPUTS, SETTINGS)


@pytest.mark.parametrize(
    ("reference_ends", "candidate_ends", "error", "told"),
    [
        ("echo '{\"latency_ms\": 1}'", "echo no kernel >&2; exit 3", CandidateFailure, "^latency: no kernel$"),
        (
            "echo no kernel >&2; exit 3",
            "exit 3",
            KaruiError,
            "(?s)the reference cannot be run on this target.*no kernel",
        ),
        ("echo '{\"latency_ms\": 1}'", "echo offline >&2; exit 75", TargetUnavailable, "(?s)does not answer.*offline"),
        ("echo oops >&2; exit 1", "exit 3", KaruiError, "(?s)program of a target failed.*got: exit code 1: oops"),
        ("echo '{\"latency_ms\": 1}'", "kill -9 $$", KaruiError, "(?s)program of a target failed.*exit code -9"),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(
    make_target: MakeTarget,
    reference: Path,
    candidate: Path,
    reference_ends: str,
    candidate_ends: str,
    error: type[Exception],
    told: str,
) -> None:
    with pytest.raises(error, match=told) as raised:
        make_target(answers(reference_ends, candidate_ends)).time_pair(reference, candidate, INPUTS, SETTINGS)
    assert type(raised.value) is error


@pytest.mark.parametrize(("which", "error"), [("candidate", CandidateFailure), ("reference", TargetUnavailable)])
def test_one_that_hangs_is_stopped(
    make_target: MakeTarget, reference: Path, candidate: Path, which: str, error: type[Exception]
) -> None:
    quick, hangs = "echo '{\"latency_ms\": 1}'", "exec sleep 60"
    script = answers(hangs, quick) if which == "reference" else answers(quick, hangs)
    with pytest.raises(error, match=r"not done within 0\.5 s"):
        make_target(script, timeout_seconds=0.5).time_pair(reference, candidate, INPUTS, SETTINGS)


def test_a_program_that_is_not_there_is_told(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for command, told in (("no-such-program", "there is no such program"), (str(tmp_path / "text"), "may not be run")):
        with pytest.raises(KaruiError, match=told):
            CommandTarget([command]).time_pair(reference, reference, INPUTS, SETTINGS)
    with pytest.raises(KaruiError, match="command of target command is empty"):
        CommandTarget([])


def test_what_it_does_not_tell_of_loading_is_missing(make_target: MakeTarget, reference: Path) -> None:
    target = make_target(prints('{"latency_ms": 1}'))
    assert target.time_load_pair(reference, reference, SETTINGS) is None
    assert target.load_peak_bytes(reference) is None


def test_conditions_are_what_the_program_tells(make_target: MakeTarget, reference: Path) -> None:
    target = make_target(prints('{"latency_ms": 1, "conditions": {"processor": "Tensor G3", "odd": [1]}}'), threads=2)
    assert target.conditions()["processor"] == "unknown"
    target.time_pair(reference, reference, INPUTS, SETTINGS)
    conditions = target.conditions()
    assert (conditions["processor"], conditions["threads"], conditions["target"]) == ("Tensor G3", 2, "phone")
    assert "odd" not in conditions


FAKE_ADB = """#!/bin/sh
case "$1" in
    get-state) cat state;;
    push) cp "$2" pushed.onnx;;
    shell) case "$2" in
        getprop*) echo Tensor G3;;
        *) echo "$2" > ran; test "$(cat state)" = device && cat printed;;
    esac;;
esac
"""
PRINTED = """Average inference time cost: 62.2935 ms
Peak working set size: 114634752 bytes
Min Latency: 0.0529422 s
P50 Latency: 0.0603562 s
P90 Latency: 0.0741593 s
P95 Latency: 8.37052e-02 s
P999 Latency: 0.0912857 s
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandTarget:
    """The example of docs/targets.md, with an adb that answers as the real one and onnxruntime_perf_test do."""
    text = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    (tmp_path / "measure_by_adb.py").write_text(text.split("```python\n")[1].split("```")[0])
    (tmp_path / "adb").write_text(FAKE_ADB)
    (tmp_path / "adb").chmod(0o755)
    (tmp_path / "state").write_text("device")
    (tmp_path / "printed").write_text(PRINTED)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return CommandTarget([sys.executable, "measure_by_adb.py"], threads=2, folder=tmp_path)


def test_the_documented_example_for_phones_works(phone: CommandTarget, reference: Path, tmp_path: Path) -> None:
    settings = TimingSettings(min_blocks=2, max_blocks=2)
    timing = phone.time_pair(reference, reference, INPUTS, settings)
    assert [timing.candidate_ms, timing.candidate_p95_ms] == pytest.approx([60.3562, 83.7052])
    assert phone.conditions()["processor"] == "Tensor G3"
    assert (tmp_path / "pushed.onnx").read_bytes() == reference.read_bytes()
    assert "-r 50 -x 2 " in (tmp_path / "ran").read_text()
    assert phone.time_load_pair(reference, reference, settings) is None
    (tmp_path / "printed").write_text("Failed to load model")
    with pytest.raises(KaruiError, match=r"(?s)the reference cannot be run on this target.*Failed to load model"):
        phone.time_pair(reference, reference, INPUTS, settings)
    (tmp_path / "state").write_text("offline")
    with pytest.raises(TargetUnavailable, match="no phone"):
        phone.time_pair(reference, reference, INPUTS, settings)


def test_one_process_at_a_time_runs_the_program(make_target: MakeTarget, reference: Path) -> None:
    told: list[str] = []
    target = make_target(prints('{"latency_ms": 1}'), tell=told.append)
    lock = open_own_lock(shared_folder() / target.lock_name)
    with ThreadPoolExecutor(1) as pool:
        assert lock.take(shared=False, wait=True)
        future = pool.submit(target.time_pair, reference, reference, INPUTS, SETTINGS)
        while not told:
            assert not future.done()
        lock.let_go()
        assert future.result().ratio == 1.0
    assert told == ["waiting for device phone"]
