"""A user's program for a ``command`` target, quick enough for tests: a client of a service that measures, as adb is."""

from __future__ import annotations

import argparse
import json
import socketserver
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from karui.errors import CandidateFailure
from karui.evaluators.runtimes.onnxruntime_runner import CPU_PROVIDER, Runner
from karui.evaluators.targets.load_memory import measure_load_peak
from karui.evaluators.targets.program import CANNOT_RUN

CLIENT = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as service:
    service.connect(sys.argv[1])
    service.sendall(json.dumps(sys.argv[2:]).encode() + b"\\n")
    code, out, err = json.loads(service.makefile().readline())
print("a line that is not the answer")
print(out)
print(err, file=sys.stderr)
sys.exit(code)
"""


@contextmanager
def measuring_program(folder: Path) -> Iterator[list[str]]:
    """Yield a command that measures by a service of this process."""
    client, place = folder / "client.py", folder / "service"
    client.write_text(CLIENT)
    with socketserver.ThreadingUnixStreamServer(str(place), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield [sys.executable, "-I", "-S", str(client), str(place)]
        finally:
            server.shutdown()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            told = (0, json.dumps(measure(json.loads(self.rfile.readline()))), "")
        except CandidateFailure as failure:
            told = (CANNOT_RUN, "", failure.reason)
        self.wfile.write(json.dumps(told).encode() + b"\n")


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the program prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--one-at-a-time", action="store_true")
    parser.add_argument("--load-only", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--provider", default=CPU_PROVIDER)
    given = parser.parse_args(arguments)
    begin = time.perf_counter()
    runner = Runner(given.model, stage="latency", provider=given.provider, threads=given.threads)
    load_ms = 1000 * (time.perf_counter() - begin)
    told = {"processor": "of the service", "host": "a thread", "onnxruntime": onnxruntime.__version__}
    if given.load_only:
        peak = _peak_bytes(given.model, given.model.stat().st_mtime_ns, given.provider, given.threads)
        return {"load_ms": load_ms, "load_peak_bytes": peak, "conditions": told}
    inputs = np.load(given.inputs)
    batches = [inputs[row : row + 1] for row in range(len(inputs))] if given.one_at_a_time else [inputs]
    times = [float(np.median([_run_ms(runner, batch) for _ in range(5)])) for batch in batches]
    return {"latency_ms": times if given.one_at_a_time else times[0], "runs": 5, "conditions": told}


@lru_cache
def _peak_bytes(model: Path, mtime_ns: int, provider: str, threads: int) -> int | None:
    return measure_load_peak(model, provider, threads)


def _run_ms(runner: Runner, batch: np.ndarray) -> float:
    begin = time.perf_counter()
    runner.run(batch)
    return 1000 * (time.perf_counter() - begin)
