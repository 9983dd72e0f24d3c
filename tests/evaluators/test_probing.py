"""Probes on targets whose times follow a law that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.errors import CandidateFailure
from karui.evaluators.probing import Lane, coarsest
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing.alternating import PairTiming, TimingSettings
from karui.spaces.building.probes.probe_layers import ProbedLayer
from karui.spaces.building.probes.variants import VARIANTS

SETTINGS = TimingSettings(min_blocks=2, max_seconds=0.02)


def timing(ratio: float, spread: float = 0.0) -> PairTiming:
    return PairTiming(1.0, 0.0, ratio, ratio, ratio, spread, 10, (1, 1))


class Stepped(LocalTarget):
    """Takes a time that grows with the square of the channels, rounded up to a multiple, and has no int8 kernels."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self._multiple = multiple

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: Any, settings: TimingSettings
    ) -> PairTiming:
        model = onnx.load(candidate_path)
        if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            raise CandidateFailure("latency", "no such kernel")
        return timing(self._time(candidate_path) / self._time(reference_path))

    def _time(self, path: Path) -> int:
        graph = onnx.load(path).graph
        channels: int = graph.output[0].type.tensor_type.shape.dim[1].dim_value
        return (-(-channels // self._multiple)) ** 2


@pytest.mark.parametrize("channels", [16, 24, 48])
@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
def test_the_multiple_is_the_one_that_times_are_rounded_to(multiple: int, channels: int, tmp_path: Path) -> None:
    lane = Lane(Stepped(multiple), ProbedLayer(channels, (3, 3), (4, 4)), SETTINGS, 1, tmp_path)
    (liked,) = lane.liked_multiple()
    assert liked.multiple == multiple
    top = channels // 16 * 16
    assert liked.times[str(top)] == pytest.approx((-(-top // multiple) / -(-channels // multiple)) ** 2)


def test_layers_of_several_groups_are_not_counted(tmp_path: Path) -> None:
    lane = Lane(Stepped(8), ProbedLayer(16, (3, 3), (4, 4), groups=16), SETTINGS, 1, tmp_path)
    assert list(lane.liked_multiple()) == []


@given(st.sampled_from([1, 2, 4, 8, 16]), st.floats(0.0, 0.02))
def test_noise_below_what_counts_changes_no_multiple(multiple: int, noise: float) -> None:
    times = {32 - step: timing(-(-(32 - step) // multiple) * multiple / 32 - noise) for step in (1, 2, 4, 8)}
    found = coarsest({32: timing(1.0), **times}, 32)
    assert found == multiple


def test_fewer_channels_that_even_take_longer_are_no_gain() -> None:
    times = {32: timing(1.0), 31: timing(1.6), 30: timing(1.5), 28: timing(1.0), 24: timing(0.6)}
    assert coarsest(times, 32) == 8


def test_a_wide_interval_tells_nothing_apart() -> None:
    times = {32: timing(1.0, 0.3), 31: timing(0.9, 0.3), 30: timing(0.5, 0.3)}
    assert coarsest(times, 32) == 2


def test_what_the_target_cannot_run_is_a_row_with_its_reason(tmp_path: Path) -> None:
    rows = {
        row.variant: row
        for row in Lane(Stepped(1), ProbedLayer(8, (3, 3), (4, 4), share=0.5), SETTINGS, 1, tmp_path).variants()
    }
    assert list(rows) == list(VARIANTS)
    assert {row.share for row in rows.values()} == {0.5}
    int8 = rows["8-bit weights and activations"]
    assert int8.time_ratio is None
    assert int8.reason == "no such kernel"
    assert rows["4-bit weights"].time_ratio == 1.0
    assert rows["half of the channels"].time_ratio == 0.25
    assert rows["4-bit weights"].size_ratio < rows["8-bit weights"].size_ratio < rows["float16 weights"].size_ratio < 1


def test_on_this_machine_everything_can_be_measured(tmp_path: Path) -> None:
    lane = Lane(LocalTarget(), ProbedLayer(8, (3, 3), (4, 4)), SETTINGS, 2, tmp_path)
    assert all(row.time_ratio is not None and row.time_ratio > 0 for row in lane.variants())
    (liked,) = lane.liked_multiple()
    assert set(liked.times) == {"8", "7", "6", "4"}
