"""A device that ssh reaches: who may be one, and the command that starts the agent there."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ...errors import KaruiError
from .agent_file import AgentFile

_OPTIONS = (
    # Nobody is there to type a password; keys, jump hosts and the check of host keys stay as the user has them.
    "BatchMode=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ConnectTimeout=20",
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
)

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
