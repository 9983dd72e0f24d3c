"""Energy: what meters read of a system that the test makes up, and what comes of two functions beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import KaruiError
from karui.evaluators.energy import EnergyEvaluator
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing.alternating import TimingSettings
from karui.evaluators.timing.energy_meter import CountedEnergy, SensedPower, find_meter
from karui.evaluators.timing.energy_timing import PairEnergy, meter_interleaved
from karui.spaces.artifact import Artifact

from .fake_machine import write_files

RAPL = "sys/class/powercap/intel-rapl"
INPUTS = np.ones((2, 3), np.float32)


def package(number: int, microjoules: int, name: str = "package") -> dict[str, str]:
    folder = f"{RAPL}:{number}"
    return {
        f"{folder}/name": f"{name}-{number}",
        f"{folder}/energy_uj": str(microjoules),
        f"{folder}/max_energy_range_uj": "1000000",
    }


def test_counters_of_all_packages_are_summed_and_wrap_around(tmp_path: Path) -> None:
    write_files(tmp_path, package(0, 900_000) | package(1, 100_000) | package(2, 5, name="psys"))
    meter = find_meter(tmp_path)
    assert isinstance(meter, CountedEnergy)
    assert meter.joules() == 0.0
    write_files(tmp_path, package(0, 950_000) | package(1, 300_000) | package(2, 999))
    assert meter.joules() == pytest.approx(0.25)
    write_files(tmp_path, package(0, 50_000) | package(1, 300_000))  # from 950,000 on over 1,000,000
    assert meter.joules() == pytest.approx(0.35)
    write_files(tmp_path, package(0, 950_000) | package(1, 300_001))
    assert meter.joules() == pytest.approx(1.250001)


def test_power_is_summed_up_over_time() -> None:
    moments = iter([(0.0, 2.0), (1.0, 4.0), (3.0, 1.0)])
    now = (0.0, 0.0)

    def clock() -> float:
        nonlocal now
        now = next(moments)
        return now[0]

    meter = SensedPower("ina226", lambda: now[1], clock)
    assert [meter.joules() for _ in range(3)] == pytest.approx([0.0, 3.0, 8.0])


HWMON = "sys/class/hwmon/hwmon"
BATTERY = "sys/class/power_supply/BAT0"
INA3221 = {
    f"{HWMON}1/name": "ina3221",
    **{f"{HWMON}1/in{channel}_input": "5000" for channel in (1, 2)},
    **{f"{HWMON}1/curr{channel}_input": str(800 * channel) for channel in (1, 2)},
    f"{HWMON}1/in1_label": "VDD_CPU",
    f"{HWMON}1/in2_label": "VDD_IN",
}
INA226 = {f"{HWMON}0/name": "ina226", f"{HWMON}0/power1_input": "3500000"}
OTHER_SENSOR = {f"{HWMON}0/name": "coretemp", f"{HWMON}0/power1_input": "1"}
DISCHARGING = {f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Discharging"}


@pytest.mark.parametrize(
    ("files", "name", "watts"),
    [
        (INA226, "ina226", 3.5),
        (INA3221 | OTHER_SENSOR | package(0, 1), "ina3221", 8.0),
        (DISCHARGING | {f"{BATTERY}/power_now": "6000000"}, "battery", 6.0),
        (DISCHARGING | {f"{BATTERY}/current_now": "-2000000", f"{BATTERY}/voltage_now": "4000000"}, "battery", 8.0),
        (DISCHARGING | {f"{BATTERY}/power_now": "1"} | package(0, 1), "RAPL", None),
        ({f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Charging", f"{BATTERY}/power_now": "6"}, None, None),
        (OTHER_SENSOR | {f"{RAPL}:0/name": "package-0"}, None, None),  # the counter may not be read
        ({}, None, None),
    ],
)
def test_the_best_meter_is_found(tmp_path: Path, files: dict[str, str], name: str | None, watts: float | None) -> None:
    seconds = iter([10.0, 12.0])
    meter = find_meter(write_files(tmp_path, files), clock=lambda: next(seconds))
    assert (meter.name if meter else None) == name
    if meter is not None and watts is not None:
        meter.joules()
        assert meter.joules() == pytest.approx(2 * watts)


class FakeWorld:
    """Time and energy that only move when there is work."""

    name = "world"

    def __init__(self, idle_watts: float = 0.0) -> None:
        self.seconds = 0.0
        self.total = 0.0
        self.order = ""
        self._idle_watts = idle_watts

    def clock(self) -> float:
        return self.seconds

    def joules(self) -> float:
        return self.total

    def work(self, name: str, seconds: float, watts: float) -> Callable[[], object]:
        def run() -> None:
            self.order += name if not self.order.endswith(name) else ""
            self.seconds += seconds
            self.total += seconds * (watts + self._idle_watts)

        return run


@given(
    reference=st.tuples(st.floats(1e-4, 0.3), st.floats(0.5, 50.0)),
    candidate=st.tuples(st.floats(1e-4, 0.3), st.floats(0.5, 50.0)),
    idle_watts=st.floats(0.0, 10.0),
)
@settings(max_examples=25, deadline=None)
def test_energy_of_a_run_is_its_time_by_the_power_meanwhile(
    reference: tuple[float, float], candidate: tuple[float, float], idle_watts: float
) -> None:
    world = FakeWorld(idle_watts)
    works = world.work("R", *reference), world.work("C", *candidate)
    found = meter_interleaved(*works, world, max_seconds=0.1, clock=world.clock)
    assert found is not None
    wanted = [1e3 * seconds * (watts + idle_watts) for seconds, watts in (reference, candidate)]
    assert (found.reference_mj, found.candidate_mj) == pytest.approx(tuple(wanted))
    assert found.pairs == 4
    assert found.ratio == pytest.approx(wanted[1] / wanted[0])
    assert world.order == "RCRCR", "R C, C R, R C, C R"
    assert PairEnergy(**found.to_dict()) == found


def test_a_meter_that_stands_still_tells_nothing() -> None:
    world = FakeWorld()
    works = world.work("R", 0.1, 0.0), world.work("C", 0.1, 5.0)
    assert meter_interleaved(*works, world, max_seconds=0.1, clock=world.clock) is None


def test_a_target_without_a_meter_says_what_it_looked_for(tmp_path: Path, scaling: Artifact) -> None:
    evaluator = EnergyEvaluator(LocalTarget(root=tmp_path), scaling, INPUTS, TimingSettings())
    with pytest.raises(KaruiError, match=r"(?s)cannot be measured on this target.*RAPL.*max_energy out of"):
        evaluator.measure(scaling)


def test_energy_of_a_file_is_measured_beside_the_reference(tmp_path: Path, scaling: Artifact) -> None:
    sensor = write_files(tmp_path / "root", INA226)
    evaluator = EnergyEvaluator(LocalTarget(root=sensor), scaling, INPUTS, TimingSettings(max_seconds=0.01))
    energy, ratio = evaluator.measure(scaling)
    assert (energy.name, energy.unit, ratio.name, ratio.unit) == ("energy_mj", "mJ", "energy_ratio", "1")
    assert energy.conditions["meter"] == "ina226"
    assert energy.value > 0
    assert ratio.value > 0
