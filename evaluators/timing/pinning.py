"""Threads kept on the cores that suit a measurement best, where the system allows that (Linux).

Nothing here imports the rest of karui, so that the file can be sent to a device as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOKS_FOR_SECONDS = 0.1
_LIKE_THE_FASTEST = 0.9
_TASKS = Path("/proc/self/task")
_CPUS = "sys/devices/system/cpu"


@contextmanager
def pinned(
    threads: int, root: Path = Path("/"), pause: Callable[[float], None] = time.sleep
) -> Iterator[tuple[int, ...] | None]:
    """Keep all threads of this process on as many cores as it needs, and let them go where they could before.

    Never leaves the cores that this process was allowed. Whatever starts a thread meanwhile has it on the same cores.

    Args:
        threads: Cores that are needed.
        root: Under which ``proc`` and ``sys`` lie.
        pause: Waits so many seconds, while it is looked which cores are busy.

    Yields:
        The numbers of the cores, ascending; None where the system cannot pin, or would not.
    """
    if not hasattr(os, "sched_setaffinity") or not _TASKS.is_dir():
        yield None
        return
    allowed = os.sched_getaffinity(0)
    before = _masks()
    chosen = set(choose_cores(sorted(allowed), threads, root, pause))
    try:
        for thread in before:
            _move(thread, chosen)
        yield tuple(sorted(chosen)) if os.sched_getaffinity(0) == chosen else None
    finally:
        for thread in _masks():
            _move(thread, before.get(thread, allowed))


def allowed_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this thread may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def choose_cores(
    allowed: Sequence[int], threads: int, root: Path = Path("/"), pause: Callable[[float], None] = time.sleep
) -> list[int]:
    """Return the cores to measure on: among the fastest, each a core of its own, the least busy.

    A board may have fast and slow cores, and a core may show as two that share it. Ties go to the higher number, since
    the first core serves most interrupts.

    Args:
        allowed: Cores to choose from.
        threads: How many are wanted; all of them where there are no more.
        root: Under which ``proc`` and ``sys`` lie.
        pause: Waits so many seconds.
    """
    if threads >= len(allowed):
        return list(allowed)
    before = _busy_ticks(root)
    pause(_LOOKS_FOR_SECONDS)
    after = _busy_ticks(root)
    busy = {core: after.get(core, 0) - before.get(core, 0) for core in allowed}
    speeds = {core: _speed(core, root) for core in allowed}
    fastest = max(speeds.values())
    is_slow = {core: speeds[core] < _LIKE_THE_FASTEST * fastest for core in allowed}
    ranked = sorted(allowed, key=lambda core: (is_slow[core], busy[core], -core))
    seen: set[str] = set()
    is_second: dict[int, bool] = {}
    for core in ranked:
        siblings = _read(root / _CPUS / f"cpu{core}/topology/thread_siblings_list") or str(core)
        is_second[core] = siblings in seen
        seen.add(siblings)
    return sorted(ranked, key=lambda core: (is_slow[core], is_second[core]))[:threads]


def _masks() -> dict[int, set[int]]:
    """Return the cores that each thread of this process may use."""
    masks = {}
    for entry in _TASKS.iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            masks[int(entry.name)] = os.sched_getaffinity(int(entry.name))
    return masks


def _move(thread: int, cores: set[int]) -> None:
    with suppress(OSError):  # a thread that has ended, or a system that does not allow it
        os.sched_setaffinity(thread, cores)


def _busy_ticks(root: Path) -> dict[int, int]:
    """Return for how long each core has done something, all users together, in ticks of the system."""
    ticks = {}
    for line in (_read(root / "proc/stat") or "").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _waits, *interrupts = map(int, fields[:8])
            ticks[int(name[3:])] = user + nice + system + sum(interrupts)
    return ticks


def _speed(core: int, root: Path) -> float:
    folder = root / _CPUS / f"cpu{core}"
    return float(_read(folder / "cpu_capacity") or 1.0) * float(_read(folder / "cpufreq/cpuinfo_max_freq") or 1.0)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
