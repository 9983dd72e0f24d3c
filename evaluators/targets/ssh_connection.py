"""One connection to a device: the system's ``ssh``, the agent at its other end, and messages between the two."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

from ...errors import KaruiError, TargetUnavailable
from .agent_file import AgentFile, agent_file
from .frames import PROTOCOL, read_frame, skip_to_mark, write_frame
from .ssh_device import Device

_HELLO_SECONDS = 90.0
_PART_BYTES = 2**20

_FOR_THE_USER = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|No \S+ host key is known", "host key"),
    (r"Permission denied|Too many authentication failures|no mutual signature", "login"),
    (r"Bad configuration option|Can't open user config file|no argument after keyword|bad configuration", "settings"),
)
_REMEDIES = {
    "host key": "connect once by hand (ssh HOST) and check the key's fingerprint; where the device was set up anew, "
    "remove the old key with ssh-keygen -R HOST",
    "login": "make `ssh HOST true` work without a password, by `ssh-copy-id HOST`",
    "settings": "correct the ssh settings",
}


class Connection:
    """A process of ssh with the agent at its other end.

    Args:
        device: Where to connect to.

    Raises:
        TargetUnavailable: Where the device does not answer.
        KaruiError: Where it does, and something has to be put right.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        agent = agent_file()
        try:
            self._process = subprocess.Popen(
                device.command(agent), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except FileNotFoundError as error:
            raise KaruiError(
                "there is no ssh client on this machine", where=f"target {device.name}", remedy="install OpenSSH"
            ) from error
        try:
            self._begin(agent)
        except BaseException:
            self.close()
            raise

    def _begin(self, agent: AgentFile) -> None:
        with self._explained("connecting"):
            overdue = threading.Timer(_HELLO_SECONDS, self._process.kill)
            overdue.start()
            try:
                self._write(agent.content)
                skip_to_mark(self._incoming)
                hello, _ = read_frame(self._incoming)
            finally:
                overdue.cancel()
        if hello.get("protocol") != PROTOCOL or hello.get("digest") != agent.digest:
            raise KaruiError(
                "the agent that answers on the device is not this karui's",
                where=self._place,
                expected=f"protocol {PROTOCOL}, sha256 {agent.digest[:16]}…",
                got=f"protocol {hello.get('protocol')}, sha256 {str(hello.get('digest'))[:16]}…",
                remedy="check what `python` of that target runs on the device",
            )

    def ask(self, request: Any, attached: Path | None = None, waits: Callable[[], None] = lambda: None) -> Any:
        """Send a request, with a file behind it where one is given, and return the answer.

        Args:
            request: JSON types only.
            attached: The file.
            waits: Called where the device is being used by somebody else.

        Raises:
            TargetUnavailable: Where the connection has ended.
        """
        with contextlib.ExitStack() as stack:
            # A file that is missing here is no fault of the device's.
            file = None if attached is None else stack.enter_context(attached.open("rb"))
            stack.enter_context(self._explained("measuring"))
            write_frame(self._outgoing, request, 0 if attached is None else attached.stat().st_size)
            while file is not None and (part := file.read(_PART_BYTES)):
                self._write(part)
            answer, _ = read_frame(self._incoming)
            while isinstance(answer, dict) and answer.get("waiting"):
                waits()
                answer, _ = read_frame(self._incoming)
        return answer

    def close(self) -> None:
        """End the connection, and with it the agent."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._process.kill()
        self._process.wait()
        self._errors.close()

    @property
    def _place(self) -> str:
        return f"target {self._device.name}, host {self._device.host}"

    @property
    def _incoming(self) -> BinaryIO:
        return self._process.stdout  # type: ignore[return-value]

    @property
    def _outgoing(self) -> BinaryIO:
        return self._process.stdin  # type: ignore[return-value]

    def _write(self, content: bytes) -> None:
        while content:
            content = content[self._outgoing.write(content) :]

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Any:
        try:
            yield
        except (EOFError, OSError, ValueError) as error:
            raise self._lost(doing, error) from error

    def _lost(self, doing: str, error: Exception) -> KaruiError:
        """Return the error for a connection that has ended, told by what ssh said and how it ended."""
        code = None
        if isinstance(error, (EOFError, BrokenPipeError)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5.0)
        said = _tail(self._errors)
        for pattern, kind in _FOR_THE_USER:
            if code == _SSH_ITSELF and re.search(pattern, said):
                return KaruiError(
                    "ssh does not let karui onto the device", where=self._place, got=said, remedy=_REMEDIES[kind]
                )
        if code in _NO_PYTHON:
            return KaruiError(
                "the device has no such python",
                where=self._place,
                expected=f"{self._device.python}, Python 3.8 or later with numpy and onnxruntime",
                got=said,
                remedy="install it there, or say `python` in that target",
            )
        if "karui needs Python" in said:
            return KaruiError("the device's python is too old", where=self._place, got=said, remedy="name a newer one")
        return TargetUnavailable(
            f"the connection to target {self._device.name} ended while {doing}",
            where=self._place,
            got=said or str(error),
            remedy=f"check that it is switched on and reached: ssh {shlex.quote(self._device.host)} true",
        )


_SSH_ITSELF = 255
_NO_PYTHON = (126, 127)


def _tail(stream: IO[bytes]) -> str:
    stream.seek(0)
    text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not set(line.strip()) <= {"@"}]
    return " / ".join(lines)[-700:]
