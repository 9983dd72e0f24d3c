"""One connection to a device: the system's ``ssh``, the agent at its other end, and messages between the two."""

from __future__ import annotations

import contextlib
import json
import re
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..errors import KaruiError, TargetUnavailable
from .agent_file import AgentFile, agent_file
from .frames import PROTOCOL, read_frame, skip_to_mark, write_frame

_OPTIONS = (
    # Nobody is there to type a password; keys, jump hosts and the check of host keys stay as the user has them.
    "BatchMode=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ConnectTimeout=20",
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
)
_HELLO_SECONDS = 90.0
_PART_BYTES = 2**20

# Runs on the device before anything else is there: takes the agent from its standard input, checks it, keeps it under
# its digest and becomes it. Nothing in it needs quoting in any shell once it stands between single quotes.
_BOOTSTRAP = """
import hashlib, os, sys
digest, count = sys.argv[1], int(sys.argv[2])
if sys.version_info < (3, 8):
    sys.exit("karui needs Python 3.8 or later, this is " + sys.version.split()[0])
content = b""
while len(content) < count:
    part = os.read(0, count - len(content))
    if part == b"":
        sys.exit("the agent did not come whole")
    content += part
if hashlib.sha256(content).hexdigest() not in (digest,):
    sys.exit("the agent came changed")
folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "karui-device")
os.makedirs(folder, mode=0o700, exist_ok=True)
path = os.path.join(folder, "agent-" + digest[:16] + ".pyz")
for name in os.listdir(folder):
    old = os.path.join(folder, name)
    if name.startswith("agent-") and os.path.getmtime(old) < __import__("time").time() - 30 * 86400:
        os.unlink(old)
part = path + "." + str(os.getpid()) + ".part"
with open(part, "wb") as file:
    file.write(content)
os.replace(part, path)
os.execv(sys.executable, [sys.executable, path, digest])
"""

_FOR_THE_USER = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|No \S+ host key is known", "host key"),
    (r"Permission denied|Too many authentication failures|no mutual signature", "login"),
    (r"Bad configuration option|Can't open user config file|no argument after keyword|bad configuration", "settings"),
)
_REMEDIES = {
    "host key": "connect once by hand (ssh HOST) and check the key's fingerprint; where the device was set up anew, "
    "remove the old key with ssh-keygen -R HOST",
    "login": "make `ssh HOST true` work without a password: ssh-copy-id HOST",
    "settings": "correct the ssh settings",
}
_HOST = re.compile(r"(?!-)[^\s'\"`$\\;&|<>(){}*?!#~%\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Device:
    """How to reach a device.

    Args:
        name: The target's name, for messages.
        host: As ``ssh`` takes it: a name, an address or an alias, perhaps after ``user@``.
        python: The interpreter there that has numpy and onnxruntime.
        ssh_config: File that ssh reads instead of the user's own settings.

    Raises:
        KaruiError: Where the host cannot be one.
    """

    name: str
    host: str
    python: str = "python3"
    ssh_config: Path | None = None

    def __post_init__(self) -> None:
        if (fault := fault_of_host(self.host)) is not None:
            raise KaruiError(f"the host of target {self.name} {fault}", where="host", got=repr(self.host))
        if not self.python or self.python.startswith("-") or "\x00" in self.python:
            raise KaruiError(f"the python of target {self.name} is no program", where="python", got=repr(self.python))

    def command(self, agent: AgentFile) -> list[str]:
        """Return the command that connects and starts the agent there.

        Its last argument is what a shell on the device runs: every word of it is quoted.
        """
        options = [part for option in _OPTIONS for part in ("-o", option)]
        config = [] if self.ssh_config is None else ["-F", str(self.ssh_config)]
        bootstrap = f"exec({json.dumps(_BOOTSTRAP)})"
        remote = shlex.join([self.python, "-c", bootstrap, agent.digest, str(len(agent.content))])
        return ["ssh", "-T", "-x", "-a", *config, *options, "--", self.host, remote]


def fault_of_host(host: str) -> str | None:
    """Say what is wrong with a host; None where ssh may be given it.

    Host and user also stand for ``%h`` and ``%r`` in users' own ``ProxyCommand`` lines, which a shell runs
    (CVE-2023-51385), so that what means something to a shell is refused.
    """
    if not host:
        return "is empty"
    user, _, name = host.rpartition("@")
    if name.startswith("-") or user.startswith("-"):
        return "begins with a dash, which ssh would take for an option"
    if _HOST.fullmatch(host) is None or not name:
        return "has characters that no host or user has"
    return None


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
            self._write(agent.content)
            if not select.select([self._incoming], [], [], _HELLO_SECONDS)[0]:
                raise TimeoutError(f"nothing came within {_HELLO_SECONDS:g} s")
            skip_to_mark(self._incoming)
            hello, _ = read_frame(self._incoming)
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
        with self._explained("measuring"):
            if attached is None:
                write_frame(self._outgoing, request)
            else:
                with attached.open("rb") as file:
                    write_frame(self._outgoing, request, attached.stat().st_size)
                    for part in iter(lambda: file.read(_PART_BYTES), b""):
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
            remedy="check that it is switched on and reached: ssh HOST true",
        )


_SSH_ITSELF = 255
_NO_PYTHON = (126, 127)


def _tail(stream: IO[bytes]) -> str:
    stream.seek(0)
    text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not set(line.strip()) <= {"@"}]
    return " / ".join(lines)[-700:]
