"""A file measured again, and of whom the noise of latency leaves it open whether they belong to the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...evaluators.measurement import Measurement
from ...evaluators.timing.repeated import average
from ...search.objectives import OBJECTIVES, Objective
from ...search.outcome import Outcome
from ...search.record import TrialRecord
from ...search.statistics.noise import PLAUSIBLE, front_probability
from ...spaces.artifact import Artifact
from ..results.tables import names_of

MOST_AGAIN = 16
"""How many files are measured once more in a round at most."""

_LATENCIES = "latency_"
"""How the names of measurements begin that are made once more."""


@dataclass(frozen=True)
class Fresh:
    """A file of the front, or of its edge, measured again.

    Args:
        record: Its trial.
        artifact: The file.
        measurements: By name: what the search found, and in its place whatever was measured again.
        objectives: Those of the study.
    """

    record: TrialRecord
    artifact: Artifact
    measurements: Mapping[str, Measurement]
    objectives: tuple[Objective, ...] = OBJECTIVES

    @property
    def values(self) -> tuple[float, ...]:
        """Its value of each objective: size, latency, validation accuracy, and further ones where the study has them.

        Accuracy is that by which the search chose. Test accuracy is reported, and nothing is chosen by it.
        """
        return tuple(self.measurements[name].value for name in names_of(self.objectives))

    @property
    def spreads(self) -> tuple[float, ...]:
        """Their spreads."""
        return tuple(self.measurements[name].spread for name in names_of(self.objectives))


def objectives_of(found: Sequence[Fresh]) -> tuple[Objective, ...]:
    """Return the objectives by which files are judged, which are the same for all."""
    return found[0].objectives if found else OBJECTIVES


def undecided(found: Sequence[Fresh], most: int = MOST_AGAIN) -> list[Fresh]:
    """Return those of whom the noise of latency leaves it open whether they belong to the front, the most open first.

    Accuracy is taken as it is here: the same file gives the same one on the same samples, however often. So is whatever
    else is not measured once more.
    """
    objectives = objectives_of(found)
    repeats = [objective.name.startswith(_LATENCIES) for objective in objectives]
    spreads = [
        [spread if repeated else 0.0 for spread, repeated in zip(fresh.spreads, repeats, strict=True)]
        for fresh in found
    ]
    likely = front_probability([fresh.values for fresh in found], spreads, objectives)
    between = [index for index, share in enumerate(likely) if PLAUSIBLE < share < 1.0 - PLAUSIBLE]
    between.sort(key=lambda index: abs(likely[index] - 0.5))
    return [found[index] for index in between[:most]]


def averaged(
    record: TrialRecord,
    artifact: Artifact,
    outcomes: Sequence[Outcome],
    earlier: Sequence[Mapping[str, Measurement]],
    objectives: tuple[Objective, ...],
) -> Fresh:
    """Return a file with what was measured of it, latencies averaged over all times.

    Args:
        record: Its trial.
        artifact: The file.
        outcomes: What was measured, one at least, in the order in which it was.
        earlier: Latencies that were measured again while the search ran.
        objectives: Those of the study.
    """
    known = record.outcome.measurements if record.outcome else {}
    first, *later = (outcome.measurements for outcome in outcomes)
    # A process that was started anew measures everything once more; only latency differs from time to time.
    repeated = {
        name: average([item, *(again[name] for again in (*later, *earlier))]) if name.startswith(_LATENCIES) else item
        for name, item in first.items()
    }
    return Fresh(record, artifact, {**known, **repeated}, objectives)
