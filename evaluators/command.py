"""The user's own program as a target: karui gives it files and takes its word for how long they take.

``docs/targets.md`` says what the program is given and has to print.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CandidateFailure, KaruiError, TargetUnavailable
from .machine_lock import open_lock, shared_folder
from .telling import FOR_DEVICE, Tell, tell_nobody
from .timing import PairTiming, TimingSettings, median_with_spread
from .timing_over_inputs import InputsTiming, summarize

CANNOT_RUN = 3
"""Exit code by which a program says that the model cannot run on its device."""

DOES_NOT_ANSWER = 75
"""Exit code by which it says that its device does not answer now (EX_TEMPFAIL of sysexits.h)."""

FEWEST_PAIRS = 4
"""Pairs of runs of the program, whatever they cost."""

_Answer = dict[str, Any]


class CommandTarget:
    """Measures by a program that measures one file at a time; karui alternates reference and candidate.

    Args:
        command: The program and its first arguments; never run by a shell.
        name: The target's name.
        timeout_seconds: Longest time for one run of the program.
        tell: Is told in a few words what the target waits for.
        clock: Seconds that only grow.

    Raises:
        KaruiError: Where the command is empty.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str = "command",
        timeout_seconds: float = 300.0,
        threads: int = 1,
        provider: str = "",
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not command or not command[0]:
            raise KaruiError(f"the command of target {name} is empty", where="command", expected="a program")
        self.name = name
        self._command = list(command)
        self._timeout_seconds = timeout_seconds
        self._options = ["--threads", str(threads), *(["--provider", provider] if provider else [])]
        self._told: _Answer = {"threads": threads, "provider": provider or "of the program's choice"}
        self._tell = tell
        self._clock = clock
        self._folder = TemporaryDirectory(prefix="karui-inputs-")

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.Target`."""
        given = ["--inputs", str(self._saved(inputs))]
        return self._pairs(reference_path, candidate_path, given, "latency_ms", settings)

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming | None:
        """Time the opening of a candidate; None where the program does not tell ``load_ms``."""
        with self._alone():
            if self._run("load", reference_path, is_reference=True).get("load_ms") is None:
                return None
        return self._pairs(reference_path, candidate_path, [], "load_ms", settings)

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.Target`."""
        given = ["--inputs", str(self._saved(inputs)), "--one-at-a-time"]
        passes: tuple[list[Any], list[Any]] = [], []
        with self._alone():
            begin = self._clock()
            while len(passes[0]) < FEWEST_PAIRS or self._clock() - begin < settings.max_seconds:
                for which in (0, 1) if len(passes[0]) % 2 == 0 else (1, 0):
                    path = (reference_path, candidate_path)[which]
                    answer = self._run("latency", path, given, is_reference=which == 0)
                    passes[which].append(self._times(answer, len(inputs)))
                if len(passes[0]) >= settings.max_blocks:
                    break
        return summarize(np.array(passes[0]), np.array(passes[1]))

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes, where the program tells ``load_peak_bytes``."""
        with self._alone():
            answer = self._run("load", path, is_reference=False)
        return None if answer.get("load_peak_bytes") is None else int(self._number(answer, "load_peak_bytes"))

    def conditions(self) -> dict[str, Any]:
        """Return what a latency depends on: what the program told of it with its last answer."""
        unknown = dict.fromkeys(("host", "processor", "platform", "python", "onnxruntime"), "unknown")
        return {**unknown, **self._told, "target": self.name, "command": self._command[0]}

    def close(self) -> None:
        """Nothing is open."""

    @property
    def lock_name(self) -> str:
        """Name of the lock that those who run this command take."""
        return f"command-{hashlib.sha256(json.dumps(self._command).encode()).hexdigest()[:16]}.lock"

    def _saved(self, inputs: NDArray[Any]) -> Path:
        path = Path(self._folder.name) / "inputs.npy"
        np.save(path, np.ascontiguousarray(inputs), allow_pickle=False)
        return path

    def _pairs(
        self, reference_path: Path, candidate_path: Path, given: Sequence[str], key: str, settings: TimingSettings
    ) -> PairTiming:
        """Run the program on the two files in turn until the ratio is known well enough, or the time is up."""
        stage = "load" if key == "load_ms" else "latency"
        found: tuple[list[float], list[float]] = [], []
        p95_ms: list[float] = []
        fewest = min(settings.max_blocks, max(2, min(settings.min_blocks, FEWEST_PAIRS)))
        with self._alone():
            begin = self._clock()
            while True:
                # R C, C R, ...: a drift of the device falls on both alike
                for which in (0, 1) if len(found[0]) % 2 == 0 else (1, 0):
                    answer = self._run(stage, (reference_path, candidate_path)[which], given, is_reference=which == 0)
                    found[which].append(self._number(answer, key))
                    if which == 1:
                        p95_ms.append(self._number(answer, f"{key}_p95") if f"{key}_p95" in answer else found[1][-1])
                pairs = len(found[0])
                if pairs < fewest or pairs % 2:
                    continue
                ratio, spread = median_with_spread(np.array(found[1]) / np.array(found[0]))
                is_narrow = spread <= settings.target_relative_interval * ratio
                if is_narrow or pairs + 2 > settings.max_blocks or self._clock() - begin >= settings.max_seconds:
                    break
        reference_ms, reference_spread = median_with_spread(np.array(found[0]))
        return PairTiming(
            reference_ms=reference_ms,
            reference_ms_spread=reference_spread,
            candidate_ms=float(np.median(found[1])),
            candidate_p95_ms=float(np.median(p95_ms)),
            ratio=ratio,
            ratio_spread=spread,
            pairs=pairs,
            runs_per_block=(1, 1),
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time run this command on this machine, since there is one device behind it."""
        folder = shared_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_lock(folder / self.lock_name)
        if not lock.take(shared=False, wait=False):
            self._tell(f"{FOR_DEVICE} {self.name}")
            lock.take(shared=False, wait=True)
        try:
            yield
        finally:
            lock.let_go()

    def _run(self, stage: str, path: Path, given: Sequence[str] = (), *, is_reference: bool) -> _Answer:
        """Run the program once on one file, and return what it printed."""
        command = [*self._command, "--model", str(path), *given, *self._options]
        if not given:
            command.append("--load-only")
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._timeout_seconds, check=False
            )
        except FileNotFoundError as error:
            raise self._fault("there is no such program", got=self._command[0]) from error
        except PermissionError as error:
            raise self._fault("the program may not be run", got=str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise self._overdue(stage, is_reference=is_reference) from error
        said = _last_lines(ended.stderr) or _last_lines(ended.stdout)
        if ended.returncode == DOES_NOT_ANSWER:
            raise TargetUnavailable(
                f"target {self.name} says that its device does not answer", where=self._command[0], got=said
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

    def _parse(self, printed: bytes) -> _Answer:
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
            self._told |= {str(key): value for key, value in told.items() if isinstance(value, (str, int, float))}
        return answer

    def _number(self, answer: _Answer, key: str) -> float:
        return self._positive(answer.get(key), key)

    def _times(self, answer: _Answer, count: int) -> list[float]:
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
            where=f"target {self.name}: {path}",
            got=reason,
        )

    def _overdue(self, stage: str, *, is_reference: bool) -> Exception:
        told = f"the program was not done within {self._timeout_seconds:g} s"
        if is_reference:
            return TargetUnavailable(f"target {self.name} does not answer", where=self._command[0], got=told)
        return CandidateFailure(stage, told)

    def _fault(self, what: str, *, got: str, expected: str | None = None) -> KaruiError:
        return KaruiError(
            what,
            where=f"target {self.name}: {self._command[0]}",
            expected=expected,
            got=got,
            remedy="correct the program; docs/targets.md says what it is given and what it prints",
        )


def _last_lines(content: bytes) -> str:
    return " / ".join(content.decode(errors="replace").split("\n")[-6:]).strip(" /")[-500:]
