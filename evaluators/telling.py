"""Who is told what a target waits for."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]
"""Is told in a few words."""


def tell_nobody(text: str) -> None:
    """Tell nobody."""
