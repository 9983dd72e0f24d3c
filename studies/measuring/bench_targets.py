"""The targets of a study on its bench: opened from its file, measured on one after the other, and let go of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ...errors import TargetUnavailable
from ...evaluators.measurement import Evaluator, Measurement
from ...evaluators.targets.fingerprint import fingerprint_of
from ...evaluators.targets.program import UNKNOWN
from ...evaluators.targets.several_targets import WORST, OnTargets, measured_on
from ...evaluators.targets.target import TARGETS, Target
from ...evaluators.timing.exclusive_use import Elsewhere, Undisturbed
from ...evaluators.timing.machine_lock import MachineLock
from ..study_file.spec import StudySpec
from ..study_file.target_spec import EACH
from .same_kind import describe_difference

T = TypeVar("T")

LATENCY = "latency_ms"
_HERE = "local"

MakeEvaluator = Callable[[str, Target], Evaluator]
"""Makes what measures on a target, given its name and itself."""


class BenchTargets:
    """The targets of a study.

    Args:
        spec: The study.
        lock: Keeps work and measuring on this machine apart.
        tell: Is told in a few words what a target waits for.
        waits: Called where measuring on this machine has to wait for others here.

    Raises:
        KaruiError: Where this machine lacks the provider of a local target.
    """

    def __init__(
        self, spec: StudySpec, lock: MachineLock, tell: Callable[[str], None], waits: Callable[[], None]
    ) -> None:
        threads, provider, runtime = spec.latency.threads, spec.latency.provider, spec.latency.runtime
        told = spec.target or ()
        self._targets: dict[str, Target] = {
            each.name: each.open(threads, provider, runtime, spec.folder, tell) for each in told
        } or {_HERE: TARGETS[_HERE](threads=threads, provider=provider, runtime=runtime)}
        self._here = {each.name for each in told if getattr(TARGETS[each.kind], "is_here", False)} if told else {_HERE}
        # Where each counts, the first one's milliseconds stand for latency; the others have names of their own.
        named = None if spec.latency.objective == EACH else spec.latency.objective
        self._objective = named or next(iter(self._targets))
        self._lock = lock
        self._waits = waits

    @property
    def has_several(self) -> bool:
        """Whether measurements have to say on which target they were made."""
        return len(self._targets) > 1

    @property
    def are_elsewhere(self) -> bool:
        """Whether all of them are other devices, so that measuring needs nothing of this machine."""
        return not self._here

    def evaluator(self, make: MakeEvaluator, ratio: str, *, only_objective: bool = False) -> Evaluator:
        """Return what measures on all targets.

        Args:
            make: Makes what measures on one.
            ratio: Name of the measurement by which the worst target is told.
            only_objective: Whether to leave out those on which nothing depends.
        """
        each = {name: self._guarded(name, make(name, target)) for name, target in self._targets.items()}
        if only_objective and self._objective != WORST:
            each = {self._objective: each[self._objective]}
        return next(iter(each.values())) if len(each) == 1 else OnTargets(each, self._objective, ratio)

    def on_each(self, work: Callable[[str, Target], T]) -> list[T]:
        """Do something on each target, given its name and itself, while nothing else here is in its way."""
        done = []
        for name, target in self._targets.items():
            with self._lock.measuring(self._waits) if name in self._here else self._lock.resting():
                done.append(work(name, target))
        return done

    def conditions(self) -> dict[str, Any]:
        """Return what a latency depends on; where there are several targets, by their names.

        Raises:
            TargetUnavailable: Where one of them does not answer.
        """
        told = {name: target.conditions() for name, target in self._targets.items()}
        return told if self.has_several else next(iter(told.values()))

    def measure_references(self, measure: Callable[[Target], Measurement]) -> tuple[Measurement, ...]:
        """Measure the reference on each target, and return its latency, and that of each by its name."""
        found = dict(self.on_each(lambda name, target: (name, measure(target))))
        named = [self._named(name, item) for name, item in found.items()] if self.has_several else []
        return (found[self._first], *named)

    def reference_ms(self, baseline: Mapping[str, Measurement]) -> dict[str, float]:
        """Return the reference's own latency on each target."""
        if not self.has_several:
            return {self._first: baseline[LATENCY].value}
        return {name: baseline[measured_on(LATENCY, name)].value for name in self._targets}

    def differences(self, baseline: Mapping[str, Measurement]) -> list[str]:
        """Return in a sentence each how targets differ from what they were when the study began.

        Raises:
            TargetUnavailable: Where one of them does not answer.
        """
        told = []
        for name, target in self._targets.items():
            noted = baseline[self._noted(name)].conditions
            here = target.conditions()
            known = {key: value for key, value in noted.items() if here.get(key) != UNKNOWN}
            if (difference := describe_difference(known, here)) is not None:
                is_plain = name in self._here and not self.has_several
                told.append(difference if is_plain else f"target {name}: {difference}")
        return told

    def fingerprint(self, baseline: Mapping[str, Measurement]) -> dict[str, Any]:
        """Return what makes the targets others; of one that does not answer, what was noted of it.

        Args:
            baseline: What was measured of the reference, by name.
        """
        told = {}
        for name, target in self._targets.items():
            try:
                told[name] = target.fingerprint()
            except TargetUnavailable:
                told[name] = fingerprint_of(baseline[self._noted(name)].conditions)
        return told if self.has_several else next(iter(told.values()))

    def close(self) -> None:
        """Let go of what is open; what is measured next opens it again."""
        for target in self._targets.values():
            target.close()

    @property
    def _first(self) -> str:
        """The target whose milliseconds are those of the objective."""
        return next(iter(self._targets)) if self._objective == WORST else self._objective

    def _noted(self, name: str) -> str:
        """Name of the reference's latency on a target."""
        return measured_on(LATENCY, name) if self.has_several else LATENCY

    def _guarded(self, name: str, evaluator: Evaluator) -> Evaluator:
        if name in self._here:
            return Undisturbed(evaluator, self._lock, self._waits)
        return Elsewhere(evaluator, self._lock)

    @staticmethod
    def _named(target: str, item: Measurement) -> Measurement:
        return replace(item, name=measured_on(item.name, target), conditions={**item.conditions, "target": target})
