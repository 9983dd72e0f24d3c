"""The seam between a study that runs and whatever shows it."""

from __future__ import annotations

from collections.abc import Sequence

from ...search.record import Quiet, TrialRecord
from ..study_file.spec import StudySpec

WAITING = "waiting to measure"
"""The stage of a candidate whose worker waits until no other one on the machine is in the middle of something."""

WAITING_FOR_MEASURING = "waiting until another process on this machine has measured"
"""The stage, or the phase, of whoever would work and has to wait for that longer than usual."""

WAITING_FOR_BASELINE = "waiting for another search's baseline"

WAITING_FOR_TWIN = "waiting for another study that trains the same baseline"

WAITING_FOR_TURN = "waiting until another search lets go of the study's trials"


class Watcher(Quiet):
    """Is told how a whole study goes, to show it: a subclass overrides what it wants to know, all else is let pass."""

    def phase(self, text: str) -> None:
        """Something that takes a while begins."""

    def note(self, text: str) -> None:
        """Something was found out that the user should know."""

    def searching(self, spec: StudySpec, baseline: dict[str, float], known: Sequence[TrialRecord]) -> None:
        """The search begins or goes on, from the trials that are known already."""
