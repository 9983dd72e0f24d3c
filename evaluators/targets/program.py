"""A program of the user's that measures one file at a time: how it is run, and what is made of what it prints.

``docs/targets.md`` says what it is given, what it has to print, and what its exit codes mean.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import CandidateFailure, KaruiError, TargetUnavailable

CANNOT_RUN = 3
"""Exit code by which a program says that the model cannot run on its device."""

DOES_NOT_ANSWER = 75
"""Exit code by which it says that its device does not answer now (EX_TEMPFAIL of sysexits.h)."""

UNKNOWN = "unknown"
"""A condition that the program has not told yet."""

Answer = dict[str, Any]


class Program:
    """Runs a user's program on one file at a time.

    Args:
        command: The program and its first arguments; never run by a shell.
        name: The target's name.
        timeout_seconds: Longest time for one run.
        options: Further arguments of every run.
        folder: Where it runs; where karui does where left out.

    Raises:
        KaruiError: Where the command is empty.
    """

    def __init__(
        self, command: Sequence[str], name: str, timeout_seconds: float, options: Sequence[str], folder: Path | None
    ) -> None:
        if not command or not command[0]:
            raise KaruiError(f"the command of target {name} is empty", where="command", expected="a program")
        self.command = list(command)
        self.told: Answer = {}
        """The conditions that it has told so far."""
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._options = list(options)
        self._folder = folder

    def run(self, stage: str, path: Path, given: Sequence[str], *, is_reference: bool) -> Answer:
        """Run it once on one file, and return what it printed.

        Args:
            stage: Under which a failure of the file is recorded.
            path: The file.
            given: Arguments of this run.
            is_reference: Whether the file is the one that all are compared with.

        Raises:
            CandidateFailure: Where it says that the file cannot be run, or was not done in time.
            TargetUnavailable: Where it says that its device does not answer.
            KaruiError: Where the program is at fault, or it is the reference that cannot be run.
        """
        ended = self._run([*self.command, "--model", str(path.absolute()), *given, *self._options], stage, is_reference)
        said = _last_lines(ended.stderr) or _last_lines(ended.stdout)
        if ended.returncode == DOES_NOT_ANSWER:
            raise TargetUnavailable(
                f"target {self._name} says that its device does not answer", where=self.command[0], got=said
            )
        if ended.returncode == CANNOT_RUN:
            raise self._cannot_run(stage, said or "the program says that the model cannot run", path, is_reference)
        if ended.returncode:
            raise self._fault(
                "the program of a target failed",
                expected=f"exit code 0, {CANNOT_RUN} where the model cannot run, or {DOES_NOT_ANSWER} where the device "
                "does not answer",
                got=f"exit code {ended.returncode}: {said}",
            )
        return self._parse(ended.stdout)

    def _run(self, command: list[str], stage: str, is_reference: bool) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_seconds,
                check=False,
                cwd=self._folder,
            )
        except FileNotFoundError as error:
            raise self._fault("there is no such program", got=self.command[0]) from error
        except PermissionError as error:
            raise self._fault("the program may not be run", got=str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise self._overdue(stage, is_reference=is_reference) from error

    def _parse(self, printed: bytes) -> Answer:
        lines = [line for line in printed.decode(errors="replace").splitlines() if line.strip()]
        try:
            answer = json.loads(lines[-1]) if lines else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._fault(
                "the program of a target printed no JSON object",
                expected='as its last line, for example {"latency_ms": 1.23}',
                got=repr(lines[-1][:200]) if lines else "nothing",
            )
        if isinstance(told := answer.get("conditions"), dict):
            self.told |= {str(key): value for key, value in told.items() if isinstance(value, (str, int, float))}
        return answer

    def number(self, answer: Answer, key: str) -> float:
        """Return a positive number of an answer.

        Raises:
            KaruiError: Where it is none.
        """
        return self._positive(answer.get(key), key)

    def times(self, answer: Answer, count: int) -> list[float]:
        """Return the times of so many inputs.

        Raises:
            KaruiError: Where there are not so many, or one is no time.
        """
        times = answer.get("latency_ms")
        if not isinstance(times, list) or len(times) != count:
            raise self._fault(
                "the program of a target printed no list of times",
                expected=f"latency_ms: a list of {count} numbers, one an input",
                got=f"{len(times)} numbers" if isinstance(times, list) else repr(times),
            )
        return [self._positive(value, "latency_ms") for value in times]

    def _positive(self, value: Any, key: str) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise self._fault(
                "the program of a target printed what is no time",
                expected=f"{key}: a positive number",
                got="nothing" if value is None else repr(value),
            )
        return float(value)

    def _cannot_run(self, stage: str, reason: str, path: Path, is_reference: bool) -> Exception:
        if not is_reference:
            return CandidateFailure(stage, reason)
        return KaruiError(
            "the reference cannot be run on this target, so nothing can be compared with it",
            where=f"target {self._name}: {path}",
            got=reason,
        )

    def _overdue(self, stage: str, *, is_reference: bool) -> Exception:
        told = f"the program was not done within {self._timeout_seconds:g} s"
        if is_reference:
            return TargetUnavailable(f"target {self._name} does not answer", where=self.command[0], got=told)
        return CandidateFailure(stage, told)

    def _fault(self, what: str, *, got: str, expected: str | None = None) -> KaruiError:
        return KaruiError(
            what,
            where=f"target {self._name}: {self.command[0]}",
            expected=expected,
            got=got,
            remedy="correct the program; docs/targets.md says what it is given and what it prints",
        )


def _last_lines(content: bytes) -> str:
    return " / ".join(content.decode(errors="replace").split("\n")[-6:]).strip(" /")[-500:]
