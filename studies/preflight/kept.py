"""What earlier preflights found: one JSON object in the results folder, a key for each thing that was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_kept(kept: Path | None) -> dict[str, Any]:
    """Return what is kept; nothing where it is missing or broken: it is measured again then."""
    try:
        known = json.loads(kept.read_text(encoding="utf-8")) if kept is not None else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
