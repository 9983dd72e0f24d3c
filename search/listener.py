"""The seam between the search loop and whatever shows it or keeps a log of it."""

from __future__ import annotations

from typing import Any, Protocol

from ..spaces.candidate import Candidate
from .record import TrialRecord


class Listener(Protocol):
    """Is told how the search goes."""

    def begun(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be made."""

    def reached(self, number: int, stage: str) -> None:
        """A candidate in flight has come to a stage, or waits for something."""

    def ended(self, record: TrialRecord) -> None:
        """A trial of this search has ended, in whatever state."""

    def seen(self, record: TrialRecord) -> None:
        """A trial of another search has ended."""

    def happened(self, event: str, **details: Any) -> None:
        """Something that a person may want to know the next morning has happened; JSON types only."""
