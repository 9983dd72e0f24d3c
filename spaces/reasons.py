"""Reasons why an axis leaves layers alone, in brackets behind what it reaches."""

from __future__ import annotations

MOST_REASONS = 4
"""Layers that are named one by one; of more, the rest is counted."""


def listed(reasons: tuple[str, ...]) -> str:
    """Return the reasons in brackets, with a space before them; nothing where there are none."""
    if not reasons:
        return ""
    more = f"; {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return f" (not {'; not '.join(reasons[:MOST_REASONS])}{more})"
