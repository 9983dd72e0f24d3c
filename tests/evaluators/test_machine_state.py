"""What is read of the machine, from a system that the test makes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.evaluators.timing.machine_state import MachineState, describe_change, read_governor, read_state

from .fake_machine import account, write_files

CPU = "sys/devices/system/cpu/cpu"
PI_FLAGS = "sys/devices/platform/soc/soc:firmware/get_throttled"


def state(**changes: Any) -> MachineState:
    plain: dict[str, Any] = {
        "governor": None,
        "frequency_mhz": None,
        "temperature_c": None,
        "throttles": None,
        "is_throttled": False,
        "busy_ticks": 0,
        "ticks": 0,
        "own_seconds": 0.0,
    }
    return MachineState(**{**plain, **changes})


def test_everything_that_a_system_exposes_is_read_of_the_cores_used(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            f"{CPU}0/cpufreq/scaling_governor": "ondemand",
            f"{CPU}1/cpufreq/scaling_governor": "performance",
            f"{CPU}2/cpufreq/scaling_governor": "performance",
            f"{CPU}0/cpufreq/scaling_cur_freq": "600000",
            f"{CPU}1/cpufreq/scaling_cur_freq": "2400000",
            f"{CPU}2/cpufreq/scaling_cur_freq": "2000000",
            f"{CPU}1/thermal_throttle/core_throttle_count": "3",
            f"{CPU}2/thermal_throttle/package_throttle_count": "4",
            "sys/class/thermal/thermal_zone0/temp": "41500",
            "sys/class/thermal/thermal_zone1/temp": "63250",
            "proc/stat": account({0: (900, 100), 1: (20, 80), 2: (30, 70)}),
        },
    )
    found = read_state([1, 2], tmp_path, own_seconds=lambda: 1.25)
    assert found == MachineState("performance", 2200.0, 63.2, 7, False, 50, 200, 1.25)
    assert read_governor([0, 1], tmp_path) == "ondemand, performance"


def test_a_system_that_exposes_nothing_tells_nothing(tmp_path: Path) -> None:
    found = read_state([0], tmp_path, own_seconds=lambda: 0.5)
    assert found == state(own_seconds=0.5)
    assert describe_change(found, found, 100) == {}


def test_a_sensor_that_is_asleep_is_passed_over(tmp_path: Path) -> None:
    temperatures = {"thermal_zone0/temp": "", "thermal_zone1/temp": "50000"}
    write_files(tmp_path, {f"sys/class/thermal/{name}": text for name, text in temperatures.items()})
    assert read_state([0], tmp_path).temperature_c == 50.0


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        ("0x0", "0x0", False),
        ("0x50000", "0x50000", False),  # some time ago, but not now
        ("0x0", "0x40000", True),  # meanwhile
        ("0x50005", "0x50005", True),  # all the time
    ],
)
def test_a_raspberry_pi_says_by_flags_whether_it_is_slowed_down(
    tmp_path: Path, before: str, after: str, throttled: bool
) -> None:
    first, last = (read_state([0], write_files(tmp_path, {PI_FLAGS: flags})) for flags in (before, after))
    assert describe_change(first, last, 100) == {"throttled": throttled}


def test_a_change_is_told_before_and_after() -> None:
    before = state(governor="powersave", frequency_mhz=800.0, temperature_c=40.0, throttles=7)
    after = state(governor="powersave", frequency_mhz=2400.0, temperature_c=55.5, throttles=8)
    told = describe_change(before, after, 100)
    assert told == {
        "governor": "powersave",
        "frequency_mhz": [800.0, 2400.0],
        "temperature_c": [40.0, 55.5],
        "throttled": True,
    }
    assert json.loads(json.dumps(told)) == told


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_others_took_is_all_work_but_our_own(ours: int, others: int, idle: int) -> None:
    ticks = ours + others + idle
    told = describe_change(
        state(busy_ticks=5, ticks=9, own_seconds=2.0),
        state(busy_ticks=5 + ours + others, ticks=9 + ticks, own_seconds=2.0 + ours / 50),
        ticks_per_second=50,
    )
    if ticks < 10:
        assert told == {}, "a fifth of a second is too short to say"
    else:
        assert told["others_share"] == pytest.approx(others / ticks, abs=6e-4)
        if 10 * others != ticks:  # at a tenth exactly, seconds that are no whole number of ticks decide
            assert told["busy"] == (10 * others > ticks)


def test_this_very_machine_can_be_read() -> None:
    assert json.dumps(describe_change(read_state([0]), read_state([0])))
