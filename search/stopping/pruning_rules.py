"""Gates: what stops a candidate before it is dear; plain data, so that they travel to wherever it is made.

A candidate is beaten by a rival only where that dominates it beyond noise, as :mod:`karui.search.statistics.noise` has
it: the difference of two values that were measured has to be more than the root of the sum of their squared spreads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...evaluators.measurement import metric_text
from ..outcome import PEERS, LearningCurve, PastTraining, Stop, optimistic_end

RuleCheck = Literal["draft", "rungs"]
"""When a candidate is looked at: before its training, by an untrained proxy of its file; and while it trains."""

GATES = ("size", "latency", "front", "rung")
"""The gates in their order: a bound on size, a bound on latency, the front before training, and a rung of training."""

SIZE_SLACK = 0.10
"""By what share a file may turn out smaller than its proxy. Of 34 candidates of all kinds on the bundled digits, none
was more than 5 % smaller: those of 2 bits with half of the weights zero, where packing turns on how many more are
rounded to zero. Most were within 1 %."""

LATENCY_SLACK = 0.10
"""By what share it may turn out faster, beyond the intervals of latencies. Of the same 34, none was more than 6 %
faster, as two timings of one file may differ on a busy machine; half were within 1.6 %."""


@dataclass(frozen=True)
class UntrainedProxy:
    """What was measured of a candidate's proxy.

    Args:
        size_bytes: Of its file.
        latency_ms: Of its file.
        latency_spread_ms: Half the width of the 95 % interval.
    """

    size_bytes: float
    latency_ms: float
    latency_spread_ms: float

    @property
    def least_bytes(self) -> float:
        """The smallest that the candidate's own file may be."""
        return least_bytes(self.size_bytes)

    @property
    def least_ms(self) -> float:
        """The fastest that the candidate's own file may be."""
        return self.least_ms_beside(0.0)

    def least_ms_beside(self, spread_ms: float) -> float:
        """Return the fastest that it may be, beside a latency of that spread: by as much they differ beyond noise.

        Args:
            spread_ms: Half the width of the other latency's 95 % interval.
        """
        kept = 1.0 - LATENCY_SLACK
        return max(0.0, self.latency_ms * kept - math.hypot(self.latency_spread_ms * kept, spread_ms))


@dataclass(frozen=True)
class Rival:
    """A point of the front that others may be dominated by.

    Args:
        trial: Its number.
        size_bytes: Of its file.
        latency_ms: Of its file.
        accuracy: Of its file.
        latency_spread_ms: Half the width of the latency's 95 % interval.
        accuracy_spread: The same of the accuracy.
    """

    trial: int
    size_bytes: float
    latency_ms: float
    accuracy: float
    latency_spread_ms: float = 0.0
    accuracy_spread: float = 0.0


