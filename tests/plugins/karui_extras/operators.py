"""Something to measure from outside: how many operators a file has."""

from __future__ import annotations

import onnx

from karui.evaluators.measurement import Measurement
from karui.evaluators.metric import Measured, Metric
from karui.spaces.artifact import Artifact


class OperatorsEvaluator:
    """Counts the operators of a file, and those of the reference.

    Args:
        by: With what a study measures.
    """

    name = "operators"

    def __init__(self, by: Measured) -> None:
        self._reference = by.reference

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return one measurement, ``operator_count``."""
        return (Measurement("operator_count", float(len(onnx.load(artifact.path).graph.node)), "1"),)


OPERATORS = Metric(
    name="operators",
    measurement="operator_count",
    direction="minimize",
    unit="1",
    bound="max_operators",
    title="Operators",
    evaluator=OperatorsEvaluator,
)
