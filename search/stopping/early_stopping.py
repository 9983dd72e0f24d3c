"""Early stopping: what was found so far made into rules for the next candidate, and its way through them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import CandidateStopped
from ..objectives import OBJECTIVES, Objective
from ..outcome import LearningCurve, PastTraining, Stop, is_rung
from ..record import Outcome, TrialRecord
from ..statistics.front import pareto_mask
from .pruning_rules import GATES, PruningRules, Rival, RuleCheck, UntrainedProxy


class EarlyStopping:
    """Meets the gates one after the other, and takes down the candidate's learning curves.

    A candidate that a gate lets through as a test goes to the end, whatever later gates say: what becomes of it is
    to tell whether that one gate was right.

    Args:
        gates: None where there are none; learning curves are taken down all the same.
    """

    def __init__(self, gates: PruningRules | None) -> None:
        self.gates = gates
        self.let_through: Stop | None = None
        self._proxy: UntrainedProxy | None = None
        self._metrics: dict[tuple[str, int], list[float]] = {}

    @property
    def curves(self) -> tuple[LearningCurve, ...]:
        """The curves so far, in the order of the trainings."""
        return tuple(LearningCurve(kind, epochs, tuple(found)) for (kind, epochs), found in self._metrics.items())

    def size(self, size_bytes: float) -> None:
        """Meet the bound on size with an untrained proxy's.

        Raises:
            CandidateStopped: Where it ends here.
        """
        self._meet(self.gates.check_size(size_bytes) if self.gates else None)

    def untrained_proxy(self, proxy: UntrainedProxy) -> None:
        """Meet what can be known before training.

        Raises:
            CandidateStopped: Where it ends here.
        """
        self._proxy = proxy
        self._meet(self.gates.check_untrained_proxy(proxy) if self.gates else None)

    def on_epoch(self, kind: str, epochs: int, epoch: int, metric: float) -> None:
        """Take down an epoch of training, and meet the gate where it is a rung.

        Raises:
            CandidateStopped: Where it ends here.
        """
        metrics = self._metrics.setdefault((kind, epochs), [])
        metrics.append(metric)
        if self.gates is not None and is_rung(epoch, epochs):
            self._meet(self.gates.check_rung(self._proxy, LearningCurve(kind, epochs, tuple(metrics))))

    def _meet(self, stop: Stop | None) -> None:
        if stop is None or self.gates is None or self.let_through is not None:
            return
        if stop.gate not in self.gates.tested:
            raise CandidateStopped(stop.gate, stop.reason, stop.excess)
        self.let_through = stop


_FIRST = len(OBJECTIVES)


@dataclass
class PruningPolicy:
    """Makes the gates of each candidate from the trials before it.

    Where a study has further objectives, of which an untrained proxy tells nothing, gates hold bounds only: whoever is
    dominated in size, latency and accuracy may be the best in another.

    Args:
        objectives: Size, latency and accuracy, with their bounds; further ones after them.
        baseline: The baseline's value of each.
        checks: When candidates are looked at.
        audit: Share of the candidates that a gate would stop which are let through, to measure how often gates are
            wrong; drawn by the candidate's key, the same at every run. The first at each gate is always among them,
            unless the share is 0.
        seed: Seed of that draw.
    """

    objectives: Sequence[Objective]
    baseline: Mapping[str, float]
    checks: tuple[RuleCheck, ...] = ("draft", "rungs")
    audit: float = 0.1
    seed: int = 0
    _evaluated: list[TrialRecord] = field(default_factory=list, init=False)
    _tested: set[str] = field(default_factory=set, init=False)

    def begin(self, records: Sequence[TrialRecord]) -> None:
        """Forget what was learnt, and take up the trials of earlier runs."""
        self._evaluated.clear()
        self._tested.clear()
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Take up a trial that has ended; what was promoted is no measure for candidates of fewer epochs."""
        if record.outcome is not None and not record.is_promoted:
            self._evaluated.append(record)
            if record.outcome.let_through is not None:
                self._tested.add(record.outcome.let_through.gate)

    def gates_for(self, key: str) -> PruningRules:
        """Return the gates of the candidate with that key, as they stand now."""
        outcomes = [record.outcome for record in self._evaluated if record.outcome is not None]
        accuracies = [outcome.measurements["accuracy"] for outcome in outcomes]
        limits = [
            None if objective.bound is None else objective.bound.resolve(self.baseline[objective.name])
            for objective in self.objectives[:_FIRST]
        ]
        most_bytes, most_ms, least_accuracy = limits
        return PruningRules(
            front=self._front(),
            hoped_accuracy=max([self.baseline["accuracy"], *(accuracy.value for accuracy in accuracies)]),
            baseline_ms=self.baseline["latency_ms"],
            accuracy_noise=float(np.median([accuracy.spread for accuracy in accuracies])) if accuracies else 0.0,
            most_bytes=math.inf if most_bytes is None else most_bytes,
            most_ms=math.inf if most_ms is None else most_ms,
            least_accuracy=-math.inf if least_accuracy is None else least_accuracy,
            past=tuple(training for outcome in outcomes for training in _trainings(outcome)),
            checks=self.checks,
            tested=frozenset(gate for gate in GATES if self._is_tested(gate, key)),
        )

    def _front(self) -> tuple[Rival, ...]:
        if len(self.objectives) > _FIRST:
            return ()
        feasible = [record for record in self._evaluated if record.feasible]
        values = [record.values([objective.name for objective in self.objectives]) for record in feasible]
        mask = pareto_mask(values, self.objectives)
        spreads = [record.spreads([objective.name for objective in self.objectives[1:]]) for record in feasible]
        return tuple(
            Rival(record.number, *point, *noise)
            for record, point, noise, kept in zip(feasible, values, spreads, mask, strict=True)
            if kept
        )

    def _is_tested(self, gate: str, key: str) -> bool:
        if not self.audit:
            return False
        return gate not in self._tested or _draw(f"{self.seed} {gate} {key}") < self.audit


