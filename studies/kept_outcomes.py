"""What was measured of each file, kept on disk: no file is measured twice, in whatever process of whatever search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..search.outcome import Outcome
from .folder import write_atomically


class KeptOutcomes:
    """Outcomes by the digest of the file that was measured.

    Args:
        folder: Where they are kept.
        conditions: What else they depend on, JSON types; those of other conditions are not found.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        plain = json.dumps(conditions, sort_keys=True)
        self._folder = folder / hashlib.sha256(plain.encode()).hexdigest()[:16]

    def get(self, digest: str) -> Outcome | None:
        """Return what was measured of a file; None where nothing was, or what was kept cannot be read."""
        try:
            return Outcome.from_dict(json.loads(self._path(digest).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # it is measured again, then

    def keep(self, outcome: Outcome) -> None:
        """Keep what was measured, whole or not at all."""
        if self.get(outcome.digest) is None:  # what was measured first stays
            write_atomically(self._path(outcome.digest), json.dumps(outcome.to_dict()).encode())

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"
