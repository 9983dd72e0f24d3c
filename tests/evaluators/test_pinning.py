"""Which cores are measured on, and that threads come back to where they could go before."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.evaluators.timing.pinning import choose_cores, pinned

from .fake_machine import account, write_files

CPU = "sys/devices/system/cpu/cpu"


def choose(root: Path, allowed: Sequence[int], threads: int, busy: dict[int, int]) -> list[int]:
    """Choose on a machine where the cores are busy for so many of the next ticks."""
    write_files(root, {"proc/stat": account({core: (1000 * core, 5) for core in busy})})

    def later(_seconds: float) -> None:
        write_files(root, {"proc/stat": account({core: (1000 * core + more, 9) for core, more in busy.items()})})

    return choose_cores(allowed, threads, root, later)


def test_the_least_busy_cores_are_chosen_among_those_allowed(tmp_path: Path) -> None:
    busy = {0: 0, 1: 9, 2: 3, 3: 5}
    assert choose(tmp_path, [0, 1, 2, 3], 1, busy) == [0]
    assert choose(tmp_path, [1, 2, 3], 1, busy) == [2]
    assert choose(tmp_path, [1, 2, 3], 2, busy) == [2, 3]


def test_of_cores_alike_the_higher_number_is_taken(tmp_path: Path) -> None:
    assert choose(tmp_path, [0, 1, 2], 1, {0: 4, 1: 4, 2: 4}) == [2]


@pytest.mark.parametrize("told_by", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_an_idle_slow_core_is_never_better_than_a_busy_fast_one(tmp_path: Path, told_by: str) -> None:
    speeds = {0: 446, 1: 446, 2: 1000, 3: 1024}
    write_files(tmp_path, {f"{CPU}{core}/{told_by}": str(speed) for core, speed in speeds.items()})
    assert choose(tmp_path, [0, 1, 2, 3], 1, {0: 0, 1: 0, 2: 5, 3: 9}) == [2]
    assert sorted(choose(tmp_path, [0, 1, 2, 3], 3, {0: 6, 1: 2, 2: 5, 3: 9})) == [1, 2, 3]
    assert choose(tmp_path, [0, 1], 1, {0: 6, 1: 2}) == [1]


def test_two_threads_do_not_share_a_core_where_there_are_others(tmp_path: Path) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    write_files(tmp_path, {f"{CPU}{core}/topology/thread_siblings_list": siblings[core] for core in siblings})
    assert sorted(choose(tmp_path, [0, 1, 2, 3], 2, {0: 0, 1: 7, 2: 1, 3: 8})) == [0, 1]


@given(st.sets(st.integers(0, 20), min_size=1), st.integers(1, 25))
def test_as_many_as_wanted_are_chosen_of_those_allowed(allowed: set[int], threads: int) -> None:
    chosen = choose_cores(sorted(allowed), threads, Path("/nowhere"), lambda _seconds: None)
    assert len(chosen) == len(set(chosen)) == min(threads, len(allowed))
    assert set(chosen) <= allowed


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")
def test_all_threads_are_kept_on_the_chosen_cores_and_let_go_even_after_an_error() -> None:
    allowed = os.sched_getaffinity(0)
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(60)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait(60)
    other = thread.native_id or 0
    try:
        with pinned(1, pause=lambda _seconds: None) as cores:
            assert cores is not None
            assert len(cores) == 1
            assert set(cores) <= allowed
            assert os.sched_getaffinity(0) == os.sched_getaffinity(other) == set(cores)
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other) == allowed
        with pytest.raises(KeyError, match="within"), pinned(1, pause=lambda _seconds: None):
            raise KeyError("within")
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other) == allowed
    finally:
        end.set()
        thread.join()


def test_a_system_that_cannot_pin_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cores:
        assert cores is None
