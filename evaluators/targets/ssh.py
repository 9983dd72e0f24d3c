"""A device that ssh reaches, as a target: the files go there once, the same code as here measures them there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError, TargetUnavailable
from ...spaces.artifact import file_digest
from ..runtimes.onnxruntime_runner import CPU_PROVIDER
from ..timing.alternating import PairTiming, TimingSettings
from ..timing.over_inputs import InputsTiming
from .fingerprint import fingerprint_of
from .inputs_file import InputsFile
from .ssh_connection import Connection
from .ssh_device import Device
from .telling import FOR_DEVICE, Tell, tell_nobody


class SshTarget:
    """Measures on a device that ``ssh`` reaches, reference and candidate side by side in one process there.

    Nothing is connected before the first measurement. Models and inputs are sent once for each content, and kept on the
    device for later searches; a lock there keeps two searches from measuring at once, wherever they run.

    Args:
        host: As ``ssh`` takes it: a name, an address or an alias, perhaps after ``user@``.
        name: The target's name.
        threads: Threads within an operator.
        provider: Execution provider of onnxruntime on the device.
        python: The interpreter there that has numpy and onnxruntime.
        ssh_config: File that ssh reads instead of the user's own settings.
        tell: Is told in a few words what the target waits for.

    Raises:
        KaruiError: Where the host cannot be one.
    """

    def __init__(
        self,
        host: str,
        name: str = "ssh",
        threads: int = 1,
        provider: str = CPU_PROVIDER,
        python: str = "python3",
        ssh_config: Path | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        self.name = name
        self._device = Device(name, host, python, ssh_config)
        self._options = {"threads": threads, "provider": provider}
        self._tell = tell
        self._connection: Connection | None = None
        self._inputs = InputsFile()
        self._word = ""

    def time_pair(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> PairTiming:
        """Time a candidate against the reference; see :class:`~karui.evaluators.targets.target.Target`."""
        files = self._pair(reference_path, candidate_path) | {"inputs": self._inputs.path_of(inputs)}
        return PairTiming.from_dict(self._measure("time_pair", "latency", files, settings))

    def time_pair_over_inputs(
        self, reference_path: Path, candidate_path: Path, inputs: NDArray[Any], settings: TimingSettings
    ) -> InputsTiming:
        """Time a candidate against the reference over inputs; see :class:`~karui.evaluators.targets.target.Target`."""
        files = self._pair(reference_path, candidate_path) | {"inputs": self._inputs.path_of(inputs)}
        return InputsTiming(**self._measure("time_pair_over_inputs", "latency", files, settings))

    def time_load_pair(self, reference_path: Path, candidate_path: Path, settings: TimingSettings) -> PairTiming:
        """Time the opening of a candidate; see :class:`~karui.evaluators.targets.target.Target`."""
        files = self._pair(reference_path, candidate_path)
        return PairTiming.from_dict(self._measure("time_load_pair", "load", files, settings))

    def load_peak_bytes(self, path: Path) -> int | None:
        """Return how much memory opening a file takes; see :class:`~karui.evaluators.targets.target.Target`."""
        peak_bytes: int | None = self._measure("load_peak_bytes", "load", {"candidate": path}, None)
        return peak_bytes

    def conditions(self) -> dict[str, Any]:
        """Return what a latency on the device depends on, as told there."""
        # The lock is for those who begin something on the device: here a process that loads the runtime.
        ask = self._ask_locked if self._connection is None else self._ask_to_measure
        answer = ask("conditions", {}, None)
        self._check(answer)
        return {**answer["found"], "target": self.name}

    def fingerprint(self) -> dict[str, Any]:
        """Return what makes the device another target; see :class:`~karui.evaluators.targets.target.Target`."""
        return fingerprint_of(self.conditions())

    def close(self) -> None:
        """End the connection; the next measurement makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _pair(reference_path: Path, candidate_path: Path) -> dict[str, Path]:
        return {"reference": reference_path, "candidate": candidate_path}

    def _measure(self, what: str, stage: str, files: Mapping[str, Path], settings: TimingSettings | None) -> Any:
        """Measure under the device's lock, and return what was found."""
        answer = self._ask_locked(what, files, settings)
        if "failed" in answer:
            raise CandidateFailure(*answer["failed"])
        if "died" in answer:
            raise self._died(stage, answer["died"], files)
        self._check(answer)
        return answer["found"]

    def _ask_locked(self, what: str, files: Mapping[str, Path], settings: TimingSettings | None) -> Any:
        """Ask for a measurement while nobody else measures there, and return the answer whatever it is."""
        try:
            self._tell_word(self._ask({"do": "lock"}).get("word", ""))
            answer = self._ask_to_measure(what, files, settings)
            self._ask({"do": "unlock"})
        except BaseException:
            self.close()  # whatever it was: the lock must not stay
            raise
        return answer

    def _tell_word(self, word: str) -> None:
        """Tell, once for each, why others may be measuring on the device meanwhile."""
        if word and word != self._word:
            self._tell(f"measuring on {self.name}, perhaps beside another user: {word}")
        self._word = word

    def _ask_to_measure(self, what: str, files: Mapping[str, Path], settings: TimingSettings | None) -> Any:
        """Ask for a measurement, sending what the device lacks, and return the answer whatever it is."""
        named = {role: f"{file_digest(path)}{path.suffix}" for role, path in files.items()}
        paths = {named[role]: path for role, path in files.items()}
        request = {
            "do": "measure",
            "what": what,
            "files": named,
            "settings": None if settings is None else settings.to_dict(),
            "options": self._options,
        }
        answer = self._ask(request)
        for missing in answer.get("missing", ()):
            self._check_room(self._ask({"do": "put", "name": missing, "needed": list(paths)}, paths[missing]))
        return self._ask(request) if "missing" in answer else answer

    def _ask(self, request: Any, attached: Path | None = None) -> Any:
        if self._connection is None:
            self._connection = Connection(self._device)
        try:
            return self._connection.ask(request, attached, lambda: self._tell(f"{FOR_DEVICE} {self.name}"))
        except KaruiError:
            self.close()
            raise

    def _check_room(self, answer: Any) -> None:
        if "full" in answer:
            raise TargetUnavailable(
                f"target {self.name} has no room for a file",
                where=self._place,
                got=answer["full"],
                remedy="make room there; ~/.cache/karui-device may be removed while no search runs",
            )

    def _check(self, answer: Any) -> None:
        """Raise where the device, or its python, is at fault."""
        if "lacks" in answer:
            raise KaruiError(
                "the device's python lacks what measuring needs",
                where=self._place,
                expected=f"{self._device.python} with numpy and onnxruntime",
                got=answer["lacks"],
                remedy="install them there (pip install numpy onnxruntime), or name the `python` that has them",
            )
        if "error" in answer:
            what, where, expected, got, remedy = answer["error"]
            place = f"{self._place}: {where}" if where else self._place
            raise KaruiError(what, where=place, expected=expected, got=got, remedy=remedy)

    def _died(self, stage: str, how: str, files: Mapping[str, Path]) -> Exception:
        told = f"the process that ran it on {self.name} {how}"
        if "reference" in files and file_digest(files["reference"]) == file_digest(files["candidate"]):
            return KaruiError("the reference cannot be run on this target", where=self._place, got=told)
        return CandidateFailure(stage, told)

    @property
    def _place(self) -> str:
        return f"target {self.name}, host {self._device.host}"
