"""One evaluator for each target, as one: every target's measurements under its own name, and the one that counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...spaces.artifact import Artifact
from ..measurement import Evaluator, Measurement

WORST = "worst"
"""The objective that is the target on which a file is slowest, beside its reference there."""


def measured_on(name: str, target: str) -> str:
    """Return the name of a measurement of one target among several, such as ``latency_ms@pi5``."""
    return f"{name}@{target}"


class OnTargets:
    """Measures on several targets, one after the other.

    Args:
        evaluators: By the name of their target.
        objective: The target whose measurements count, or :data:`WORST`.
        ratio: Name of the measurement by which the worst is told.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], objective: str, ratio: str) -> None:
        self._evaluators = dict(evaluators)
        self._objective = objective
        self._ratio = ratio

    @property
    def name(self) -> str:
        """The name that all of the evaluators have."""
        return next(iter(self._evaluators.values())).name

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return what counts under its plain name, and what was measured on each target under its own.

        Raises:
            CandidateFailure: Where one of the targets cannot run the file.
            TargetUnavailable: Where one of them does not answer.
        """
        found = {target: evaluator.measure(artifact) for target, evaluator in self._evaluators.items()}
        return (*chosen(found, self._objective, self._ratio), *named(found))


def named(found: Mapping[str, tuple[Measurement, ...]]) -> tuple[Measurement, ...]:
    """Return the measurements of all targets under names of their own."""
    return tuple(
        replace(item, name=measured_on(item.name, target), conditions={**item.conditions, "target": target})
        for target, items in found.items()
        for item in items
    )


def chosen(found: Mapping[str, tuple[Measurement, ...]], objective: str, ratio: str) -> tuple[Measurement, ...]:
    """Return the measurements that count.

    Of :data:`WORST`, those are the ones of the target with the largest ratio; milliseconds are told in those of the
    first target (the ratio times the time that its reference takes), since milliseconds of different targets cannot be
    compared.

    Args:
        found: By target.
        objective: A target, or :data:`WORST`.
        ratio: Name of the measurement by which the worst is told; where none has it, the first target counts.
    """
    if objective != WORST:
        return _as_of(found[objective], objective)
    ratios = {target: item for target, items in found.items() for item in items if item.name == ratio}
    first = next(iter(ratios or found))
    if not ratios:
        return _as_of(found[first], first)
    worst = max(ratios, key=lambda target: ratios[target].value)
    milliseconds = ratio.replace("_ratio", "_ms")
    others = [item for item in found[worst] if item.name != milliseconds]
    scale = next(item for item in found[first] if item.name == milliseconds)
    reference_ms = scale.value / ratios[first].value
    largest = ratios[worst]
    told = replace(
        scale,
        value=largest.value * reference_ms,
        spread=largest.spread * reference_ms,
        count=largest.count,
        conditions={**largest.conditions, "reference_ms": reference_ms, "milliseconds_of": first},
    )
    return (*_as_of(tuple(others), worst), replace(told, conditions={**told.conditions, "target": worst}))


def _as_of(items: tuple[Measurement, ...], target: str) -> tuple[Measurement, ...]:
    return tuple(replace(item, conditions={**item.conditions, "target": target}) for item in items)
