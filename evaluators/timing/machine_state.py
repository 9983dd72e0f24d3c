"""How the machine is while something is measured: governor, frequency, temperature, throttling, and who else works.

Everything is read from files of Linux; what a system does not expose is left out. Nothing here imports the rest of
karui, so that the file can be sent to a device as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY_SHARE = 0.1
"""The share of the cores used that others may take before the machine is called busy."""

_SHORTEST_LOOK_SECONDS = 0.2
_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class MachineState:
    """The machine at one moment; None where the system does not tell.

    Args:
        governor: What governs the frequency of the cores, such as ``performance``.
        frequency_mhz: Mean of the cores.
        temperature_c: Of the hottest thermal zone.
        throttles: How often the processor has slowed itself down since it started, or the flags of a Raspberry Pi.
        is_throttled: Whether it does so now, as far as it tells.
        busy_ticks: For how long the cores have worked, all users together.
        ticks: For how long the cores have been there.
        own_seconds: For how long this process has worked.
    """

    governor: str | None
    frequency_mhz: float | None
    temperature_c: float | None
    throttles: int | None
    is_throttled: bool
    busy_ticks: int
    ticks: int
    own_seconds: float


def read_state(
    cores: Sequence[int], root: Path = Path("/"), own_seconds: Callable[[], float] = time.process_time
) -> MachineState:
    """Return how the machine is now.

    Args:
        cores: The cores that are used.
        root: Under which ``proc`` and ``sys`` lie.
        own_seconds: For how long this process has worked so far.
    """
    # Seldom that fast, but a frequency of the moment is all that some systems tell.
    frequencies = list(_numbers(root, [f"{_CPUS}/cpu{core}/cpufreq/scaling_cur_freq" for core in cores]))
    temperatures = list(_numbers(root, _matches(root, "sys/class/thermal", "thermal_zone*/temp")))
    busy, ticks = _ticks(cores, root)
    throttles, is_throttled = _throttles(cores, root)
    return MachineState(
        governor=read_governor(cores, root),
        frequency_mhz=round(sum(frequencies) / len(frequencies) / 1e3, 1) if frequencies else None,
        temperature_c=round(max(temperatures) / 1e3, 1) if temperatures else None,
        throttles=throttles,
        is_throttled=is_throttled,
        busy_ticks=busy,
        ticks=ticks,
        own_seconds=own_seconds(),
    )


def read_governor(cores: Sequence[int], root: Path = Path("/")) -> str | None:
    """Return what governs the frequency of these cores; several names where they differ, None where none is told."""
    names = {_read(root / f"{_CPUS}/cpu{core}/cpufreq/scaling_governor") for core in cores} - {None}
    return ", ".join(sorted(str(name) for name in names)) or None


def describe_change(before: MachineState, after: MachineState, ticks_per_second: int | None = None) -> dict[str, Any]:
    """Return what happened to the machine between two moments, JSON types; what is not told is left out.

    Args:
        before: When measuring began.
        after: When it ended.
        ticks_per_second: Of the system's accounts; those of this system where left out.

    Returns:
        ``governor``; ``frequency_mhz`` and ``temperature_c``, each before and after; ``throttled``, whether the
        processor slowed itself down meanwhile; ``others_share``, the share of the cores used that other processes took;
        ``busy``, whether that is more than :data:`BUSY_SHARE`.
    """
    told: dict[str, Any] = {}
    if after.governor is not None:
        told["governor"] = after.governor
    for name in ("frequency_mhz", "temperature_c"):
        values = [getattr(before, name), getattr(after, name)]
        if None not in values:
            told[name] = values
    if before.throttles is not None and after.throttles is not None:
        told["throttled"] = after.throttles != before.throttles or before.is_throttled or after.is_throttled
    share = _others_share(before, after, ticks_per_second or _ticks_per_second())
    if share is not None:
        told |= {"others_share": round(share, 3), "busy": share > BUSY_SHARE}
    return told


def _others_share(before: MachineState, after: MachineState, ticks_per_second: int) -> float | None:
    ticks = after.ticks - before.ticks
    # The accounts go by ticks of a hundredth of a second or so: over less than this they say nothing.
    if ticks < _SHORTEST_LOOK_SECONDS * ticks_per_second:
        return None
    own = (after.own_seconds - before.own_seconds) * ticks_per_second
    return max(0.0, after.busy_ticks - before.busy_ticks - own) / ticks


def _ticks_per_second() -> int:
    return int(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100


def _ticks(cores: Sequence[int], root: Path) -> tuple[int, int]:
    """Return for how long these cores have worked, and for how long they have been there; proc(5)."""
    wanted = {f"cpu{core}" for core in cores}
    busy = total = 0
    for line in (_read(root / "proc/stat") or "").splitlines():
        name, *fields = line.split()
        if name in wanted:
            # What a virtual machine's host took from it, the eighth, is work of others as well.
            user, nice, system, idle, waits, *interrupts = map(int, fields[:8])
            busy += user + nice + system + sum(interrupts)
            total += user + nice + system + sum(interrupts) + idle + waits
    return busy, total


def _throttles(cores: Sequence[int], root: Path) -> tuple[int | None, bool]:
    # Of a Raspberry Pi, hexadecimal: the lowest four bits say what is so now, others what was since it started.
    flags = _read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if flags is not None:
        return int(flags, 16), bool(int(flags, 16) & 0b1111)
    folders = [f"{_CPUS}/cpu{core}/thermal_throttle" for core in cores]
    kinds = ("core_throttle_count", "package_throttle_count")
    counts = list(_numbers(root, [f"{folder}/{kind}" for folder in folders for kind in kinds]))
    return int(sum(counts)) if counts else None, False


def _matches(root: Path, folder: str, pattern: str) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in (root / folder).glob(pattern))


def _numbers(root: Path, names: Sequence[str]) -> Iterator[float]:
    for name in names:
        text = _read(root / name)
        try:
            yield float(text or "")
        except ValueError:  # nothing there, or a sensor that is asleep
            continue


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
