"""How much memory it takes at most to open a file, or to run it: in a process of its own, which this module also is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError
from ..runtimes.runtime import find_runtime
from .inputs_file import read_inputs, write_inputs

_STAGE = "load"
_RUNS = 3


def measure_load_peak(path: Path, provider: str, threads: int, runtime: str = "onnxruntime") -> int | None:
    """Return by how many bytes a fresh process grows at most while it opens a file.

    What the runtime itself allocates when it opens its first file is counted, as on a device: a few megabytes, the
    same for every file.

    Args:
        path: The ONNX file.
        provider: Execution provider.
        threads: Threads within an operator.
        runtime: What opens it.

    Returns:
        Bytes of resident memory; None where the operating system does not tell the peak.

    Raises:
        CandidateFailure: Stage ``load``, where the file cannot be opened, or the process was killed while it was.
        KaruiError: Where the process fails for another reason.
    """
    return _measure([str(path), provider, str(threads), runtime])


def measure_session_peak(
    path: Path, inputs: NDArray[Any], provider: str, threads: int, runtime: str = "onnxruntime"
) -> int | None:
    """Return by how many bytes a fresh process grows at most while it opens a file and runs it a few times.

    Args:
        path: The ONNX file.
        inputs: One batch, shape (batch, *input_shape).
        provider: Execution provider.
        threads: Threads within an operator.
        runtime: What runs it.

    Returns:
        Bytes of resident memory; None where the operating system does not tell the peak.

    Raises:
        CandidateFailure: Stage ``load``, where the file cannot be opened or run, or the process was killed meanwhile.
        KaruiError: Where the process fails for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        batch = write_inputs(inputs, Path(folder))
        return _measure([str(path), provider, str(threads), runtime, str(batch)])


def _measure(arguments: list[str]) -> int | None:
    command = [sys.executable, "-m", __name__, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if finished.returncode < 0:
        raise CandidateFailure(_STAGE, f"the process that opened the file was ended by signal {-finished.returncode}")
    if finished.returncode:
        raise KaruiError(
            "the process that measures the memory of loading failed",
            where=" ".join(command),
            got=finished.stderr.strip()[-2000:],
        )
    answer = json.loads(finished.stdout.splitlines()[-1])
    if answer["failure"] is not None:
        raise CandidateFailure(_STAGE, answer["failure"])
    peak_bytes: int | None = answer["peak_bytes"]
    return peak_bytes


def _answer(
    path: Path, provider: str, threads: int, runtime: str = "onnxruntime", batch: Path | None = None
) -> dict[str, int | str | None]:
    opens, inputs = find_runtime(runtime), None if batch is None else read_inputs(batch)
    opens.check(provider)  # what the runtime needs to be there at all is no memory of the file
    _reset_peak()
    before = _peak_bytes()
    try:
        runner = opens.open(path, stage=_STAGE, provider=provider, threads=threads)
        if inputs is not None:
            for _ in range(_RUNS):
                runner.run(inputs)
    except CandidateFailure as failure:
        return {"peak_bytes": None, "failure": failure.reason}
    after = _peak_bytes()
    del runner
    # Where the peak cannot be reset, that of the imports may hide a small file's: then it is not known.
    grown = after - before if after is not None and before is not None else 0
    return {"peak_bytes": grown if grown > 0 else None, "failure": None}


def _reset_peak() -> None:
    """Set the peak to what is resident now, where the operating system can (Linux, proc(5): clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_bytes() -> int | None:
    """Return the most resident memory that this process has had so far."""
    # On Linux not from getrusage, in which the peak of the parent process survives.
    if sys.platform == "linux":
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    print(json.dumps(_answer(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], *map(Path, sys.argv[5:]))))
