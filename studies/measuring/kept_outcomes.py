"""What was measured of each file, kept on disk: no file is measured twice, in whatever process of whatever search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import DAMAGED
from ...search.outcome import Outcome
from ..storage.folder import write_atomically
from ..storage.reading import read_json


class KeptOutcomes:
    """Outcomes by the digest of the file that was measured.

    Args:
        folder: Where they are kept.
        settings: What they mean: how is measured, and against what; JSON types.
        target: What makes the target another one, see :class:`~karui.evaluators.targets.target.Target`; JSON types.
            What was measured with other settings or on another target is not found.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        plain = json.dumps({"settings": settings, "target": target}, sort_keys=True)
        self._target = target
        self._folder = folder / hashlib.sha256(plain.encode()).hexdigest()[:16]

    def get(self, digest: str) -> Outcome | None:
        """Return what was measured of a file; None where nothing was, or what was kept cannot be read."""
        try:
            return Outcome.from_dict(read_json(self._path(digest)))
        except (FileNotFoundError, *DAMAGED):
            return None  # it is measured again, then

    def keep(self, outcome: Outcome) -> None:
        """Keep what was measured, whole or not at all; what another target has measured is not kept."""
        if not self._is_of_this_target(outcome):
            return
        if self.get(outcome.digest) is None:  # what was measured first stays
            write_atomically(self._path(outcome.digest), json.dumps(outcome.to_dict()).encode())

    def _is_of_this_target(self, outcome: Outcome) -> bool:
        """Say so by the conditions of its latency; what they do not name is taken to be the same."""
        latency = outcome.measurements.get("latency_ms")
        noted = latency.conditions if latency is not None else {}
        return all(noted.get(key, value) == value for key, value in self._target.items())

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"
