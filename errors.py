"""The errors that karui raises on purpose, each saying where, what was expected, what came, what to do."""

from __future__ import annotations


class KaruiError(Exception):
    """Something the user can put right; the command line prints it and exits with ``exit_code``.

    Args:
        what: One sentence that names the fault.
        where: File, key, option or stage at fault.
        expected: What would have been accepted.
        got: What came instead.
        remedy: What to do about it.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(str(self))

    def details(self) -> list[tuple[str, str]]:
        """Return the labelled lines that belong under the first sentence."""
        labelled = (
            ("where", self.where),
            ("expected", self.expected),
            ("got", self.got),
            ("to do", self.remedy),
        )
        return [(label, text) for label, text in labelled if text]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in self.details())])


class StudyFileError(KaruiError):
    """A study file that cannot be read, or says something that has no meaning."""


class TaskError(KaruiError):
    """A user's task that raises, is incomplete, or whose model karui cannot work with."""


class OutputError(KaruiError):
    """A results folder or a database that cannot be written or read."""


class SpaceError(KaruiError):
    """A search space that holds nothing, or an axis that does not fit the task."""


class TargetUnavailable(KaruiError):
    """A target that does not answer: no candidate's fault, so that what was to be measured there waits.

    Attributes:
        retry_seconds: After how long it makes sense to try again.
    """

    retry_seconds = 0.0


class NothingFits(KaruiError):
    """No point of the front satisfies the budget that was asked for."""

    exit_code = 1


class CandidateFailure(Exception):
    """One candidate could not be made or measured; the search records it and goes on.

    Args:
        stage: The stage that failed, one of the names in the trial table
            (``architecture``, ``recovery``, ``export``, ``quantization``, ``packing``, ``latency``, ...).
        reason: One line that says why.
    """

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        self.reason = " ".join(reason.split())
        super().__init__(f"{stage}: {self.reason}")


class CandidateStopped(Exception):
    """A gate stopped a candidate before its training was over: no failure, but a decision of the search.

    Args:
        gate: ``size``, ``latency``, ``front`` or ``rung``.
        reason: One line that says why, with the numbers.
        excess: By what share it breaks the bound, or is beaten; positive.
    """

    def __init__(self, gate: str, reason: str, excess: float) -> None:
        self.gate = gate
        self.reason = " ".join(reason.split())
        self.excess = excess
        super().__init__(gate, self.reason, excess)  # what a process that receives it makes it from again

    def __str__(self) -> str:
        return f"{self.gate}: {self.reason}"
