"""What a candidate was made of otherwise than asked for, told in sentences that stay with its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from .artifact import write_bytes

Note = Callable[[str], None]
"""Is told one plain sentence, which names layers or operators and the reason."""

NOTES = "notes.json"
"""The file of an entry of the cache that keeps what was told while it was made."""


def untold(_sentence: str) -> None:
    """Take a note and keep it nowhere."""


def write_notes(notes: Sequence[str], folder: Path) -> None:
    """Keep notes beside what they are about; nothing is written where there are none."""
    if notes:
        write_bytes(json.dumps(list(notes)).encode(), folder / NOTES)


def read_notes(folder: Path) -> tuple[str, ...]:
    """Return the notes that are kept in a folder."""
    path = folder / NOTES
    return tuple(json.loads(path.read_bytes())) if path.exists() else ()
