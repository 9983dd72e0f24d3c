"""Errors that nobody expected: one is a candidate's own, but one in each of the first candidates is not."""

from __future__ import annotations

from ..errors import KaruiError
from .outcome import Result, UnexpectedError

IN_A_ROW = 3
"""If so many candidates, the first ones of a run, all end in errors that nobody expected, the fault is not theirs."""


class Surprises:
    """Counts unexpected errors until a candidate ends in another way."""

    def __init__(self) -> None:
        self._count: int | None = 0

    def note(self, result: Result) -> None:
        """Take in how a candidate ended.

        Raises:
            KaruiError: Where going on would only repeat the same error all night.
        """
        if not isinstance(result, UnexpectedError):
            self._count = None
        if self._count is None or not isinstance(result, UnexpectedError):
            return
        self._count += 1
        if self._count >= IN_A_ROW:
            raise KaruiError(
                f"the first {IN_A_ROW} candidates of this run all ended in an error that is not theirs",
                where=f"stage {result.stage}",
                got=result.reason,
                remedy="log.jsonl in the results folder has the whole traceback",
            )
