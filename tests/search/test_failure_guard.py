"""Errors that are nobody's candidate: tried again, told apart from the candidate's own, and the end of a search."""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch

from karui.errors import CandidateFailure, CandidateStopped, KaruiError, describe_error, plain_line, plain_text
from karui.search.executor import InProcess
from karui.search.faults.failure_guard import FailureGuard, machine_fault
from karui.search.loop import Budget, SearchLoop
from karui.search.objectives import OBJECTIVES
from karui.search.outcome import Outcome, UnexpectedError
from karui.search.record import read_records
from karui.spaces.artifact import StageRecord
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace
from karui.studies.results.tables import trials_table, write_csv
from karui.studies.watching.log import SearchLog, read_log

from .conftest import BASELINE, Log, MakeLoop, known_outcome

BROKEN = "CUDA error: an illegal memory access was encountered"
FULL = "CUDA out of memory. Tried to allocate 20.00 MiB"
HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \udc80 \x00 \x9b2J " + "long " * 500_000


@pytest.fixture
def make_loop(small_space: SearchSpace) -> MakeLoop:
    """As the one of other tests, with a study in memory, where a trial takes a tenth of the time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[objective.direction for objective in OBJECTIVES])

    def make(evaluate: Callable[..., Outcome] = known_outcome, clock: Callable[[], float] = lambda: 0.0) -> SearchLoop:
        executor = InProcess(evaluate)
        return SearchLoop(study, small_space, OBJECTIVES, BASELINE, executor, sampler="random", seed=3, clock=clock)

    return make


class EPFail(Exception):
    """As onnxruntime has it."""


def caused(error: Exception) -> CandidateFailure:
    try:
        raise CandidateFailure("recovery", f"{type(error).__name__}: {error}") from error
    except CandidateFailure as failure:
        return failure


# --- what an error is of ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError(FULL), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError(BROKEN), "accelerator"),
        (torch.AcceleratorError("unspecified"), "accelerator"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "accelerator"),
        (EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : CUDA failure 700: an illegal memory access"), "accelerator"),
        (RuntimeError("MPS backend out of memory"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "machine"),
        (OSError(errno.EIO, "Input/output error"), "machine"),
        (OSError(errno.EMFILE, "Too many open files"), "machine"),
        (RuntimeError("received 0 items of ancdata: Too many open files"), "machine"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x8 and 9x2)"), None),
        (ValueError("the loss became nan in epoch 3"), None),
        (KeyError("nothing"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "labels.txt"), None),
    ],
)
def test_errors_of_the_machine_are_told_from_others(error: Exception, kind: str | None) -> None:
    assert machine_fault(error) == kind
    assert machine_fault(caused(error)) == kind, "whoever made a candidate's failure of it"


def test_a_message_that_cannot_be_read_is_no_second_error() -> None:
    class Mute(RuntimeError):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert machine_fault(Mute()) is None
    assert describe_error(Mute()) == "Mute: (its message cannot be read: ValueError)"


# --- in a search ------------------------------------------------------------------------------------------------------


def search(
    make_loop: MakeLoop, evaluate: Callable[[Candidate], Outcome], log: Log | None = None, trials: int = 1000
) -> list[str]:
    """Search, and return the states of the trials whose candidates had begun."""
    loop = make_loop(evaluate)
    loop.run(Budget(trials=trials), log or Log())
    return states(loop.study)


def states(study: optuna.Study) -> list[str]:
    found = [record for record in read_records(study) if record.state not in ("duplicate", "waiting")]
    evaluated = [record.key for record in found if record.state == "evaluated"]
    assert len(evaluated) == len(set(evaluated)), "nothing is measured twice"
    return [record.state for record in found]


def raising(faults: Callable[[Candidate, int], Exception | None]) -> Callable[[Candidate], Outcome]:
    """Return an evaluation; whether it fails is decided by the candidate and by how often that was tried before."""
    tried: Counter[str] = Counter()

    def evaluate(candidate: Candidate) -> Outcome:
        tried[candidate.key] += 1
        error = faults(candidate, tried[candidate.key])
        if error is not None:
            raise error
        return known_outcome(candidate)

    return evaluate


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL), caused(MemoryError()), OSError(errno.EIO, "disk")])
def test_what_goes_wrong_once_costs_no_candidate(make_loop: MakeLoop, error: Exception) -> None:
    log = Log()

    def once(candidate: Candidate, tries: int) -> Exception | None:
        is_odd = (candidate.removed_channels, candidate.zeroed_weights, candidate.activation_bits) == (0.5, 0.5, 8)
        return error if is_odd and tries == 1 else None

    assert search(make_loop, raising(once), log) == ["evaluated"] * 20
    assert Counter(event for event, _ in log.events) == {"unexpected error": 2}


def test_an_error_of_one_candidate_alone_is_its_own_in_the_end(make_loop: MakeLoop) -> None:
    def large(candidate: Candidate, _: int) -> Exception | None:
        is_large = (candidate.weight_bits, candidate.removed_channels, candidate.zeroed_weights) == (32, 0.0, 0.5)
        return torch.OutOfMemoryError(FULL) if is_large else None

    tried: list[str] = []

    def noted(candidate: Candidate, tries: int) -> Exception | None:
        tried.append(candidate.key)
        return large(candidate, tries)

    loop = make_loop(raising(noted))
    loop.run(Budget(trials=1000), Log())
    assert Counter(states(loop.study)) == {"evaluated": 19, "failed": 1}
    (failed,) = [record for record in read_records(loop.study) if record.state == "failed"]
    assert "3 times, while others came through" in failed.reason
    assert "out of memory" in failed.reason
    places = [place for place, key in enumerate(tried) if key == failed.key]
    assert len(places) == 3
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(places)), "others come between"


@pytest.mark.parametrize("after", [0, 5, 18])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL), caused(RuntimeError(BROKEN))])
def test_a_machine_that_breaks_burns_no_trials(make_loop: MakeLoop, after: int, error: Exception) -> None:
    done = 0

    def breaking(candidate: Candidate) -> Outcome:
        nonlocal done
        if done >= after:
            raise error
        done += 1
        return known_outcome(candidate)

    for _ in range(2):
        with pytest.raises(KaruiError, match=r"no candidate's(?s:.*)to do: .*the same command goes on") as caught:
            search(make_loop, breaking)
        assert caught.value.got == describe_error(error).removeprefix("CandidateFailure: recovery: ")
        found = Counter(states(make_loop().study))
        assert found["evaluated"] == after
        assert set(found) <= {"evaluated", "interrupted"}
    found = Counter(search(make_loop, known_outcome))
    assert found["evaluated"] == 20
    assert "failed" not in found


def test_candidates_that_do_not_train_say_nothing_about_an_accelerator(make_loop: MakeLoop) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        if candidate.removed_channels:
            raise caused(torch.OutOfMemoryError(FULL))
        return replace(known_outcome(candidate), stages=(StageRecord("quantization", 1.0, cached=False),))

    with pytest.raises(KaruiError, match="3 times in a row"):
        search(make_loop, evaluate)
    assert "failed" not in states(make_loop().study)


def test_errors_that_differ_each_time_end_a_search_as_well(make_loop: MakeLoop) -> None:
    words = iter(["one", "two", "three", "four", "five", "six", "seven", "eight"])

    def evaluate(candidate: Candidate) -> Outcome:
        raise OSError(errno.EIO, next(words))

    with pytest.raises(KaruiError, match="no candidate's"):
        search(make_loop, evaluate)
    assert set(states(make_loop().study)) == {"interrupted"}


def test_what_was_to_be_tried_again_waits_for_the_next_run_where_time_is_up(make_loop: MakeLoop) -> None:
    seconds = iter(range(1000))
    odd = raising(lambda _, tries: MemoryError() if tries == 1 else None)
    loop = make_loop(odd, clock=lambda: float(next(seconds)))
    loop.run(Budget(trials=1000, seconds=3.0), Log())
    assert set(states(loop.study)) <= {"evaluated", "interrupted"}
    assert Counter(search(make_loop, known_outcome))["evaluated"] == 20


def test_a_bug_that_one_candidate_meets_ends_as_its_own() -> None:
    faults, bug = FailureGuard(), UnexpectedError("export", "KeyError: 7", "")
    outcome = known_outcome(Candidate())
    faults.came_through("other", outcome)
    for last in (False, False, True):
        assert faults.note("odd", bug) is not last
        assert last or not faults.may_be_tried("odd")
        faults.came_through("other", outcome)
        assert faults.may_be_tried("odd")


def test_identical_errors_are_told_by_more_than_their_numbers() -> None:
    faults = FailureGuard()
    faults.note("a", UnexpectedError("export", "KeyError: 0x7f00 in layer 3", ""))
    faults.note("b", UnexpectedError("export", "KeyError: 0x7fff in layer 4", ""))
    with pytest.raises(KaruiError, match="3 times in a row"):
        faults.note("c", UnexpectedError("export", "KeyError: 0x8000 in layer 12", ""))


def test_a_memory_watcher_that_ends_workers_gently_is_no_endless_loop() -> None:
    faults, ended = FailureGuard(), UnexpectedError("recovery", "its worker process ended by SIGTERM", "", "signal")
    outcomes = []
    for _ in range(20):
        faults.came_through("other", known_outcome(Candidate()))
        outcomes.append(faults.note("odd", ended))
    assert outcomes.index(False) == 9


# --- texts ------------------------------------------------------------------------------------------------------------


def test_what_others_say_is_made_plain() -> None:
    assert plain_text("a\x1b[1;31mb\x1b]8;;http://x\x1b\\c\x1b]0;t\x07d\x9b2Je\rf\x08\u202eg\n") == "abcde\nfg\n"
    assert plain_text("\x1b]no end of it") == "no end of it"
    assert plain_line("a \udc80\n\tb") == "a \\udc80 b"
    assert plain_text("ü" * 10**7, 100) == "ü" * 47 + " ... " + "ü" * 47
    assert plain_text("いろは 😀 naïve") == "いろは 😀 naïve"
    for said in (
        CandidateFailure("recovery", HOSTILE).reason,
        CandidateStopped("size", HOSTILE, 1.0).reason,
        UnexpectedError("recovery", HOSTILE, "").reason,
        UnexpectedError("recovery", "", HOSTILE).traceback,
        str(KaruiError(HOSTILE, where=HOSTILE, expected=HOSTILE, got=HOSTILE, remedy=HOSTILE)),
    ):
        assert not set(said) & {"\x1b", "\x00", "\x9b", "\udc80"}
        assert said.encode()
        assert 500 < len(said) < 21_000


def test_a_search_survives_what_a_failure_says(make_loop: MakeLoop, tmp_path: Path) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        if candidate.weight_bits == 8:
            raise CandidateFailure("recovery", HOSTILE)
        return known_outcome(candidate)

    loop = make_loop(evaluate)
    loop.run(Budget(trials=1000), Log())
    records = read_records(loop.study)
    write_csv(trials_table(records), tmp_path / "trials.csv")
    text = (tmp_path / "trials.csv").read_text(encoding="utf-8")
    assert text.count("red") == 4
    assert "\x1b" not in text
    assert len(text) < 30_000


def test_what_an_earlier_version_kept_of_a_failure_is_read(make_loop: MakeLoop, tmp_path: Path) -> None:
    study = make_loop().study
    trial = study.ask()
    for name, value in (("stage", "recovery"), ("reason", HOSTILE), ("status", "failed")):
        trial.set_user_attr(name, value)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert search(make_loop, known_outcome).count("evaluated") == 20
    write_csv(trials_table(read_records(study)), tmp_path / "trials.csv")


def test_a_log_takes_any_text(tmp_path: Path) -> None:
    log = SearchLog(tmp_path / "log.jsonl")
    log.write("note", text="half a pair \udc80")
    assert read_log(tmp_path / "log.jsonl")[0]["text"] == "half a pair \udc80"
    assert json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8"))["event"] == "note"
