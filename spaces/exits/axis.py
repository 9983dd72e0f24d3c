"""The exits axis as data: where an early exit may lie, and how sure its head must be."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from ..axis import AxisModel, Choices, Suggester, choose
from ..candidate import Candidate


def _depth(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError("a share of the multiply-adds from 0 (no exit) to below 1")
    return value


def _threshold(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("a confidence between 0 (always taken) and 1 (never taken), both excluded")
    return value


Depth = Annotated[float, AfterValidator(_depth)]
Threshold = Annotated[float, AfterValidator(_threshold)]


class ExitsAxis(AxisModel):
    """Early exits: a small head that answers for the inputs of which it is sure, after a part of the network.

    Args:
        depths: Shares of the multiply-adds before the exit; the nearest place where the graph can be cut is taken, and
            0 stands for no exit.
        thresholds: Confidences above which the exit is taken; asked only where there is one.
    """

    prefix: ClassVar[str] = "exit."
    """What the names of this axis's parameters begin with."""

    depths: Choices[Depth] = (0.0, 0.3, 0.6)
    thresholds: Choices[Threshold] = (0.8, 0.9, 0.95)

    def refine(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add an exit to a candidate, or none."""
        depth = trial.suggest_categorical("exit.depth", self.depths)
        if not depth:
            return candidate
        threshold = choose(trial, "exit.threshold", self.thresholds)
        return replace(candidate, exit_depth=depth, exit_threshold=threshold)
