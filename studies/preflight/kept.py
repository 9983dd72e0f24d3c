"""What earlier preflights found: one JSON object in the results folder, a key for each thing that was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DAMAGED
from ..storage.folder import write_atomically
from ..storage.reading import read_json


def read_kept(kept: Path | None) -> dict[str, Any]:
    """Return what is kept; nothing where it is missing or broken: it is measured again then."""
    try:
        known = read_json(kept) if kept is not None else {}
    except (OSError, *DAMAGED):
        return {}
    return known if isinstance(known, dict) else {}


def keep(kept: Path | None, key: str, found: dict[str, Any]) -> None:
    """Keep what was found beside what is kept already; nowhere where there is no file for it."""
    if kept is not None:
        write_atomically(kept, json.dumps({**read_kept(kept), key: found}, indent=1).encode())
