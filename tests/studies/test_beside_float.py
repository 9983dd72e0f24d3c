"""Files of 8-bit activations that are slower than the float32 file of the same network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from karui.errors import CandidateFailure
from karui.evaluators.timing.alternating import TimingSettings
from karui.studies.measuring.beside_float import slower_than_float


@dataclass
class Targets:
    """Two targets that have timed what is asked for already."""

    ratios: dict[str, tuple[float, float]]

    @property
    def has_several(self) -> bool:
        return len(self.ratios) > 1

    def on_each(self, work: Callable[[str, Any], Any]) -> list[Any]:
        found = []
        for name, (ratio, spread) in self.ratios.items():
            timing = SimpleNamespace(ratio=ratio, ratio_spread=spread)
            found.append(work(name, SimpleNamespace(time_pair=lambda *_given, timing=timing: timing)))
        return found


def told(**ratios: tuple[float, float]) -> list[str]:
    inputs = np.zeros((1, 2), np.float32)
    return slower_than_float(Path("twin"), Path("file"), inputs, TimingSettings(), Targets(ratios))  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [(0.5, 0.01), (1.0, 0.05), (1.04, 0.02), (1.5, 0.6)])
def test_what_is_not_slower_beyond_the_interval_is_not_told(ratio: tuple[float, float]) -> None:
    assert told(here=ratio) == []


def test_what_is_slower_is_told_with_its_ratio_and_where() -> None:
    (sentence,) = told(here=(1.5, 0.1))
    assert "slower than it is in float32: 1.50 ± 0.10 times as long" in sentence
    (sentence,) = told(one=(0.5, 0.1), other=(2.0, 0.1))
    assert sentence.startswith("on other, ")


def test_a_twin_that_cannot_be_timed_tells_nothing() -> None:
    class Failing(Targets):
        def on_each(self, work: Callable[[str, Any], Any]) -> list[Any]:
            raise CandidateFailure("latency", "no such operator")

    inputs = np.zeros((1, 2), np.float32)
    assert slower_than_float(Path("a"), Path("b"), inputs, TimingSettings(), Failing({})) == []  # type: ignore[arg-type]
