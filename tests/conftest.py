"""What holds for every test."""

from __future__ import annotations

import os

# As the command line does: on a busy machine, torch's threads would otherwise spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
