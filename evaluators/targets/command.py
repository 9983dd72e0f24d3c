"""The user's own program as a target: karui gives it files and takes its word for how long they take.

``docs/targets.md`` says what the program is given and has to print.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...spaces.file_lock import held
from ..timing.alternating import PairTiming, TimingSettings, median_with_spread
from ..timing.machine_lock import open_own_lock, shared_folder
from ..timing.over_inputs import InputsTiming, summarize
from .inputs_file import InputsFile
from .program import UNKNOWN, Program
from .telling import FOR_DEVICE, Tell, tell_nobody

FEWEST_PAIRS = 4
"""Pairs of runs of the program, whatever they cost."""

_LOAD = ("--load-only",)


class CommandTarget:
    """Measures by a program that measures one file at a time; karui alternates reference and candidate.

    Args:
        command: The program and its first arguments; never run by a shell.
        name: The target's name.
        timeout_seconds: Longest time for one run of the program.
        threads: Threads that it is asked to measure with.
        provider: Execution provider that it is asked for.
        folder: Where it runs; where karui does where left out.
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
        folder: Path | None = None,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options = ["--threads", str(threads), *(["--provider", provider] if provider else [])]
        self.name = name
        self._program = Program(command, name, timeout_seconds, options, folder)
        self._asked = {"threads": threads, "provider": provider or "of the program's choice"}
        self._tell = tell
        self._clock = clock
        self._inputs = InputsFile()

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.target.Target`."""
        given = ["--inputs", str(self._inputs.path_of(inputs))]
        return self._pairs(reference_path, candidate_path, given, "latency_ms", settings)

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming | None:
        """Time the opening of a candidate; None where the program does not tell ``load_ms``."""
        with self._alone():
            if self._program.run("load", reference_path, _LOAD, is_reference=True).get("load_ms") is None:
                return None
        return self._pairs(reference_path, candidate_path, _LOAD, "load_ms", settings)

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.target.Target`."""
        given = ["--inputs", str(self._inputs.path_of(inputs)), "--one-at-a-time"]
        passes: tuple[list[Any], list[Any]] = [], []
        with self._alone():
            begin = self._clock()
            while len(passes[0]) < FEWEST_PAIRS or self._clock() - begin < settings.max_seconds:
                for which in (0, 1) if len(passes[0]) % 2 == 0 else (1, 0):
                    path = (reference_path, candidate_path)[which]
                    answer = self._program.run("latency", path, given, is_reference=which == 0)
                    passes[which].append(self._program.times(answer, len(inputs)))
                if len(passes[0]) >= settings.max_blocks:
                    break
        return summarize(np.array(passes[0]), np.array(passes[1]))

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes, where the program tells ``load_peak_bytes``."""
        with self._alone():
            answer = self._program.run("load", path, _LOAD, is_reference=False)
        return None if answer.get("load_peak_bytes") is None else int(self._program.number(answer, "load_peak_bytes"))

    def conditions(self) -> dict[str, Any]:
        """Return what a latency depends on: what the program told of it with its last answer."""
        unknown = dict.fromkeys(("host", "processor", "platform", "python", "onnxruntime"), UNKNOWN)
        return {
            **unknown,
            **self._asked,
            **self._program.told,
            "target": self.name,
            "command": self._program.command[0],
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes this target another one: which program it is; what that tells, it tells only later."""
        return {"target": self.name, "command": self._program.command[0]}

    def close(self) -> None:
        """Nothing is open."""

    @property
    def lock_name(self) -> str:
        """Name of the lock that those who run this command take."""
        return f"command-{hashlib.sha256(json.dumps(self._program.command).encode()).hexdigest()[:16]}.lock"

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
                    answer = self._program.run(
                        stage, (reference_path, candidate_path)[which], given, is_reference=which == 0
                    )
                    found[which].append(self._program.number(answer, key))
                    if which == 1:
                        p95_ms.append(
                            self._program.number(answer, f"{key}_p95") if f"{key}_p95" in answer else found[1][-1]
                        )
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

    def _alone(self) -> contextlib.AbstractContextManager[bool]:
        """Let one process at a time run this command on this machine, since there is one device behind it."""
        return held(open_own_lock(shared_folder() / self.lock_name), lambda: self._tell(f"{FOR_DEVICE} {self.name}"))
