"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from .sshd import Sshd, sshd_server

# As the command line does: on a busy machine, torch's threads would otherwise spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What is started in the background ignores Ctrl-C, and so would every search that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A device that ssh reaches: this machine, by a server of its own; skips where none is installed."""
    with sshd_server() as server:
        yield server
