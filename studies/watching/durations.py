"""How long something takes, in words."""

from __future__ import annotations


def describe_seconds(seconds: float) -> str:
    """Return a time in two units at most, such as ``2 h 05 min``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
