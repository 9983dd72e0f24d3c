"""A folder that looks like the root of a Linux system, as far as karui reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_files(root: Path, contents: Mapping[str, str]) -> Path:
    """Write files under a root, their folders made."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def account(ticks: Mapping[int, tuple[int, int]]) -> str:
    """Return ``/proc/stat`` of cores that were busy and idle for so many ticks."""
    lines = [f"cpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0" for core, (busy, idle) in ticks.items()]
    return "\n".join(["cpu 1 2 3 4 5 6 7 8 0 0", *lines, "intr 5"])