@dataclass(frozen=True)
class RuleReport:
    """How one gate did.

    Args:
        gate: One of :data:`~karui.search.stopping.pruning_rules.GATES`.
        stopped: Candidates that it stopped.
        tested: Candidates that it would have stopped, but let through as a test.
        missed: Of these, how many are on the front.
    """

    gate: str
    stopped: int
    tested: int
    missed: int


def report_rules(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> tuple[RuleReport, ...]:
    """Return how each gate did, those left out that stopped nothing and would have stopped nothing.

    Args:
        records: All trials of a study.
        objectives: Those of the study.
    """
    names = [objective.name for objective in objectives]
    # Among those that gates have seen: what was promoted since may have taken the place of any.
    feasible = [record for record in records if record.feasible and not record.is_promoted]
    mask = pareto_mask([record.values(names) for record in feasible], objectives)
    front = {record.number for record, kept in zip(feasible, mask, strict=True) if kept}
    reports = []
    for gate in GATES:
        tested = [
            record.number
            for record in records
            if record.outcome is not None and record.outcome.let_through and record.outcome.let_through.gate == gate
        ]
        stopped = sum(record.state == "stopped" and record.stage == gate for record in records)
        if stopped or tested:
            reports.append(RuleReport(gate, stopped, len(tested), len(front.intersection(tested))))
    return tuple(reports)


def describe_reports(reports: Sequence[RuleReport]) -> str:
    """Return in one sentence how the gates did; empty where they did nothing."""
    if not reports:
        return ""
    each = ", ".join(f"{report.gate} {report.stopped}" for report in reports if report.stopped)
    stopped, tested, missed = (sum(getattr(one, name) for one in reports) for name in ("stopped", "tested", "missed"))
    candidates = "1 candidate" if stopped == 1 else f"{stopped} candidates"
    told = f"gates stopped {candidates}{f' ({each})' if each else ''}"
    return f"{told}; of {tested} let through as a test, {missed} reached the front"


def _trainings(outcome: Outcome) -> list[PastTraining]:
    accuracy = outcome.measurements["accuracy"].value
    complete = [curve for curve in outcome.curves if curve.is_complete]
    return [PastTraining(curve, max(accuracy, curve.standing(curve.epochs))) for curve in complete]


def _draw(text: str) -> float:
    """Return a number from 0 to below 1 that the text alone decides, evenly spread."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
