"""What can go wrong between karui and a device, with a real sshd and the real agent."""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

import karui
from karui.errors import CandidateFailure, KaruiError, TargetUnavailable
from karui.evaluators.targets.agent_file import agent_file, shipped_modules
from karui.evaluators.targets.device_lock import LOCK_NAME
from karui.evaluators.targets.frames import MARK, read_frame, skip_to_mark, write_frame
from karui.evaluators.targets.quarantine import Quarantine
from karui.evaluators.targets.ssh import SshTarget
from karui.evaluators.targets.ssh_connection import Connection
from karui.evaluators.targets.ssh_device import Device
from karui.evaluators.timing.alternating import TimingSettings
from karui.spaces.artifact import Artifact

from ..sshd import ALIAS, Sshd
from .conftest import MakeArtifact

INPUTS = np.ones((2, 3), np.float32)
QUICK = TimingSettings(min_blocks=4, max_blocks=4, max_seconds=0.01, min_block_ms=0.01)
LONG = TimingSettings(min_blocks=2000, max_blocks=2000, min_block_ms=50.0)
MODULES = Path(str(karui.__file__)).parent

MakeTarget = Callable[..., SshTarget]


@pytest.fixture
def make_target(sshd: Sshd) -> Iterator[MakeTarget]:
    made: list[SshTarget] = []

    def make(**changed: Any) -> SshTarget:
        options = {"host": ALIAS, "name": "pi5", "python": sys.executable, "ssh_config": sshd.config, **changed}
        made.append(SshTarget(**options))
        return made[-1]

    yield make
    for target in made:
        target.close()


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def wait_until(holds: Callable[[], object]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it never came to that")


@contextmanager
def device_lock(server: Sshd) -> Iterator[None]:
    """Hold the device's lock as another study does; fails where it is held."""
    with (server.folder / "tmp" / LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_free(server: Sshd) -> bool:
    try:
        with device_lock(server):
            return True
    except BlockingIOError:
        return False


@contextmanager
def measuring(server: Sshd, target: SshTarget | Quarantine, artifact: Artifact) -> Iterator[Future[Any]]:
    """Measure for long in the background; yield once the device is at it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(target.time_pair, artifact.path, artifact.path, INPUTS, LONG)
        wait_until(lambda: future.done() or server.measuring_processes())
        yield future


def test_a_connection_cut_in_the_middle_is_told_and_leaves_the_device_free(
    make_target: MakeTarget, sshd: Sshd, scaling: Artifact
) -> None:
    target = make_target()
    with measuring(sshd, target, scaling) as future:
        assert not is_free(sshd)
        sshd.cut()
        with pytest.raises(TargetUnavailable, match="connection to target pi5 ended while measuring"):
            future.result()
    wait_until(lambda: is_free(sshd) and not sshd.measuring_processes())
    assert target.time_pair(scaling.path, scaling.path, INPUTS, QUICK).pairs == 4


def test_a_measurement_that_was_cut_off_is_made_again(make_target: MakeTarget, sshd: Sshd, scaling: Artifact) -> None:
    paused: list[float] = []
    told: list[str] = []
    target = Quarantine(make_target(), told.append, sleep=paused.append)

    def cut_once() -> None:
        wait_until(sshd.measuring_processes)
        sshd.cut()

    thread = threading.Thread(target=cut_once)
    thread.start()
    settings = TimingSettings(min_blocks=20, max_blocks=20, min_block_ms=20.0)
    assert target.time_pair(scaling.path, scaling.path, INPUTS, settings).pairs == 20
    thread.join()
    assert len(paused) >= 1
    assert told[0] == "pi5 does not answer, trying again in 1 s"


def test_a_file_that_ends_the_process_costs_that_candidate_only(
    make_target: MakeTarget, sshd: Sshd, make_scaling: MakeArtifact
) -> None:
    one, other = make_scaling(1.0, name="one.onnx"), make_scaling(2.0, name="other.onnx")
    target = make_target()
    with ThreadPoolExecutor(1) as pool:
        for candidate, error, told in (
            (other, CandidateFailure, r"^latency: the process that ran it on pi5 was ended by signal 9"),
            (one, KaruiError, r"(?s)the reference cannot be run.*ended by signal 9"),
        ):
            future = pool.submit(target.time_pair, one.path, candidate.path, INPUTS, LONG)
            wait_until(sshd.measuring_processes)
            os.kill(sshd.measuring_processes()[0], signal.SIGKILL)
            with pytest.raises(error, match=told):
                future.result()
    assert target.time_pair(one.path, other.path, INPUTS, QUICK).pairs == 4


def test_files_are_sent_once_for_each_content(
    make_target: MakeTarget, make_scaling: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    ask = Connection.ask

    def recording(self: Connection, request: Any, *arguments: Any) -> Any:
        sent.extend([request["name"]] if request["do"] == "put" else [])
        return ask(self, request, *arguments)

    monkeypatch.setattr(Connection, "ask", recording)
    one, other = make_scaling(31.0, name="one.onnx"), make_scaling(32.0, name="other.onnx")
    inputs = np.full((2, 3), 33.0, np.float32)
    for target in (make_target(), make_target()):
        for _ in range(2):
            target.time_pair(one.path, other.path, inputs, QUICK)
            target.time_load_pair(one.path, other.path, QUICK)
    assert sorted(name for name in sent if name.endswith("onnx")) == sorted(
        f"{item.digest}.onnx" for item in (one, other)
    )
    assert sum(name.endswith("npy") for name in sent) == 1


def test_a_full_disk_is_no_fault_of_the_candidate(
    make_target: MakeTarget, make_scaling: MakeArtifact, tmp_path: Path
) -> None:
    # As on a disk of which so much is free: no file there can have more than 150 KB.
    limited = script(
        tmp_path / "python",
        f"#!{sys.executable}\nimport os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n",
    )
    target = make_target(python=limited)
    small, large = make_scaling(41.0, name="small.onnx"), tmp_path / "large.onnx"
    large.write_bytes(small.path.read_bytes() + b"\0" * 400_000)
    with pytest.raises(TargetUnavailable, match=r"(?s)target pi5 has no room for a file.*File too large"):
        target.time_pair(small.path, large, INPUTS, QUICK)
    assert target.time_pair(small.path, small.path, INPUTS, QUICK).pairs == 4


def test_an_agent_of_another_version_is_refused(make_target: MakeTarget, scaling: Artifact, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        f"import sys; sys.path.insert(0, {str(MODULES / 'evaluators' / 'targets')!r}); import frames\n"
        "out = sys.stdout.buffer; out.write(frames.MARK)\n"
        "frames.write_frame(out, {'protocol': 0, 'digest': 'feed'}); sys.stdin.read()\n"
    )
    old = script(tmp_path / "python", f"#!/bin/sh\nexec {sys.executable} {tmp_path}/old.py\n")
    with pytest.raises(KaruiError, match=r"(?s)not this karui's.*got: protocol 0, sha256 feed") as raised:
        make_target(python=old).time_pair(scaling.path, scaling.path, INPUTS, QUICK)
    assert not isinstance(raised.value, TargetUnavailable)


@pytest.mark.parametrize("known", ["another key", "no key"])
def test_a_device_whose_key_is_not_the_known_one_gets_nothing(
    make_target: MakeTarget, sshd: Sshd, scaling: Artifact, known: str
) -> None:
    hosts = sshd.folder / "other_hosts"
    key = (sshd.folder / "user_key.pub").read_text()
    hosts.write_text(f"[127.0.0.1]:{sshd.port} {key}" if known == "another key" else "")
    config = sshd.config_with("other_config", UserKnownHostsFile=str(hosts))
    with pytest.raises(KaruiError, match=r"(?s)does not let karui onto.*Host key.*fingerprint") as raised:
        make_target(ssh_config=config).time_pair(scaling.path, scaling.path, INPUTS, QUICK)
    assert not isinstance(raised.value, TargetUnavailable)
    assert hosts.read_text() == ("" if known == "no key" else f"[127.0.0.1]:{sshd.port} {key}")


def test_a_key_that_the_device_does_not_take_is_told(make_target: MakeTarget, sshd: Sshd, scaling: Artifact) -> None:
    config = sshd.config_with("stranger", IdentityFile=str(sshd.folder / "host_key"), IdentityAgent="none")
    with pytest.raises(KaruiError, match=r"(?s)Permission denied.*ssh-copy-id"):
        make_target(ssh_config=config).time_pair(scaling.path, scaling.path, INPUTS, QUICK)


@pytest.mark.parametrize("changed", [{"HostName": "no-such-host.invalid"}, {"Port": "1"}])
def test_a_device_that_is_not_there_is_unavailable(
    make_target: MakeTarget, sshd: Sshd, scaling: Artifact, changed: dict[str, str]
) -> None:
    config = sshd.config_with("nowhere", **changed)
    with pytest.raises(TargetUnavailable, match=r"(?s)ended while connecting.*(resolve hostname|Connection refused)"):
        make_target(ssh_config=config).conditions()


def test_two_studies_on_one_device_take_turns(make_target: MakeTarget, sshd: Sshd, scaling: Artifact) -> None:
    told: list[str] = []
    target = make_target(tell=told.append)
    with ThreadPoolExecutor(1) as pool:
        with device_lock(sshd):
            future = pool.submit(target.time_pair, scaling.path, scaling.path, INPUTS, QUICK)
            wait_until(lambda: told)
            assert not sshd.measuring_processes()
            assert not future.done()
        assert future.result().pairs == 4
    assert told == ["waiting for device pi5"]
    assert is_free(sshd)


def test_a_device_without_that_python_says_so(make_target: MakeTarget) -> None:
    with pytest.raises(KaruiError, match=r"(?s)no such python.*expected: no-such-python, Python 3.8"):
        make_target(python="no-such-python").conditions()


def test_a_python_without_onnxruntime_says_so(make_target: MakeTarget, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(KaruiError, match=r"(?s)lacks what measuring needs.*No module named 'numpy'.*pip install"):
        make_target(python=str(tmp_path / "bare" / "bin" / "python")).conditions()


def test_a_provider_that_the_device_lacks_is_told_with_its_target(make_target: MakeTarget) -> None:
    with pytest.raises(KaruiError, match=r"(?s)no such execution provider.*target pi5.*CPUExecutionProvider"):
        make_target(provider="AbacusExecutionProvider").conditions()


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch pwned",
        "me@-oProxyCommand=touch",
        "-me@host",
        "host; touch pwned",
        "$(touch pwned)",
        "`touch pwned`@host",
        "me@host name",
        "host\nname",
        "a'b",
        "",
        "me@",
    ],
)
def test_what_is_no_host_never_comes_near_ssh(host: str) -> None:
    with pytest.raises(KaruiError, match="the host of target pi5"):
        SshTarget(host, name="pi5")


@pytest.mark.parametrize("host", ["raspberrypi.local", "pi@raspberrypi.local", "my_alias", "fe80::1", "me@10.0.0.7"])
def test_a_host_is_one_argument_behind_the_options(host: str) -> None:
    command = Device("pi5", host).command(agent_file())
    assert command[-3:-1] == ["--", host]
    assert "BatchMode=yes" in command
    assert not any("StrictHostKeyChecking" in part for part in command)


def test_a_path_is_never_run_by_the_devices_shell(make_target: MakeTarget, tmp_path: Path) -> None:
    made = tmp_path / "pwned"
    for python in (f"$(touch {made})", f"true; touch {made};", f"x' ; touch {made} ; '", f"`touch {made}`"):
        with pytest.raises(KaruiError, match="no such python"):
            make_target(python=python).conditions()
    assert not made.exists()


def test_what_a_login_script_prints_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "printed"
    with path.open("wb") as stream:
        stream.write(b"Welcome!\n\0karui\n" + MARK)
        write_frame(stream, {"a": [1, "x"]}, 7)
    with path.open("rb") as stream:
        skip_to_mark(stream)
        assert read_frame(stream) == ({"a": [1, "x"]}, 7)
        with pytest.raises(EOFError, match="ended"):
            read_frame(stream)
    path.write_bytes(b"x" * 100_000)
    with path.open("rb") as stream, pytest.raises(ValueError, match="prints and prints"):
        skip_to_mark(stream)


def test_what_is_sent_needs_numpy_and_onnxruntime_only() -> None:
    allowed = {"karui", "numpy", "onnxruntime", *sys.stdlib_module_names}
    for name in shipped_modules():
        tree = ast.parse((MODULES / name).read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                # Within a function: only where it is asked for, which it never is behind ssh.
                later = set() if node in tree.body else {"openvino", "filelock"}
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed | later, name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] in allowed, name
    assert {"evaluators/timing/alternating.py", "evaluators/timing/over_inputs.py", "evaluators/targets/local.py"} <= {
        *shipped_modules()
    }


@pytest.fixture
def old_python() -> str:
    """The oldest Python from 3.8 on that runs here; skips where there is none older than ours has to be."""
    for minor in range(8, 11):
        path = which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip("no Python 3.8, 3.9 or 3.10 here")


def test_an_old_python_loads_all_that_is_sent(old_python: str, tmp_path: Path) -> None:
    archive = tmp_path / "agent.pyz"
    archive.write_bytes(agent_file().content)
    modules = [name.removesuffix(".py").replace("/", ".") for name in shipped_modules()]
    # It need not have numpy and onnxruntime: what is asked is whether our own modules can be loaded.
    code = f"""
import sys
from unittest.mock import MagicMock
sys.path.insert(0, {str(archive)!r})
for name in ("numpy", "numpy.typing", "onnxruntime", "onnxruntime.capi"):
    sys.modules[name] = MagicMock()
from karui.evaluators.targets.device_worker import mended_python
with mended_python():
    for name in {modules!r}:
        __import__("karui." + name)
import hashlib, io
print(hashlib.file_digest(io.BytesIO(b"abc"), "sha256").hexdigest()[:8])
"""
    loaded = subprocess.run([old_python, "-c", code], capture_output=True, text=True, check=False)
    assert (loaded.stdout, loaded.stderr) == ("ba7816bf\n", ""), "SHA-256 of abc, FIPS 180-2, appendix B.1"
    hello = subprocess.run([old_python, archive, "feed"], input=b"", capture_output=True, check=True).stdout
    with (tmp_path / "hello").open("w+b") as stream:
        stream.write(hello)
        stream.seek(0)
        skip_to_mark(stream)
        assert read_frame(stream)[0]["digest"] == "feed"
