"""The gatekeeper: what was found so far, made into gates for the next candidate; and whether gates are right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .curves import PastTraining
from .front import pareto_mask
from .gates import GATES, GateCheck, Gates, Rival
from .objectives import OBJECTIVES, Objective
from .record import Outcome, TrialRecord

_FIRST = len(OBJECTIVES)


@dataclass
class Gatekeeper:
    """Makes the gates of each candidate from the trials before it.

    Where a study has further objectives, of which a draft tells nothing, gates hold bounds only: whoever is dominated
    in size, latency and accuracy may be the best in another.

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
    checks: tuple[GateCheck, ...] = ("draft", "rungs")
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

    def gates_for(self, key: str) -> Gates:
        """Return the gates of the candidate with that key, as they stand now."""
        outcomes = [record.outcome for record in self._evaluated if record.outcome is not None]
        accuracies = [outcome.measurements["accuracy"] for outcome in outcomes]
        limits = [
            None if objective.bound is None else objective.bound.resolve(self.baseline[objective.name])
            for objective in self.objectives[:_FIRST]
        ]
        most_bytes, most_ms, least_accuracy = limits
        return Gates(
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
class GateReport:
    """How one gate did.

    Args:
        gate: One of :data:`~karui.search.gates.GATES`.
        stopped: Candidates that it stopped.
        tested: Candidates that it would have stopped, but let through as a test.
        missed: Of these, how many are on the front.
    """

    gate: str
    stopped: int
    tested: int
    missed: int


def report_gates(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> tuple[GateReport, ...]:
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
            reports.append(GateReport(gate, stopped, len(tested), len(front.intersection(tested))))
    return tuple(reports)


def describe_reports(reports: Sequence[GateReport]) -> str:
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
