"""A real sshd on loopback with keys of its own, as the device that ssh targets measure on."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ALIAS = "device"


@dataclass
class Sshd:
    """A server, and how to reach it.

    Args:
        program: Path of sshd.
        folder: Keys, settings, and what the device has of files.
        port: Its port on 127.0.0.1.
    """

    program: str
    folder: Path
    port: int

    def start(self) -> None:
        """Start it; it keeps its keys and its port."""
        command = [self.program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _wait_for(self.port, self.process)

    def stop(self) -> None:
        """End it with all of its connections, as a device that is switched off."""
        for pid in _descendants(self.process.pid):
            _kill(pid)
        self.process.kill()
        self.process.wait()

    @property
    def config(self) -> Path:
        """Settings of a client that knows the server's key and has one that it takes."""
        return self.folder / "ssh_config"

    @property
    def cache(self) -> Path:
        """Where the agent keeps files."""
        return self.folder / "cache" / "karui-device"

    def config_with(self, name: str, **changed: str) -> Path:
        """Return other settings of a client."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / "user_key"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "none",
            **changed,
        }
        lines = [f"Host {ALIAS}", *(f'  {key} "{value}"' for key, value in settings.items())]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def cut(self) -> None:
        """End all connections as a network that fails does: what they have started is not told to stop."""
        for pid in _descendants(self.process.pid):
            if _name(pid).startswith("sshd"):
                _kill(pid)

    def measuring_processes(self) -> list[int]:
        """Return the processes that measure on the device."""
        return [pid for pid in _descendants(self.process.pid) if "device_worker" in _arguments(pid)]


def _descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    children = [int(word) for word in found.stdout.split()]
    return [*children, *(each for child in children for each in _descendants(child))]


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def _arguments(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def sshd_server() -> Iterator[Sshd]:
    """Start a server as the current user; all of it is gone afterwards. Skips where none is installed."""
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if server is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd, ssh and ssh-keygen here: install openssh-server and openssh-client")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd separates privileges
    with tempfile.TemporaryDirectory(prefix="karui-sshd-") as name:
        folder = Path(name)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "tmp").mkdir()
        port = _free_port()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
        (folder / "sshd_config").write_text(_settings(folder, port))
        found = Sshd(server, folder, port)
        found.config_with("ssh_config")
        found.start()
        try:
            yield found
        finally:
            found.stop()


def _settings(folder: Path, port: int) -> str:
    environment = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin TMPDIR={folder / 'tmp'}"
    return f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {folder / "host_key"}
AuthorizedKeysFile {folder / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv {environment} XDG_CACHE_HOME={folder / "cache"} OMP_NUM_THREADS=1
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.skip("sshd does not start here")
