"""Whether one more candidate of a trained network is worth its seconds, or a new network is: told by what either won.

What a candidate wins is the hypervolume by which it widened the front of its time, in the coordinates of
:func:`~karui.search.statistics.front.hypervolume`. A network's next candidate is expected to win as much as its last
one did, and is asked for where that is more a second than the search wins a second altogether: the marginal value
theorem (Charnov, Theoretical Population Biology 1976; there, when a forager leaves a patch), which counts for a new
network what its followers win as well.

Where training takes 40 times as long as the rest, ten searches of a known world found 94.0 % of the true hypervolume in
4,500 simulated seconds (2 followers each: 91.2 %, 3: 93.7 %, none: 91.3 %; standard errors of 1 to 1.4 points;
``benchmarks/search_cost.py``): more than with 2, and as much as with 3, a number that nobody has to find. A model with
more to it, means told apart by a follower's place and by whether its network had just won, found less in the first four
of these searches (93.6 % against 96.5 %), and asked for three times as many candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..spaces.building.recipe import trains_network, trains_on
from .objectives import OBJECTIVES
from .record import TrialRecord
from .statistics.front import HypervolumeHistory

Followers = int | Literal["auto"]
"""How many trials follow a newly trained network: as many each time, or as many as are worth it."""

USUAL = 2
"""How many followers a network has as long as nothing has been won, or hardly any follower was seen."""

SEEN_BEFORE = 2
"""So many followers tell what followers cost."""

KEPT_OF_KIND, KEPT_OF_ALL = 0.9, 0.97
"""What is left of a trial's weight with each that comes after it: among followers, and among all."""

_NAMES = tuple(objective.name for objective in OBJECTIVES)


@dataclass(frozen=True)
class Won:
    """What trials of a kind have won, the later ones counting for more.

    Args:
        gain: Weighted sum of the hypervolumes.
        seconds: Weighted sum of the seconds.
        trials: Sum of the weights.
    """

    gain: float = 0.0
    seconds: float = 0.0
    trials: float = 0.0

    def after(self, gain: float, seconds: float, kept: float) -> Won:
        """Return this with one more trial, of what was before so much being kept."""
        return Won(kept * self.gain + gain, kept * self.seconds + seconds, kept * self.trials + 1.0)

    @property
    def mean_gain(self) -> float:
        """Hypervolume of a trial; 0 without any."""
        return self.gain / self.trials if self.trials else 0.0


class WeightSharing:
    """Learns from trials what followers win; the same trials in the same order make it decide alike.

    It takes as long after many trials as after few, but for the size of the front.

    Args:
        baseline: The baseline's value of each objective.
    """

    def __init__(self, baseline: Mapping[str, float]) -> None:
        self._hypervolumes = HypervolumeHistory(tuple(baseline[name] for name in _NAMES))
        self._networks: dict[str, tuple[int, float]] = {}
        self._altogether = Won()
        self._followers = Won()
        self._first_followers = Won()
        self._followers_seen = 0

    def learn(self, record: TrialRecord, network: str) -> None:
        """Take up a trial that has ended.

        Args:
            record: The trial.
            network: Tells its network from others.
        """
        if record.outcome is None or record.is_promoted:
            return
        gain = self._hypervolumes.add(record.number, record.values(_NAMES), record.feasible)
        if not is_followed(record):
            return
        seconds = sum(stage.seconds for stage in record.outcome.stages)
        count, _ = self._networks.get(network, (0, 0.0))
        self._networks[network] = count + 1, gain
        self._altogether = self._altogether.after(gain, seconds, KEPT_OF_ALL)
        if not count or record.candidate is None or trains_on(record.candidate):
            return  # what is trained on after its network is dear, and followers are not
        self._followers_seen += 1
        self._followers = self._followers.after(gain, seconds, KEPT_OF_KIND)
        if count == 1:
            self._first_followers = self._first_followers.after(gain, seconds, KEPT_OF_KIND)

    def is_worthwhile(self, network: str) -> bool:
        """Say whether one more candidate of a trained network is to be queued.

        The next one is expected to win what the last one of its network did; the first follower at least as much as
        first followers do.
        """
        count, expected = self._networks.get(network, (0, 0.0))
        if self._followers_seen < SEEN_BEFORE or not self._altogether.gain:
            return count <= USUAL
        if count == 1:
            expected = max(expected, self._first_followers.mean_gain)
        followers, altogether = self._followers, self._altogether
        # expected / (seconds of a follower) > gain of all / seconds of all, with nothing to divide by
        return expected * followers.trials * altogether.seconds > altogether.gain * followers.seconds


def is_followed(record: TrialRecord) -> bool:
    """Say whether a trial was evaluated whose network was trained, for as many epochs as others."""
    if record.outcome is None or record.candidate is None or record.is_promoted:
        return False
    return trains_network(record.candidate)