@dataclass(frozen=True)
class PruningRules:
    """What one candidate has to pass, given what is known when it begins.

    Args:
        front: Feasible points that no other one dominates.
        hoped_accuracy: What an untrained candidate is supposed to reach: the baseline's accuracy, or the best that any
            candidate had. It is a hope and no measurement, and as the best of many it has their luck in it already: no
            noise is added to it.
        baseline_ms: The baseline's latency, for ratios in reasons.
        accuracy_noise: How far a measured accuracy may lie from the true one; added to every projection, and beside a
            rival's accuracy together with that one's own spread.
        most_bytes: Bound on size.
        most_ms: Bound on latency.
        least_accuracy: Bound on accuracy.
        past: Trainings that went to their end.
        checks: When the candidate is looked at.
        tested: Gates that let this candidate through even where they say stop, to see what would have become of it.
    """

    front: tuple[Rival, ...]
    hoped_accuracy: float
    baseline_ms: float
    accuracy_noise: float = 0.0
    most_bytes: float = math.inf
    most_ms: float = math.inf
    least_accuracy: float = -math.inf
    past: tuple[PastTraining, ...] = ()
    checks: tuple[RuleCheck, ...] = ("draft", "rungs")
    tested: frozenset[str] = frozenset()

    def check_size(self, size_bytes: float) -> Stop | None:
        """Return why an untrained proxy of this size is stopped, before its latency is known; None where it passes."""
        smallest = least_bytes(size_bytes)
        if "draft" not in self.checks or smallest <= self.most_bytes:
            return None
        reason = (
            f"an untrained proxy of {_kilobytes(size_bytes)}, where at most {_kilobytes(self.most_bytes)} are allowed"
        )
        return Stop("size", reason, _share(smallest, self.most_bytes))

    def wants_latency(self, size_bytes: float) -> bool:
        """Say whether it makes a difference how fast an untrained proxy of this size is; measuring that takes a second
        or so."""
        if not math.isinf(self.most_ms):
            return True
        # A rung may come to expect anything; before training it is clear what to hope for.
        at_rungs = "rungs" in self.checks and len(self.past) >= PEERS
        accuracy = -math.inf if at_rungs else self.hoped_accuracy
        smallest = least_bytes(size_bytes)
        return any(rival.size_bytes < smallest and rival.accuracy >= accuracy for rival in self.front)

    def check_untrained_proxy(self, proxy: UntrainedProxy) -> Stop | None:
        """Return why a candidate is stopped before its training, or None where it passes.

        What counts against it lies beyond the slack between untrained proxies and files, and beyond the interval of
        its latency; against the front beyond that of the rival's latency as well.
        """
        if "draft" not in self.checks:
            return None
        if (stop := self.check_size(proxy.size_bytes)) is not None:
            return stop
        if proxy.least_ms > self.most_ms:
            allowed = f"at most {self._ratio(self.most_ms)} is allowed"
            reason = f"an untrained proxy of {self._ratio(proxy.latency_ms)} the baseline's latency, where {allowed}"
            return Stop("latency", reason, _share(proxy.least_ms, self.most_ms))
        beaten = self._beaten("front", proxy, lambda _: self.hoped_accuracy)
        if beaten is None:
            return None
        known = f"even at an accuracy of {metric_text(self.hoped_accuracy)}"
        return Stop("front", f"{beaten.reason} {known}", beaten.excess)

    def check_rung(self, proxy: UntrainedProxy | None, curve: LearningCurve) -> Stop | None:
        """Return why a candidate is stopped at this point of its training, or None where it goes on.

        Args:
            proxy: What it was before training; where there was none, only the bound on accuracy can stop it.
            curve: Its training so far.
        """
        expected = optimistic_end(curve, self.past) if "rungs" in self.checks else None
        if expected is None:
            return None
        projected = expected + self.accuracy_noise
        epoch = len(curve.metrics)
        standing = metric_text(curve.standing(epoch))
        told = f"epoch {epoch} of {curve.epochs}, {standing}, at most {metric_text(projected)} in the end"
        if projected < self.least_accuracy:
            missing = (self.least_accuracy - projected) / (abs(self.least_accuracy) or 1.0)
            return Stop("rung", f"{told}, where at least {metric_text(self.least_accuracy)} is needed", missing)
        if proxy is None:
            return None
        beaten = self._beaten("rung", proxy, lambda rival: expected + self._noise_beside(rival))
        return None if beaten is None else Stop("rung", f"{told}; {beaten.reason}", beaten.excess)

    def _noise_beside(self, rival: Rival) -> float:
        return math.hypot(self.accuracy_noise, rival.accuracy_spread)

    def _beaten(self, gate: str, proxy: UntrainedProxy, needed: Callable[[Rival], float]) -> Stop | None:
        """Return how a candidate would be dominated beyond noise, or None where it would not.

        Args:
            gate: That says so.
            proxy: Of the candidate.
            needed: The accuracy that a rival must have to beat it.
        """
        best: Stop | None = None
        for rival in self.front:
            least_ms = proxy.least_ms_beside(rival.latency_spread_ms)
            # The nearer of the two is by what it is beaten at least.
            excess = min(_share(proxy.least_bytes, rival.size_bytes), _share(least_ms, rival.latency_ms))
            if rival.accuracy >= needed(rival) and excess > (best.excess if best else 0.0):
                best = Stop(gate, f"{self._describe(proxy)}: dominated by {self._describe_rival(rival)}", excess)
        return best

    def _describe(self, proxy: UntrainedProxy) -> str:
        return f"an untrained proxy of {_kilobytes(proxy.size_bytes)} and {self._ratio(proxy.latency_ms)} latency"

    def _describe_rival(self, rival: Rival) -> str:
        ratio = self._ratio(rival.latency_ms)
        return f"trial {rival.trial} ({_kilobytes(rival.size_bytes)}, {ratio}, {metric_text(rival.accuracy)})"

    def _ratio(self, latency_ms: float) -> str:
        return f"{latency_ms / self.baseline_ms:.3f}x"


def least_bytes(proxy_bytes: float) -> float:
    """Return the smallest that a file may be whose proxy has that size."""
    return proxy_bytes * (1.0 - SIZE_SLACK)


def _share(value: float, limit: float) -> float:
    """Return by what share a value lies above a limit."""
    return value / limit - 1.0 if limit > 0.0 else math.inf


def _kilobytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e3:.1f} KB"
