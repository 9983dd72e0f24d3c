"""The bench: on which candidates are made, and measured with the evaluators of their study."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import CandidateFailure, TargetUnavailable
from ...evaluators.measurement import Measurement
from ...search.record import Outcome, TrialRecord
from ...search.stopping.early_stopping import EarlyStopping
from ...search.stopping.pruning_rules import PruningRules, UntrainedProxy
from ...spaces.artifact import Artifact, StageRecord, file_digest
from ...spaces.building.build import Builder
from ...spaces.candidate import Candidate
from ..storage.shared_files import SharedFiles
from .bench_targets import LATENCY
from .beside_float import slower_than_float
from .evaluators import StudyEvaluators
from .kept_outcomes import KeptOutcomes


class Bench(StudyEvaluators):
    """The evaluators of a study, with what makes candidates: makes and measures them for the search."""

    _builder: Builder
    _outcomes: KeptOutcomes
    _files: SharedFiles | None

    def begin(
        self, baseline: dict[str, Measurement], builder: Builder, outcomes: Path, files: SharedFiles | None = None
    ) -> None:
        """Take up the baseline's measurements, against which every candidate is timed.

        Args:
            baseline: By name.
            builder: Makes files.
            outcomes: Folder in which is kept what was measured of them.
            files: Where other machines find the files made here, and this one theirs; None where there are none.
        """
        reference_ms = self.take_up(baseline)
        self._builder, self._files = builder, files
        self._beside_float: dict[str, list[str]] = {}
        known_ms = reference_ms if self.targets.has_several else baseline[LATENCY].value
        settings = {"baseline": self.artifact.digest, "ms": known_ms, "study": self._spec.meaning()}
        self._outcomes = KeptOutcomes(outcomes, settings, self.targets.fingerprint(baseline))

    def remember(self, records: Sequence[TrialRecord]) -> None:
        """Take up what was measured in earlier runs, so that no file is measured twice."""
        for record in records:
            if record.outcome:
                self._outcomes.keep(record.outcome)

    def evaluate(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        """Make and measure a candidate; see :class:`karui.search.outcome.Evaluate`."""
        # Where the task's code changes the folder that it runs in, the next candidate begins in the old one again.
        with self.lock.working(), contextlib.chdir(os.curdir):
            return self._evaluate(candidate, gates)

    def _evaluate(self, candidate: Candidate, gates: PruningRules | None) -> Outcome:
        early_stopping = EarlyStopping(gates)
        stages = [] if gates is None else self._pass_untrained_proxy(candidate, gates, early_stopping)
        artifact = self._builder.build(candidate, early_stopping.on_epoch)
        stages += artifact.stages
        found = self._outcomes.get(artifact.digest)
        if found is None:
            found = self._measure(artifact, stages)
        if self._files is not None:  # before the trial is told: what the study knows, every machine can have
            self._files.keep(artifact.path, artifact.digest)
        return replace(
            found,
            stages=tuple(stages),
            notes=(*artifact.notes, *self._slower_than_float(candidate, artifact)),
            curves=early_stopping.curves,
            let_through=early_stopping.let_through,
        )

    def _slower_than_float(self, candidate: Candidate, artifact: Artifact) -> list[str]:
        """Say where computing in integers costs time; found once for each file."""
        if self._over_inputs:
            return []
        if artifact.digest not in self._beside_float:
            with self._builder.float_twin(candidate) as twin:
                if twin is None:
                    return []
                told = slower_than_float(twin, artifact.path, self.inputs, self.timing, self.targets)
            self._beside_float[artifact.digest] = told
        return self._beside_float[artifact.digest]

    def _measure(self, artifact: Artifact, stages: list[StageRecord]) -> Outcome:
        measurements: dict[str, Measurement] = {}
        for evaluator in (self.size, self.latency, *self.limited, self.accuracy):
            self.reach(evaluator.name)
            begin = time.perf_counter()
            measurements |= {item.name: item for item in evaluator.measure(artifact)}
            stages.append(StageRecord(evaluator.name, time.perf_counter() - begin, cached=False))
        if (missing := self.missing(measurements)) is not None:
            raise CandidateFailure("measuring", f"its target told no {missing}, though it did for the baseline")
        outcome = Outcome(measurements, artifact.digest)
        self._outcomes.keep(outcome)
        return outcome

    def _pass_untrained_proxy(
        self, candidate: Candidate, gates: PruningRules, early_stopping: EarlyStopping
    ) -> list[StageRecord]:
        """Measure what can be measured before training, where there is any, and meet the gates with it."""
        begin = time.perf_counter()
        with self._builder.untrained_proxy(candidate) as proxy:
            if proxy is None:
                return []
            (size,) = self.size.measure(proxy)
            early_stopping.size(size.value)
            if gates.wants_latency(size.value) and (latency := self._latency_of(proxy)) is not None:
                early_stopping.untrained_proxy(UntrainedProxy(size.value, latency.value, latency.spread))
        return [StageRecord("draft", time.perf_counter() - begin, cached=False)]

    def _latency_of(self, proxy: Artifact) -> Measurement | None:
        """Return an untrained proxy's latency; None where it cannot be timed: the candidate's own file will say why.

        A target that does not answer keeps nobody from being trained.
        """
        try:
            return next(item for item in self.proxy_latency.measure(proxy) if item.name == LATENCY)
        except (CandidateFailure, TargetUnavailable):
            return None

    def find_artifact(self, record: TrialRecord) -> Artifact:
        """Return the file of a trial: this machine's own, else that of the machine that made it, else made again."""
        if (kept := self.kept_artifact(record)) is not None:
            return kept
        with self.lock.working():
            return self._builder.build(_candidate_of(record))

    def kept_artifact(self, record: TrialRecord) -> Artifact | None:
        """Return the file of a trial where this machine, or another one, has it; None where it had to be made again."""
        path = self._builder.file_of(_candidate_of(record))
        digest = file_digest(path) if path.exists() else None
        wanted = record.outcome.digest if record.outcome else None
        if self._files is not None and wanted and wanted != digest and self._files.fetch(wanted, path):
            digest = wanted
        return None if digest is None else Artifact(path, digest)


def _candidate_of(record: TrialRecord) -> Candidate:
    if record.candidate is None:
        raise ValueError(f"trial {record.number} has no candidate")
    return record.candidate
