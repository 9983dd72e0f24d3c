"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sshd import Sshd, sshd_server

# As the command line does: on a busy machine, torch's threads would otherwise spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# There is a process of tests for each core, and networks this small lose more to the coordination of threads than they
# gain; whatever tests start as processes of their own has one thread as well.
os.environ["OMP_NUM_THREADS"] = "1"
# Where a search measures, all others on the machine wait, by locks in the temporary folder. Tests that run side by side
# would be in each other's way for nothing, and in that of the user's own searches: each process of tests has a folder
# of its own, but for what pytest keeps of failed ones. Others may look into it: a database server is another user.
_SHARED = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_OWN = tempfile.mkdtemp(prefix="karui-tests-", dir=_SHARED)
Path(_OWN).chmod(0o755)
os.environ["TMPDIR"] = tempfile.tempdir = _OWN
_SLOW_SECONDS = 1800
# What is started in the background ignores Ctrl-C, and so would every search that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


def pytest_unconfigure() -> None:
    shutil.rmtree(_OWN, ignore_errors=True)


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A device that ssh reaches: this machine, by a server of its own; skips where none is installed."""
    with sshd_server() as server:
        yield server
