"""What a running search shows: every trial in flight with where it is, and who waits."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from karui.spaces.building.stage_cache import WAITING
from karui.spaces.candidate import Candidate
from karui.studies.study_file.spec import StudySpec
from karui.studies.watching.progress import ProgressView

from .conftest import make_record

BASELINE = {"size_bytes": 2000.0, "latency_ms": 10.0, "accuracy": 0.95}


def begun(terminal: bool) -> tuple[ProgressView, Console]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, _environ={})
    view = ProgressView(console)
    view.searching(StudySpec(name="mine", trials=5), BASELINE, [])
    view.begun(3, Candidate(weight_bits=4, activation_bits=8))
    view.begun(4, Candidate(removed_channels=0.5))
    view.reached(4, WAITING)
    return view, console


def shown(view: ProgressView, console: Console) -> str:
    with console.capture() as capture:
        console.print(view._render())
    return capture.get()


def test_each_trial_in_flight_is_shown_until_it_ends() -> None:
    view, console = begun(terminal=True)
    text = shown(view, console)
    assert "0 of 5 done, 2 running" in text
    assert "trial 3: baseline, w4 a8" in text
    assert f"trial 4: {WAITING}: baseline, -50% channels" in text
    view.reached(4, "latency")
    assert "trial 4: latency: baseline" in shown(view, console)
    view.ended(make_record(4, 1000.0, 5.0, 0.9))
    text = shown(view, console)
    assert "1 of 5 done, 1 running" in text
    assert "trial 4" not in text


def test_trials_of_another_search_count() -> None:
    view, console = begun(terminal=True)
    view.seen(make_record(0, 500.0, 5.0, 0.9))
    text = shown(view, console)
    assert "1 of 5 done, 2 running" in text
    assert "size 0.5 KB (4.0x)" in text


def test_promoted_trials_are_counted_by_themselves() -> None:
    view, console = begun(terminal=True)
    view.happened("promotion begun", candidates=3, epochs_factor=4)
    assert "promoting the front: 3 candidates, trained anew for 4 times the epochs" in shown(view, console)
    promoted = Candidate(removed_channels=0.5, epochs_factor=4)
    for state, outcome in (
        ("evaluated", make_record(5, 500.0, 5.0, 0.9).outcome),
        ("failed", None),
        ("duplicate", None),
    ):
        record = make_record(5, 500.0, 5.0, 0.9, feasible=outcome is not None)
        view.ended(replace(record, state=state, candidate=promoted, outcome=outcome))
    text = shown(view, console)
    assert "0 of 5 done, 2 running, 0 pruned, 0 stopped by gates, 0 failed" in text
    assert "2 of 3" in text
    assert "size 0.5 KB (4.0x)" in text


@pytest.mark.parametrize(
    ("stage", "lines"), [(WAITING, [f"trial 3: {WAITING}"]), ("waiting to measure", []), ("recovery", [])]
)
def test_without_a_terminal_a_wait_for_a_network_is_printed_and_other_stages_are_not(
    stage: str, lines: list[str]
) -> None:
    view, console = begun(terminal=False)
    assert isinstance(console.file, io.StringIO)
    before = len(console.file.getvalue())
    view.reached(3, stage)
    assert console.file.getvalue()[before:].splitlines() == lines
