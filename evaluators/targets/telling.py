"""Who is told what a target waits for."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]
"""Is told in a few words."""


FOR_DEVICE = "waiting for device"
"""What is told begins with this where somebody else measures on the device."""


def tell_nobody(text: str) -> None:
    """Tell nobody."""
