"""The errors that karui raises on purpose, each saying where, what was expected, what came, what to do."""

from __future__ import annotations

import re
from urllib.parse import unquote

MOST_CHARACTERS = 2000
"""Of a text that an error carries: more of what a library or a task says helps nobody, and fills terminals."""

_MOST_READ = 1_000_000

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]{0,2000}(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_USER = re.compile(r"://[^/:\n]*:")
_USER_OF_HTTP = re.compile(r"(https?://)[^/@\s]{1,1000}@")
_SECRET = re.compile(r"pass|pwd|secret|token|sig|credential|auth(?!or)|sas$|key|jwt|bearer", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;])([^?&;=\s]{1,80})=([^&;\n]*)")
_NAME = r"\w*(?:passw(?:or)?d|passphrase|pwd|secret|token|access_?key|account_?key|api_?key)"
_ASSIGNED = re.compile(
    rf"""(?ix) (?<![\w?&;.%-]) ( {_NAME}\s*=\s* | (["']){_NAME}\2\s*:\s* | \w*passw(?:or)?d\s*:\s* )
    (?: "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | [^\s,;&"'{{}}\[\]()<>]+ )"""
)
_AUTHORIZATION = re.compile(r"(?i)\b((?:authorization\s*[:=]\s*)?(?:bearer|basic)\s+)[\w.~+/=-]{6,}")


def without_secrets(text: str) -> str:
    """Return a text in which passwords, tokens and signatures are blanked out: in URLs, in parameters, in assignments.

    What could be one is taken for one: a password may hold spaces and an @, so that it ends at the last @ of its line,
    and a parameter of a URL ends at the next one or with the line. Everything that karui shows or keeps of an error, of
    a storage or of a location goes through here.
    """
    if "://" in text and "@" in text:
        text = "\n".join(map(_without_password, text.split("\n")))
        text = _USER_OF_HTTP.sub(r"\1***@", text)
    if "=" in text or ":" in text:
        text = _PARAMETER.sub(_blank_parameter, text)
        text = _ASSIGNED.sub(r"\1***", text)
    return _AUTHORIZATION.sub(r"\1***", text)


def _without_password(line: str) -> str:
    user, end = _USER.search(line), line.rfind("@")
    return line if user is None or user.end() > end else f"{line[: user.end()]}***{line[end:]}"


def _blank_parameter(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}=***" if _SECRET.search(unquote(match[2])) else match[0]


def plain_text(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text that any terminal, file and database takes as it is, without secrets.

    Escape sequences and other characters that steer a terminal are left out, halves of surrogate pairs are written as
    ``\\udc80``, and of a text that is too long the middle is left out.

    Args:
        text: What somebody else wrote, such as the message of an exception.
        most: Characters to keep.
    """
    if len(text) > _MOST_READ:
        text = text[: _MOST_READ // 2] + text[-_MOST_READ // 2 :]
    if len(text) > 4 * most:  # half of a secret would not be known as one
        text = without_secrets(text)
        text = text[: 2 * most] + text[-2 * most :]
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    text = _INVISIBLE.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = without_secrets(text)
    if len(text) <= most:
        return text
    kept = (most - 5) // 2
    return f"{text[:kept]} ... {text[-kept:]}"


def plain_line(text: str, most: int = MOST_CHARACTERS // 2) -> str:
    """Return :func:`plain_text` in one line."""
    return " ".join(plain_text(text, most).split())


def describe_error(error: BaseException) -> str:
    """Return type and message of any exception in one line, of one that cannot say it as well."""
    try:
        said = str(error)
    except Exception as another:
        said = f"(its message cannot be read: {type(another).__name__})"
    return plain_line(f"{type(error).__name__}: {said}")


DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What it raises to read a file that is not as karui writes it: half of it, of other types, of other numbers."""


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
        self.what = plain_text(str(what))
        self.where, self.expected, self.got, self.remedy = (
            None if text is None else plain_text(str(text)) for text in (where, expected, got, remedy)
        )
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
        self.stage = plain_line(stage)
        self.reason = plain_line(reason)
        super().__init__(f"{self.stage}: {self.reason}")


class CandidateStopped(Exception):
    """A gate stopped a candidate before its training was over: no failure, but a decision of the search.

    Args:
        gate: ``size``, ``latency``, ``front`` or ``rung``.
        reason: One line that says why, with the numbers.
        excess: By what share it breaks the bound, or is beaten; positive.
    """

    def __init__(self, gate: str, reason: str, excess: float) -> None:
        self.gate = gate
        self.reason = plain_line(reason)
        self.excess = excess
        super().__init__(gate, self.reason, excess)  # what a process that receives it makes it from again

    def __str__(self) -> str:
        return f"{self.gate}: {self.reason}"
