"""The agent on a device: keeps files, holds the device's lock, and has a process of its own measure.

Sent to the device in one file together with the modules that it imports, and run by ``python3``: Python 3.8, numpy and
onnxruntime have to do. It speaks over its standard streams with :mod:`karui.evaluators.targets.ssh_connection`, lives
as long as that connection, and what measures lives no longer. Measuring is done by a second process, so that a file
that takes all memory or crashes the runtime costs that process only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from .device_files import DeviceFiles
from .device_lock import DeviceLock
from .frames import MARK, PROTOCOL, read_frame, write_frame

_LOOKS_EVERY_SECONDS = 0.2
_SILENT_SECONDS = 120.0
"""So long may the other side say nothing while it holds the lock: its connection may be gone without an end."""


_SECONDS_TO_END = 5.0


class Gone(Exception):
    """The other side is gone, so nobody needs this process."""


class Agent:
    """Answers one connection.

    Args:
        incoming: File number that messages come from.
        outgoing: Stream that answers go to.
        files: What is kept on this device.
        lock: Keeps others from measuring here.
        archive: The file that this program was sent as.
        digest: SHA-256 of that file.
    """

    def __init__(
        self, incoming: int, outgoing: Any, files: DeviceFiles, lock: DeviceLock, archive: Path, digest: str
    ) -> None:
        self._incoming = incoming
        self._stream = os.fdopen(incoming, "rb", 0, closefd=False)
        self._outgoing = outgoing
        self._files = files
        self._archive = archive
        self._digest = digest
        self._lock = lock
        self._holds = False
        self._worker: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Say hello, and answer until the other side is gone."""
        self._outgoing.write(MARK)
        write_frame(
            self._outgoing, {"protocol": PROTOCOL, "digest": self._digest, "python": sys.version.split(maxsplit=1)[0]}
        )
        operations = {"lock": self._take_lock, "unlock": self._let_go, "put": self._put, "measure": self._measure}
        try:
            while True:
                if self._holds:
                    self._wait(_SILENT_SECONDS)
                request, attached_bytes = read_frame(self._stream)
                write_frame(self._outgoing, operations[request["do"]](request, attached_bytes))
        except (Gone, EOFError, OSError):
            return
        finally:
            if self._worker is not None:
                self._worker.kill()

    def _wait(self, seconds: float) -> None:
        if not select.select([self._incoming], [], [], seconds)[0]:
            raise Gone

    def _take_lock(self, request: Any, attached_bytes: int) -> Any:  # noqa: ARG002
        if not self._lock.take():
            write_frame(self._outgoing, {"waiting": True})
            while not self._lock.take():
                # Who waits says nothing, so whatever comes is the end.
                if select.select([self._incoming], [], [], _LOOKS_EVERY_SECONDS)[0]:
                    raise Gone
        self._holds = True
        self._files.clean()
        return {"done": True, "word": self._lock.word}

    def _let_go(self, request: Any, attached_bytes: int) -> Any:  # noqa: ARG002
        self._lock.let_go()
        self._holds = False
        return {"done": True}

    def _put(self, request: Any, attached_bytes: int) -> Any:
        try:
            self._files.put(request["name"], self._stream, attached_bytes, request["needed"])
        except OSError as error:
            return {"full": str(error)}
        return {"done": True}

    def _measure(self, request: Any, attached_bytes: int) -> Any:  # noqa: ARG002
        missing = self._files.missing(request["files"].values())
        if missing:
            return {"missing": missing}
        paths = {role: str(self._files.path(name)) for role, name in request["files"].items()}
        if self._worker is None:
            self._worker = self._start_worker(request["options"])
        told, answers = self._worker.stdin, self._worker.stdout
        if told is None or answers is None:
            raise ValueError("the measuring process has no pipes")
        with contextlib.suppress(BrokenPipeError):
            told.write(json.dumps({**request, "files": paths}).encode() + b"\n")
            told.flush()
        # Who waits for an answer says nothing, so whatever comes meanwhile is the end.
        if self._incoming in select.select([self._incoming, answers.fileno()], [], [])[0]:
            raise Gone
        line = answers.readline()
        return json.loads(line.decode()) if line else {"died": self._bury(self._worker)}

    def _start_worker(self, options: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(self._archive)}  # what measures memory is a process of its own
        command = [sys.executable, "-m", f"{__package__}.device_worker", json.dumps(options)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=str(self._archive.parent)
        )

    def _bury(self, worker: subprocess.Popen[bytes]) -> str:
        """Return in words how the measuring process ended."""
        self._worker = None
        try:
            code = worker.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = worker.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended by itself with exit code {code}"


def main(archive: str, digest: str) -> None:
    """Serve one connection over the standard streams.

    Args:
        archive: The file that this program is in.
        digest: Its SHA-256.
    """
    incoming, outgoing = os.dup(0), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not mix with the messages
    path = Path(archive)
    files, lock = DeviceFiles(path.parent / "files"), DeviceLock(path.parent)
    Agent(incoming, outgoing, files, lock, path, digest).serve()
