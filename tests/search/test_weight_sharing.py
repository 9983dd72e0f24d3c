"""Whether a network is followed further: by gains worked out by hand, and the same after a search was stopped."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from karui.evaluators.measurement import Measurement
from karui.search.executor import Evaluate, InProcess
from karui.search.heartbeat import Heartbeat
from karui.search.loop import Budget
from karui.search.outcome import Outcome, Result
from karui.search.proposals import FOLLOWER
from karui.search.record import TrialRecord
from karui.search.stopping.pruning_rules import PruningRules
from karui.search.trial_index import TrialIndex
from karui.search.weight_sharing import USUAL, WeightSharing, is_followed
from karui.spaces.artifact import StageRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace

from .conftest import Log, MakeLoop, known_outcome

BASELINE = {"size_bytes": 1000.0, "latency_ms": 10.0, "accuracy": 0.9}
A, B = "one network", "another"


def trial(
    smaller: float, faster: float, accuracy: float, seconds: float, *, feasible: bool = True, **candidate: object
) -> TrialRecord:
    """Return a trial whose file is e^smaller times smaller and e^faster times faster than the baseline."""
    values = (
        ("size_bytes", 1000.0 * math.exp(-smaller), "bytes"),
        ("latency_ms", 10.0 * math.exp(-faster), "ms"),
        ("accuracy", accuracy, "1"),
    )
    return TrialRecord(
        number=0,
        state="evaluated",
        stage="",
        reason="",
        parameters={},
        candidate=Candidate(**{"removed_channels": 0.5, **candidate}),  # type: ignore[arg-type]
        outcome=Outcome(
            {name: Measurement(name, value, unit) for name, value, unit in values},
            digest="",
            stages=(
                StageRecord("a stage", seconds / 2, cached=False),
                StageRecord("another", seconds / 2, cached=True),
            ),
        ),
        feasible=feasible,
        seconds=1e9,  # waiting included, which tells nothing
    )


def seen(*trials: tuple[TrialRecord, str]) -> WeightSharing:
    weight_sharing = WeightSharing(BASELINE)
    for record, network in trials:
        weight_sharing.learn(record, network)
    return weight_sharing


# The reference point has the baseline's size and latency, and 10 points less than its accuracy: 0.8. So the first of
# these dominates 1 x 1 x 0.1 = 0.1; the second 2 x 1 x 0.05 = 0.1, of which 1 x 1 x 0.05 is the first's: it wins 0.05.
FIRST = trial(1, 1, 0.9, 60.0), A
SECOND = 2.0, 1.0, 0.85
DOMINATED = 0.5, 0.5, 0.85


@pytest.mark.parametrize(("seconds", "expected"), [(130.0, True), (140.0, False)])
def test_a_first_follower_is_worth_what_first_followers_won(seconds: float, expected: bool) -> None:
    # Gains altogether: 0.97^3 x 0.1 + 0.97^2 x 0.05 = 0.1383 in 0.97^3 x 60 + (0.97^2 + 0.97) s + 60 = 114.76 + 1.911 s
    # seconds, where a follower takes s. 0.05 in s seconds is more than that a second below s = 134.
    weight_sharing = seen(
        FIRST, (trial(*SECOND, seconds), A), (trial(*DOMINATED, seconds), A), (trial(*DOMINATED, 60.0), B)
    )
    assert weight_sharing.is_worthwhile(B) is expected


@pytest.mark.parametrize(("seconds", "expected"), [(120.0, True), (128.0, False)])
def test_a_further_follower_is_worth_what_the_last_one_won(seconds: float, expected: bool) -> None:
    # The second follower is as small as the first one and as fast as e^-2, at 0.85: 2 x 2 x 0.05 = 0.2, of which
    # 2 x 1 x 0.05 was known: it wins 0.1. Altogether 0.97^2 x 0.1 + 0.97 x 0.05 + 0.1 = 0.2426 in 0.97^2 x 60 +
    # 1.97 s = 56.45 + 1.97 s seconds: 0.1 in s is more below s = 0.1 x 56.45 / (0.2426 - 0.197) = 124.
    weight_sharing = seen(FIRST, (trial(*SECOND, seconds), A), (trial(2, 2, 0.85, seconds), A))
    assert weight_sharing.is_worthwhile(A) is expected


def test_a_network_whose_last_follower_won_nothing_is_left() -> None:
    weight_sharing = seen(FIRST, (trial(*SECOND, 1.0), A), (trial(*DOMINATED, 1.0), A))
    assert not weight_sharing.is_worthwhile(A)


def test_what_breaks_a_bound_wins_nothing() -> None:
    kept = seen(FIRST, (trial(*SECOND, 1.0), A), (trial(2, 2, 0.85, 1.0), A))
    broken = seen(FIRST, (trial(*SECOND, 1.0), A), (trial(2, 2, 0.85, 1.0, feasible=False), A))
    assert (kept.is_worthwhile(A), broken.is_worthwhile(A)) == (True, False)


def test_before_anything_is_known_followers_are_as_many_as_usual() -> None:
    nothing = [(trial(-1, -1, 0.5, 60.0), A)]  # larger, slower and worse than the baseline
    decisions = []
    for _ in range(USUAL + 2):
        decisions.append(seen(*nothing).is_worthwhile(A))
        nothing.append((trial(-1, -1, 0.5, 1.0), A))
    assert decisions == [True] * USUAL + [False] * 2


def test_the_baseline_itself_widens_the_front_and_no_more() -> None:
    plain = trial(2, 2, 0.9, 60.0, removed_channels=0.0)
    assert not is_followed(plain)
    # Now nothing that is seen later wins anything.
    weight_sharing = seen((plain, "itself"), FIRST, (trial(*SECOND, 1.0), A), (trial(*SECOND, 1.0), A))
    assert weight_sharing.is_worthwhile(B)  # nothing was won: as usual
    assert not weight_sharing.is_worthwhile(A)


def test_training_with_rounded_weights_tells_nothing_of_followers() -> None:
    aware = trial(*SECOND, 1e6, weight_bits=4, bit_training="aware")
    weight_sharing = seen(FIRST, (trial(*DOMINATED, 1.0), A), (aware, A), (trial(2, 2, 0.85, 1.0), A))
    # Were its seconds counted as a follower's, none would be worth it: a follower takes one second, and won 0.1.
    assert weight_sharing.is_worthwhile(A)


class Several(InProcess):
    """Evaluates three candidates at a time: trials end in another order than they began."""

    size = 3
    is_here = False

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        time.sleep(0.01 * (number % 3))
        return super().run(number, candidate, gates)


def training() -> Evaluate:
    """Return what evaluates candidates in a known world, in which a new network takes a minute."""
    networks = {0.0}

    def evaluate(candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        new = candidate.removed_channels not in networks
        networks.add(candidate.removed_channels)
        stages = [StageRecord("latency", 1.5, cached=False), *[StageRecord("recovery", 60.0, cached=False)] * new]
        return replace(known_outcome(candidate), stages=tuple(stages))

    return evaluate


@pytest.mark.parametrize("executor", [InProcess, Several])
def test_a_search_that_goes_on_decides_as_it_would_have(make_loop: MakeLoop, executor: type[InProcess]) -> None:
    removed = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    space = SearchSpace(
        sparsity=SparsityAxis(removed_channels=removed, zeroed_weights=(0.0,)),
        bits=BitsAxis(weights=(2, 3, 4, 5, 6, 7, 8)),
    )
    evaluate = training()
    for trials in (12, 40):
        loop = make_loop(space=space, executor=executor(evaluate))
        loop.followers = "auto"
        loop.run(Budget(trials=trials), Log())
    study = loop.study
    # Told again from what the storage has, as a new process would read it.
    weight_sharing, decided = WeightSharing(loop.baseline), 0
    for record in TrialIndex(study, Heartbeat(study, exclusive=True)).take_in():
        network = str(record.parameters["sparsity.removed_channels"])
        weight_sharing.learn(record, network)
        decided += is_followed(record) and weight_sharing.is_worthwhile(network)
    queued = sum(FOLLOWER in each.user_attrs for each in study.get_trials())
    assert queued == decided
    assert 0 < decided < 40


def test_trials_are_taken_in_as_they_ended(make_loop: MakeLoop) -> None:
    study = make_loop().study
    first, second = study.ask(), study.ask()
    study.tell(second, (1.0, 1.0, 1.0))
    study.tell(first, (1.0, 1.0, 1.0))
    records = TrialIndex(study, Heartbeat(study, exclusive=True)).take_in()
    assert [record.number for record in records] == [second.number, first.number]
