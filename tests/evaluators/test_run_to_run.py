"""Run-to-run noise: simulated files that are timed again and again are told apart as rarely as intervals promise."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from karui.evaluators.latency import LatencyEvaluator
from karui.evaluators.measurement import Measurement
from karui.evaluators.targets.target import Target
from karui.evaluators.timing.alternating import PairTiming, TimingSettings
from karui.evaluators.timing.run_to_run import RUN_TO_RUN, RunToRun, one_of_the_runs, together
from karui.spaces.artifact import Artifact

FILE = Artifact(Path("unused.onnx"), "00")


class NoisyTarget:
    """A target whose runs differ by more than what varies within them."""

    def __init__(self, between: float, within: float, seed: int) -> None:
        self._between, self._within = between, within
        self._chance = np.random.default_rng(seed)
        self.seconds = 0.0

    def time_pair(self, _reference: Path, _candidate: Path, _inputs: Any, settings: TimingSettings) -> PairTiming:
        self.seconds += settings.max_seconds
        ratio = 0.5 * (1 + self._chance.normal(0, self._between) + self._chance.normal(0, self._within))
        return PairTiming(2.0, 0.01, 2 * ratio, 2.5 * ratio, ratio, 1.96 * 0.5 * self._within, 20, (3, 6))

    def conditions(self) -> dict[str, Any]:
        return {"target": "noisy"}


def evaluator_on(target: NoisyTarget, seconds: float = 1.5) -> LatencyEvaluator:
    settings = TimingSettings(max_seconds=seconds)
    return LatencyEvaluator(cast("Target", target), FILE, np.zeros((1, 3), np.float32), settings, reference_ms=2.0)


def share_told_apart(found: list[Measurement]) -> float:
    pairs = list(combinations(found, 2))
    apart = [abs(one.value - other.value) > math.hypot(one.spread, other.spread) for one, other in pairs]
    return sum(apart) / len(pairs)


@pytest.mark.parametrize("between", [0.0, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("within", [0.002, 0.01])
def test_fourteen_measurements_of_one_file_are_hardly_ever_told_apart(between: float, within: float) -> None:
    shares = []
    for seed in range(40):
        evaluator = evaluator_on(NoisyTarget(between, within, seed))
        shares.append(share_told_apart([evaluator.measure(FILE)[1] for _ in range(14)]))
    assert np.mean(shares) < 0.06
    # as single runs, by what varied within them alone
    target = NoisyTarget(between, within, 0)
    runs = [target.time_pair(FILE.path, FILE.path, None, TimingSettings()) for _ in range(200)]
    alone = share_told_apart([Measurement("latency_ms", run.ratio, "ms", run.ratio_spread) for run in runs])
    assert alone > 0.25 or between <= 2 * within


def test_the_variance_between_runs_is_found() -> None:
    chance = np.random.default_rng(0)
    for between in (0.002, 0.02, 0.08):
        noise = RunToRun()
        for _ in range(2000):
            runs = 1 + chance.normal(0, between, 2) + chance.normal(0, 0.005, 2)
            noise.note(runs.tolist(), [1.96 * 0.005] * 2)
        # with a part of what varies within runs, of which none is counted below nothing
        assert 1.96 * between * 0.95 < noise.spread < 1.96 * math.hypot(between, 0.005) * 1.05


def test_before_anything_was_measured_it_is_what_was_known_before() -> None:
    noise = RunToRun()
    assert noise.spread == pytest.approx(RUN_TO_RUN)
    noise.note([0.5, 0.5], [0.0, 0.0])
    assert noise.spread == pytest.approx(RUN_TO_RUN * math.sqrt(4 / 5)), "one file, beside what counts as four"


def test_runs_that_agree_too_well_leave_no_negative_variance() -> None:
    noise = RunToRun()
    for _ in range(100):
        noise.note([0.5, 0.5], [0.1, 0.1])
    assert noise.spread == pytest.approx(RUN_TO_RUN * math.sqrt(4 / 104))


@pytest.mark.parametrize("blocks", [(2, 2), (2, 3), (10, 300), (10, 11)])
def test_both_runs_take_what_one_was_allowed(blocks: tuple[int, int]) -> None:
    settings = TimingSettings(min_blocks=blocks[0], max_blocks=blocks[1], max_seconds=3.0)
    assert 2 <= one_of_the_runs(settings).min_blocks <= one_of_the_runs(settings).max_blocks
    target = NoisyTarget(0.01, 0.01, 0)
    evaluator_on(target, seconds=3.0).measure(FILE)
    assert target.seconds == pytest.approx(3.0)


def test_runs_together_are_their_means() -> None:
    one = PairTiming(2.0, 0.03, 1.0, 1.5, 0.5, 0.006, 12, (3, 9), 0.1, {"frequency": 1})
    other = PairTiming(4.0, 0.04, 2.0, 2.5, 0.6, 0.008, 20, (2, 8), 0.3, {"frequency": 2})
    found = together([one, other])
    assert (found.reference_ms, found.candidate_ms, found.candidate_p95_ms) == (3.0, 1.5, 2.0)
    assert [found.ratio, found.ratio_spread] == pytest.approx([0.55, 0.005])
    assert found.reference_ms_spread == pytest.approx(0.025)
    assert (found.pairs, found.runs_per_block, found.machine) == (32, (3, 9), {"frequency": 2})
    assert found.waited_share == pytest.approx(0.2)


def test_what_varies_between_runs_is_told() -> None:
    ratio, milliseconds = evaluator_on(NoisyTarget(0.03, 0.01, 1)).measure(FILE)
    told = ratio.conditions["run_to_run"]
    assert len(ratio.conditions["ratios"]) == 2
    assert ratio.value == pytest.approx(np.mean(ratio.conditions["ratios"]))
    assert ratio.spread == pytest.approx(math.hypot(1.96 * 0.5 * 0.01 / math.sqrt(2), told * ratio.value))
    assert milliseconds.spread == pytest.approx(2 * ratio.spread)
