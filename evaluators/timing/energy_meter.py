"""What a machine says of the energy it takes: counters of the processor, power sensors of a board, or its battery.

Everything is read from files of Linux. Nothing here imports the rest of karui, so that the file can be sent to a device
as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol


class EnergyMeter(Protocol):
    """Counts energy."""

    @property
    def name(self) -> str:
        """What it reads, in a word or two."""

    def joules(self) -> float:
        """Return the energy taken since the first call, in joules; to be called every few runs at least."""


class CountedEnergy:
    """Counters of energy, as processors of Intel and AMD have them (RAPL, Linux's powercap).

    Args:
        folders: One for each package of the machine, each with ``energy_uj`` and ``max_energy_range_uj``.
    """

    name = "RAPL"

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._ranges = [float(_read(folder / "max_energy_range_uj") or 0.0) for folder in folders]
        self._last = [0.0 for _ in folders]
        self._microjoules: float | None = None

    def joules(self) -> float:
        """Return the energy since the first call; a counter that has begun anew since the last call is put right."""
        now = [float((folder / "energy_uj").read_text(encoding="ascii")) for folder in self._folders]
        if self._microjoules is None:
            self._microjoules = 0.0
        else:
            for value, before, span in zip(now, self._last, self._ranges, strict=True):
                self._microjoules += value - before + (span if value < before else 0.0)
        self._last = now
        return self._microjoules * 1e-6


class SensedPower:
    """A sensor of power, summed up over time (trapezoidal rule).

    Args:
        name: What is read.
        watts: Reads it.
        clock: Seconds that only grow.
    """

    def __init__(self, name: str, watts: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = name
        self._watts = watts
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._joules = 0.0

    def joules(self) -> float:
        """Return the energy since the first call."""
        now = self._clock(), self._watts()
        if self._last is not None:
            self._joules += (now[0] - self._last[0]) * (now[1] + self._last[1]) / 2
        self._last = now
        return self._joules


def find_meter(root: Path = Path("/"), clock: Callable[[], float] = time.perf_counter) -> EnergyMeter | None:
    """Return what tells the energy of this machine best, or None where nothing does.

    A sensor of the whole board comes first, then the processor's counters, then a battery that is not being charged.
    Counters that only the administrator may read are not there for others.

    Args:
        root: Under which ``sys`` lies.
        clock: Seconds that only grow.
    """
    for name, watts in _sensors(root):
        return SensedPower(name, watts, clock)
    packages = [
        folder
        for folder in sorted((root / "sys/class/powercap").glob("*-rapl:*"))
        if (_read(folder / "name") or "").startswith("package") and _read(folder / "energy_uj") is not None
    ]
    if packages:
        return CountedEnergy(packages)
    for watts in _batteries(root):
        return SensedPower("battery", watts, clock)
    return None


def _sensors(root: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield the INA sensors of a board; of several channels the one that all current comes in by."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _read(folder / "name") or ""
        if not name.startswith("ina"):
            continue
        if _read(folder / "power1_input") is not None:
            yield name, lambda folder=folder: _number(folder / "power1_input") * 1e-6  # type: ignore[misc]
            continue
        channels = [path.name[2:].split("_")[0] for path in sorted(folder.glob("in*_input"))]
        channels = [channel for channel in channels if _read(folder / f"curr{channel}_input") is not None]
        if channels:
            first = next((one for one in channels if "VDD_IN" in (_read(folder / f"in{one}_label") or "")), channels[0])
            volts, amperes = folder / f"in{first}_input", folder / f"curr{first}_input"
            yield name, _product(volts, amperes, 1e-6)


def _batteries(root: Path) -> Iterator[Callable[[], float]]:
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if _read(folder / "type") != "Battery" or _read(folder / "status") != "Discharging":
            continue
        if _read(folder / "power_now") is not None:
            yield lambda folder=folder: _number(folder / "power_now") * 1e-6  # type: ignore[misc]
        elif _read(folder / "current_now") is not None and _read(folder / "voltage_now") is not None:
            yield _product(folder / "voltage_now", folder / "current_now", 1e-12)


def _product(volts: Path, amperes: Path, factor: float) -> Callable[[], float]:
    return lambda: abs(_number(volts) * _number(amperes)) * factor


def _number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
